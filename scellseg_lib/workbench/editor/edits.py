"""One change of an annotation, as it is sent, kept, undone and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from scellseg_lib.workbench.editor.classes import Classes
from scellseg_lib.workbench.editor.patches import EMPTY, Patch


class Facts(NamedTuple):
    """What is said of a cell."""

    kind: str = ""
    """Its class."""
    note: str = ""


NOTHING = Facts()


@dataclass(frozen=True, eq=False)
class Edit:
    """One change, as it is kept, undone and replayed.

    Attributes
    ----------
    id : str
        Of its own in this annotation.
    kind : str
        "paint", "erase", "outline", "merge", .., "undo" or "redo".
    patch : Patch
        What it does to the labels.
    facts : dict of int to (Facts, Facts)
        What was said before and after of the cells concerned.
    of : str
        The edit that an undo or redo concerns.
    classes : (dict of str to str, dict of str to str) or None
        The list of classes before and after, where the edit changes it.
    """

    id: str
    kind: str
    patch: Patch = EMPTY
    facts: Mapping[int, tuple[Facts, Facts]] = field(default_factory=dict)
    of: str = ""
    classes: tuple[Classes, Classes] | None = None

    @property
    def is_of_list(self) -> bool:
        """Whether it changes the list of classes alone, and no cell."""
        return self.classes is not None and not self.facts and not len(self.patch.runs)
