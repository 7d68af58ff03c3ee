"""Options that tell themselves: name, kind, bounds, default and help stand once, in their class.

The library refuses what is out of bounds, in a sentence; the command line and the workbench read
the same bounds and the same help.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from scellseg_lib.errors import ScellsegError


class Options(BaseModel):
    """Base of all options; they do not change once they are made.

    A field says its bounds with ``Field(ge=..., le=...)`` and its help in the docstring below it.
    What is not allowed raises the error of the class, ``refused``.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
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
    def help(cls, name: str) -> str:
        """What an option is for, in a sentence."""
        return cls.model_fields[name].description or ""

    @classmethod
    def default(cls, name: str) -> Any:
        """Value of an option that is not given."""
        return cls.model_fields[name].default

    @classmethod
    def choices(cls, name: str) -> tuple[str, ...]:
        """Words that an option can be; none for numbers."""
        kind = _kind(cls.model_fields[name].annotation)
        return get_args(kind) if get_origin(kind) is Literal else ()

    @classmethod
    def bound(cls, name: str, which: Literal["ge", "le"] = "ge") -> float | None:
        """Least value of a number, or largest ("le"); None where it has none."""
        found = (getattr(one, which, None) for one in cls.model_fields[name].metadata)
        return next((one for one in found if one is not None), None)

    @classmethod
    def _refusal(cls, name: str, value: Any) -> ScellsegError:
        """Error that says what is allowed instead of a value."""
        if name not in cls.model_fields:
            remedy = f"There are: {', '.join(cls.model_fields)}."
            return cls.refused(f"there is no option {name!r}", remedy=remedy)
        what, remedy = f"{{{name}}} is unknown", f"Choose one of {', '.join(cls.choices(name))}."
        if not cls.choices(name):
            kinds = {int: "a whole number", float: "a number", bool: "True or False"}
            allowed = kinds[_kind(cls.model_fields[name].annotation)]
            low, high = cls.bound(name), cls.bound(name, "le")
            allowed += f" from {low:g}" if low is not None else ""
            allowed += f" to {high:g}" if high is not None else ""
            what, remedy = f"{{{name}}} is not {allowed}", "Leave it out for the usual."
        return cls.refused(what, remedy=remedy, options={name: value})


def _kind(annotation: Any) -> Any:
    """Annotation without ``| None``."""
    if get_origin(annotation) in (Union, UnionType):
        return next(one for one in get_args(annotation) if one is not type(None))
    return annotation
