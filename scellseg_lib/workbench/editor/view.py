"""An image with its cells in the browser: sent once, in binary; zoomed and coloured there."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import anywidget
import numpy as np
import traitlets
from matplotlib import colormaps

from scellseg_lib import progress
from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.workbench.editor.layers import Layer, composed, layers_of, pictures_of, still
from scellseg_lib.workbench.editor.patches import encode_labels

F = TypeVar("F", bound=Callable[..., Any])
HERE = Path(__file__).parent
MAPS = {"grey": "gray", "inverted grey": "gray_r", "viridis": "viridis", "magma": "magma"}
"""Colour maps that an image can be seen in, by their names in matplotlib."""


def locked(method: F) -> F:
    """Let a method wait until the page's messages, or another thread, are through."""

    @wraps(method)
    def waiting(self: ImageView, *args: Any, **options: Any) -> Any:
        with self.lock:
            return method(self, *args, **options)

    return waiting  # type: ignore[return-value]


class ImageView(anywidget.AnyWidget):
    """An image with its cells, zoomed and panned in the browser; no editing.

    The pixels go to the page once, as binary messages, and are no traits: a saved notebook does not
    hold them, and a page that is loaded again asks for them. Under papermill, nbval and nbconvert
    it is a still picture.

    Attributes
    ----------
    selected : int
        Label of the cell that was last clicked on; 0: none.
    height : int
        Of the widget, in pixels of the page.
    lock : RLock
        Who holds it is alone: no message of a page and no other thread changes anything.
    """

    _esm = HERE / "mask_editor.js"
    _css = HERE / "mask_editor.css"
    tools = traitlets.Bool(False).tag(sync=True)
    height = traitlets.Int(520).tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.title, self._layers = "", list[Layer]()
        self._labels = np.zeros((0, 0), np.int32)
        self._reference: np.ndarray | None = None
        self._colours: list[np.ndarray | None] = [None, None]
        self._tips: list[list[str]] = [[], []]
        self._callbacks: dict[str, list[Callable[..., None]]] = {}
        self._parts: dict[str, list[bytes]] = {}
        self.lock = RLock()  # some kernels take messages in a thread of their own
        self.on_msg(self._receive)

    @property
    def labels(self) -> np.ndarray:
        """The cells, int32[H, W]; not to be written to."""
        view = self._labels.view()
        view.flags.writeable = False
        return view

    @locked
    def show(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        reference: np.ndarray | None = None,
        channels: Sequence[str] = (),
        layers: Mapping[str, np.ndarray] | None = None,
        title: str = "",
    ) -> None:
        """Show an image.

        Parameters
        ----------
        image : number[H, W] or number[H, W, C]
        labels : int[H, W], optional
            Its cells; None: none.
        reference : int[H, W], optional
            Other cells, drawn as outlines alone, such as true ones.
        channels : sequence of str
            Names of the C channels.
        layers : mapping of str to uint8[H, W, 3] or number[H, W], optional
            Further pictures of the same size to look at, such as the flow.
        title : str

        Raises
        ------
        ImageError
            For an image that is none, or sizes that differ.
        """
        found = layers_of(image, channels, layers or {})
        shape = found[0].pixels.shape[:2]
        for one in (labels, reference):
            if one is not None and one.shape != shape:
                raise ImageError(
                    f"the image is of {shape[0]} x {shape[1]} px, the masks of {one.shape}",
                    where=title or None,
                    remedy="Take the masks of this image.",
                )
        self.title, self._layers = title, found
        self._labels = np.zeros(shape, np.int32) if labels is None else labels.astype(np.int32)
        self._reference = None if reference is None else reference.astype(np.int32)
        self._colours, self._tips = [None, None], [[], []]
        self.selected = 0
        self._send_picture()

    @locked
    def show_labels(self, labels: np.ndarray, reference: np.ndarray | None = None) -> None:
        """Show other cells, int[H, W], on the same image; colours and tips are as they were."""
        if labels.shape != self._labels.shape:
            raise ImageError(
                f"the image is of {self._labels.shape} px, the masks of {labels.shape}",
                remedy="Take the masks of this image.",
            )
        self._labels = labels.astype(np.int32)
        if reference is not None:
            self._reference = reference.astype(np.int32)
        self.send({"type": "labels", "reference": self._reference is not None}, self._cells())

    @locked
    def show_layers(self, layers: Mapping[str, np.ndarray]) -> None:
        """Show other pictures beside the channels; cells, history and view stay as they are.

        Parameters
        ----------
        layers : mapping of str to uint8[H, W, 3] or number[H, W]
            Of the image's size.

        Raises
        ------
        ImageError
            For another size, or what is no picture; nothing is changed then.
        """
        found = pictures_of(layers, self._labels.shape)
        self._layers = [layer for layer in self._layers if layer.channel] + found
        content = {"type": "layers", "layers": [layer.described() for layer in found]}
        self.send(content, _pixels(found))

    @locked
    def colour(self, cells: np.ndarray | None, reference: np.ndarray | None = None) -> None:
        """Colour cells, and outlines of the reference, by label.

        Parameters
        ----------
        cells, reference : uint8[n + 1, 4], optional
            Red, green, blue, opacity (0 hides a cell) of each label; row 0 is not used. None: a
            palette that colour-blind people can tell apart.
        """
        self._colours = [
            None if one is None else np.asarray(one, np.uint8) for one in (cells, reference)
        ]
        self._send_colours()

    @locked
    def tell(self, tips: Sequence[str], reference: Sequence[str] = ()) -> None:
        """Say something of each cell, by label, where the mouse is on it; entry 0 is not used."""
        self._tips = [list(tips), list(reference)]
        self.send({"type": "tips", "cells": self._tips[0], "reference": self._tips[1]})

    def go_to(self, label: int) -> None:
        """Zoom to a cell and select it."""
        self.selected = int(label)
        self.send({"type": "go", "label": int(label)})

    def on_cycle(self, callback: Callable[[int], None]) -> None:
        """Call a function when the next (1) or the previous (-1) image is asked for."""
        self._callbacks.setdefault("cycle", []).append(callback)

    def on_drop(self, callback: Callable[[str, bytes], None]) -> None:
        """Call a function with name and content of a file that was dropped on the image."""
        self._callbacks.setdefault("drop", []).append(callback)

    def picture(self) -> bytes:
        """What is seen, as a still PNG of at most 900 px a side."""
        return still(composed(self._layers), self._labels, self._reference, self._colours)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if progress.run_by_machine():
            png = base64.b64encode(self.picture()).decode() if self._layers else ""
            return ({"image/png": png} if png else {}) | {"text/plain": self._in_words()}, {}
        return super()._repr_mimebundle_(**kwargs)

    def _in_words(self) -> str:
        n_cells = np.count_nonzero(np.unique(self._labels))
        height, width = self._labels.shape
        return f"{self.title or 'image'}: {width} x {height} px, {n_cells} cells"

    # --- messages -----------------------------------------------------------------------------

    def _receive(self, _: Any, content: Any, buffers: Sequence[memoryview]) -> None:
        """Answer the browser; an error becomes a message there, and never a traceback."""
        handlers: dict[str, Callable[[dict[str, Any], Sequence[memoryview]], None]] = (
            self._handlers()
        )
        try:
            with self.lock:
                handlers[content["type"]](content, buffers)
        except Exception as error:  # whatever a page sends, the kernel goes on
            self.say(in_words(error), error=True)

    def _handlers(self) -> dict[str, Callable[[dict[str, Any], Sequence[memoryview]], None]]:
        return {"hello": self._hello, "cycle": self._cycle, "drop": self._drop}

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a sentence in the line under the image."""
        self.send({"type": "say", "text": text, "error": error})

    def _hello(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        self._send_picture(content["client"])

    def _cycle(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        self._call("cycle", int(content["by"]))

    def _drop(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """Collect the parts of a file, in order; a page sends one file after the other."""
        client = str(content["client"])
        parts = self._parts.setdefault(client, []) if content["part"] else []
        self._parts[client] = parts
        parts.append(bytes(buffers[0]))
        if len(parts) == content["parts"]:
            self._call("drop", Path(str(content["name"])).name, b"".join(self._parts.pop(client)))

    def _send_picture(self, client: str | None = None) -> None:
        """Send all that is shown; None: to every page that shows it."""
        if not self._layers:
            self.send({"type": "empty", "to": client, "listens": sorted(self._callbacks)})
            return
        names = list(MAPS)
        tables = [np.uint8(255 * colormaps[MAPS[name]](np.arange(256))[:, :3]) for name in names]
        content = {
            "type": "open",
            "to": client,
            "title": self.title,
            "shape": list(self._labels.shape),
            "layers": [layer.described() for layer in self._layers],
            "maps": names,
            "reference": self._reference is not None,
        }
        buffers = [*self._cells(), np.stack(tables).tobytes(), *_pixels(self._layers)]
        more, history = self._more()
        self.send(content | more, [*buffers, history])
        self._send_colours()
        if any(self._tips):
            self.tell(*self._tips)

    def _more(self) -> tuple[dict[str, Any], bytes]:
        """What is sent of an image beside it, and the bytes that belong to it."""
        return {"listens": sorted(self._callbacks)}, b""

    def _cells(self) -> list[bytes]:
        reference = self._reference
        return [encode_labels(self._labels), b"" if reference is None else encode_labels(reference)]

    def _send_colours(self) -> None:
        given = [colours is not None for colours in self._colours]
        tables = [b"" if colours is None else colours.tobytes() for colours in self._colours]
        self.send({"type": "colours", "given": given}, tables)

    def _call(self, event: str, *args: Any) -> None:
        for callback in self._callbacks.get(event, ()):
            callback(*args)


def _pixels(layers: Sequence[Layer]) -> list[memoryview]:
    return [np.ascontiguousarray(layer.pixels).data.cast("B") for layer in layers]


def in_words(error: Exception) -> str:
    """What the page shows of an error."""
    if isinstance(error, ScellsegError):
        return str(error)
    logging.getLogger(__name__).error("unforeseen", exc_info=error)
    text = "Something went wrong, and this step was not done. Load the page again; if it happens"
    return f"{text} again, tell the authors what you did just before."
