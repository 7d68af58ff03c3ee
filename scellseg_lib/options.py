"""Options tell themselves: library, command line and workbench read the same bounds and help."""

from typing import Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from scellseg_lib.errors import ScellsegError


class Options(BaseModel):
    """Base of all options; they do not change once they are made.

    A field says its bounds with ``Field(ge=..., le=...)`` and its help in the docstring below it.
    What is not allowed raises the error of the class, ``refused``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
    refused: ClassVar[type[ScellsegError]] = ScellsegError

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise self._refusal(str(first["loc"][0]), first["input"]) from None

    @model_validator(mode="before")
    @classmethod
    def _take_numpy(cls, values: Any) -> Any:
        """Numbers of NumPy are numbers."""
        if not isinstance(values, dict):  # options that are made already
            return values
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, which are checked."""
        return type(self)(**self.model_dump() | values)

    @classmethod
    def describe(cls, name: str) -> dict[str, Any]:
        """JSON schema of an option: description, default, type, minimum, maximum, enum (words)."""
        schema: dict[str, Any] = cls.model_json_schema()["properties"][name]
        return schema | schema.get("anyOf", [{}])[0]  # the rest of it is "or None"

    @classmethod
    def _refusal(cls, name: str, value: Any) -> ScellsegError:
        """Error that says what is allowed instead of a value."""
        if name not in cls.model_fields:
            remedy = f"There are: {', '.join(cls.model_fields)}."
            return cls.refused(f"there is no option {name!r}", remedy=remedy)
        option = cls.describe(name)
        if "enum" in option:
            what, remedy = f"{{{name}}} is unknown", f"Choose one of {', '.join(option['enum'])}."
        else:
            kinds = {"integer": "a whole number", "number": "a number", "boolean": "True or False"}
            what = f"{{{name}}} is not {kinds[option['type']]}"
            what += f" from {option['minimum']:g}" if "minimum" in option else ""
            what += f" to {option['maximum']:g}" if "maximum" in option else ""
            remedy = "Leave it out for the usual."
        return cls.refused(what, remedy=remedy, options={name: value})
