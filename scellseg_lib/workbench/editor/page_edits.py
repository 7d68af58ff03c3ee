"""Edits that pages send: each taken once, in order, and in the labels that hold by now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np

from scellseg_lib.workbench.editor.annotation import Annotation
from scellseg_lib.workbench.editor.edits import Edit
from scellseg_lib.workbench.editor.patches import Patch, set_pixels

Content = dict[str, Any]


class Waiting(NamedTuple):
    """One edit of a page, ready to be performed."""

    id: str
    client: str
    content: Content
    parts: list[bytes]


class PageEdits:
    """What pages have sent of one image that is open.

    Attributes
    ----------
    session : str
        Of this image: an edit of another one is not for these labels.
    seen : dict of str to int
        Number of the last edit that was taken of each page.
    """

    def __init__(self) -> None:
        self.session, self.seen = uuid4().hex, dict[str, int]()
        self._early: dict[str, dict[int, Waiting]] = {}
        self._renamed: list[tuple[int, str, Mapping[int, int]]] = []

    def taken(self, content: Content) -> bool:
        """Whether an edit was taken before: its answer was lost, or is on its way."""
        return int(content["seq"]) <= self.seen.get(str(content["client"]), 0)

    def in_order(self, content: Content, buffers: Sequence[memoryview]) -> Iterator[Waiting]:
        """Edits that can be performed now that this one has come.

        One that has overtaken another waits for it; one that was lost is sent again by the page.
        """
        client, number = str(content["client"]), int(content["seq"])
        early = self._early.setdefault(client, {})
        parts = [bytes(buffer) for buffer in buffers]
        early[number] = Waiting(f"{client}:{number}", client, content, parts)
        while (following := self.seen.get(client, 0) + 1) in early:
            self.seen[client] = following
            yield early.pop(following)

    def follow(self, annotation: Annotation, edit: Edit) -> bool:
        """Remember the new labels where an edit has numbered the cells anew; whether it has."""
        origin = next((one for one in annotation.edits if one.id == edit.of), edit)
        if origin.kind != "renumber":
            return False
        pairs = edit.patch.runs[:, 2:]
        names = {int(old): int(new) for old, new in pairs[(pairs > 0).all(axis=1)]}
        self._renamed.append((len(annotation.edits), "", names))
        return True

    def stroke(self, annotation: Annotation, edit: Waiting) -> Patch:
        """Patch of a stroke, in the labels of now; protected neighbours stay as they are."""
        content = edit.content
        patch, label = Patch.from_bytes(edit.parts[0], annotation.labels.size), content["label"]
        now = self.current(int(label), edit)
        if content.get("fresh") and 0 < now < len(annotation.areas) and annotation.areas[now]:
            now = annotation.free  # another page, or an outline, has used this label in between
            names = {int(label): now}
            self._renamed.append((len(annotation.edits) + 1, edit.client, names))
        runs = patch.runs.copy()
        runs[runs[:, 3] == label, 3] = now
        patch = Patch(runs)
        if content["kind"] == "paint" and content.get("protect"):
            pixels = patch.pixels()
            free = np.isin(annotation.labels.ravel()[pixels], (0, now))
            patch = set_pixels(annotation.labels, pixels[free], now)
        return patch

    def arguments(self, edit: Waiting) -> Content:
        """Arguments of a command, in the labels of now."""
        args = dict(edit.content["args"])
        if "cell" in args:
            args["cell"] = self.current(int(args["cell"]), edit)
        if "cells" in args:
            args["cells"] = [self.current(int(cell), edit) for cell in args["cells"]]
        return args

    def current(self, label: int, edit: Waiting) -> int:
        """Label that a cell has now, of which the page may not know yet."""
        known = int(edit.content.get("number", 0))
        for number, client, names in self._renamed:
            if number > known and client in ("", edit.client):
                label = names.get(label, label)
        return label
