"""A page as the editor sees it: what it hears and says, without a browser.

The real page is tested in tests/browser. This one keeps its labels by the answers alone, and must
have the same as Python at any time.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.editor.patches import Patch, apply, set_pixels


def decode_labels(data: bytes, shape: Sequence[int]) -> np.ndarray:
    pairs = np.frombuffer(data, "<u4").reshape(-1, 2)
    return np.repeat(pairs[:, 0], pairs[:, 1]).astype(np.int32).reshape(shape)


class Page:
    """A page that draws what Python answers, in that order."""

    def __init__(self, view: ImageView, client: str) -> None:
        self.view, self.client, self.seq = view, client, 0
        self.heard: list[dict[str, Any]] = []
        self.buffers: list[list[bytes]] = []
        self.labels, self.session, self.number = np.zeros((0, 0), np.int32), "", 0
        self.facts: dict[str, list[str]] = {}
        self.is_deaf = False
        self.last: tuple[dict[str, Any], list[bytes]] = ({}, [])

    def hear(self, content: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        content, parts = json.loads(json.dumps(content)), [bytes(part) for part in buffers or ()]
        if content.get("to") not in (None, self.client) or self.is_deaf:
            return
        self.heard.append(content)
        self.buffers.append(parts)
        if content["type"] == "open":
            self.labels = decode_labels(parts[0], content["shape"])
            self.session, self.facts = content.get("session", ""), content.get("facts", {})
        elif content["type"] == "edit":
            apply(self.labels, Patch.from_bytes(parts[0], self.labels.size))
            self.facts |= content["facts"]
        self.number = content.get("number", self.number)

    def types(self) -> list[str]:
        return [content["type"] for content in self.heard]

    def told(self, type: str) -> dict[str, Any]:
        """The last message of a type."""
        return next(content for content in reversed(self.heard) if content["type"] == type)

    def parts(self, type: str) -> list[bytes]:
        """Bytes of the last message of a type."""
        return self.buffers[len(self.heard) - 1 - self.types()[::-1].index(type)]

    def post(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        """Send a message; all that is heard upon it."""
        before = len(self.heard)
        self.view._receive(self.view, content, [memoryview(part) for part in buffers])
        return self.heard[before:]

    def edit(self, buffers: Sequence[bytes] = (), **content: Any) -> list[dict[str, Any]]:
        self.seq += 1
        own = {"client": self.client, "session": self.session, "seq": self.seq}
        self.last = own | {"number": self.number} | content, list(buffers)
        return self.again()

    def again(self) -> list[dict[str, Any]]:
        """Send the last edit once more."""
        return self.post(self.last[1], **self.last[0])

    def stroke(self, pixels: Sequence[int], label: int, **more: Any) -> list[dict[str, Any]]:
        """Draw on the labels as this page knows them."""
        patch = set_pixels(self.labels, np.asarray(pixels), label)
        content = {"kind": "paint" if label else "erase", "label": label, "fresh": False} | more
        return self.edit([patch.to_bytes()], type="stroke", **content)

    def paint(self, box: tuple[slice, slice], label: int, **more: Any) -> list[dict[str, Any]]:
        """Draw a box."""
        pixels = np.arange(self.labels.size).reshape(self.labels.shape)[box].ravel()
        return self.stroke(pixels, label, **more)

    def turn(self, kind: str, of: str) -> list[dict[str, Any]]:
        return self.edit(type="turn", kind=kind, of=of)

    def command(self, name: str, /, **args: Any) -> list[dict[str, Any]]:
        return self.edit(type="command", name=name, args=args)


def connect(view: ImageView, *clients: str) -> list[Page]:
    """Pages that have opened a view."""
    pages = [Page(view, client) for client in clients or ("page",)]

    def send(content: dict[str, Any], buffers: Sequence[Any] = ()) -> None:
        for page in pages:
            page.hear(content, buffers)

    view.send = send  # type: ignore[method-assign]
    for page in pages:
        page.post(type="hello", client=page.client)
    return pages
