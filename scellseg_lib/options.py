"""Options tell themselves: library, command line and workbench read the same bounds and help."""

from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from scellseg_lib.errors import OptionError


class Options(BaseModel):
    """Base of all options: fields say their bounds and help; OptionError for another value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def __init__(self, **values: Any) -> None:
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
        try:
            super().__init__(**plain)
        except ValidationError as error:
            first = error.errors()[0]
            name, remedy = str(first["loc"][0]), f"{first['msg']}."
            if name not in type(self).model_fields:
                remedy = f"There are: {', '.join(type(self).model_fields)}."
            given = {name: first["input"]}
            raise OptionError(f"{{{name}}} is not allowed", remedy=remedy, options=given) from None

    def change(self, **values: Any) -> Self:
        """Return a copy with other values, which are checked; None leaves one as it is."""
        given = {name: value for name, value in values.items() if value is not None}
        return type(self)(**self.model_dump() | given)

    @classmethod
    def describe(cls, name: str) -> dict[str, Any]:
        """JSON schema of an option: description, default, type, minimum, maximum, enum (words)."""
        schema: dict[str, Any] = cls.model_json_schema()["properties"][name]
        return schema | schema.get("anyOf", [{}])[0]  # the rest of it is "or None"
