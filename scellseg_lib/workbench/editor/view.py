"""An image with its cells in the browser: sent once, in binary; zoomed and coloured there."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import anywidget
import cv2
import numpy as np
import traitlets
from matplotlib import colormaps
from skimage.segmentation import find_boundaries

from scellseg_lib import progress
from scellseg_lib.errors import ImageError
from scellseg_lib.samples import check_size
from scellseg_lib.workbench.editor.classes import COLOURS
from scellseg_lib.workbench.editor.patches import encode_labels
from scellseg_lib.workbench.forms import compose, plain

F = TypeVar("F", bound=Callable[..., Any])
HERE = Path(__file__).parent
MAPS = {"grey": "gray", "inverted grey": "gray_r", "viridis": "viridis", "magma": "magma"}
"""Colour maps that an image can be seen in, by their names in matplotlib."""
STILL_SIDE = 900  # largest side of a still picture, px
OUTLINE, REFERENCE = (255, 210, 0), (255, 255, 255)  # of cells and true ones in a still picture


def with_lock(method: F) -> F:
    """Let a method wait until the page's messages, or another thread, are through."""

    @wraps(method)
    def wait(self: ImageView, *args: Any, **options: Any) -> Any:
        with self.lock:
            return method(self, *args, **options)

    return wait  # type: ignore[return-value]


class ImageView(anywidget.AnyWidget):
    """An image with its cells, zoomed and panned in the browser; no editing.

    The pixels go to the page once, as binary messages, and are no traits: a saved notebook does not
    hold them, and a page that is loaded again asks for them. Under papermill, nbval and nbconvert
    it is a still picture.

    `selected` is the label of the cell that was last clicked on, 0 for none (told by messages: a
    lost line can hold back a synchronised trait for good), and `height` the widget's in px of the
    page. Who holds `lock` is alone: no message, no thread changes anything.
    """

    _esm = HERE / "mask_editor.js"
    _css = HERE.parent / "style.css"
    tools = traitlets.Bool(False).tag(sync=True)
    height = traitlets.Int(520).tag(sync=True)
    selected = traitlets.Int(0)

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self.title, self._layers = "", list[Layer]()
        self._pixel_size: float | None = None
        self._labels = np.zeros((0, 0), np.int32)
        self._reference: np.ndarray | None = None
        self._colours: list[np.ndarray | None] = [None, None]  # of the cells and the reference
        self._tips: list[list[str]] = [[], []]
        self._callbacks: dict[str, list[Callable[..., object]]] = {}
        self._dropped: dict[str, list[bytes]] = {}  # parts of files, by page
        self._selecting, self._n_sent = "", 0  # the page that selects just now; messages so far
        self._handlers: dict[str, Callable[[dict[str, Any], Sequence[memoryview]], None]] = {
            "hello": lambda content, _: self._send_picture(content["client"]),
            "cycle": lambda content, _: self._call("cycle", int(content["by"])),
            "drop": self._take_dropped,
            "select": self._take_selected,
        }
        self.lock = RLock()  # some kernels take messages in a thread of their own
        self.on_msg(self._receive)

    @property
    def labels(self) -> np.ndarray:
        """The cells, int32[H, W]; not to be written to."""
        view = self._labels.view()
        view.flags.writeable = False
        return view

    @with_lock
    def send(self, content: dict[str, Any], buffers: Sequence[Any] | None = None) -> None:
        """Send a message to all pages, numbered: after a lost line a server may repeat old ones."""
        self._n_sent += 1
        super().send(content | {"n": self._n_sent}, buffers)

    @with_lock
    def show(
        self,
        image: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        reference: np.ndarray | None = None,
        channels: Sequence[str] = (),
        layers: Mapping[str, np.ndarray] | None = None,
        title: str = "",
        pixel_size: float | None = None,
    ) -> None:
        """Show an image, number[H, W] or number[H, W, C].

        Parameters
        ----------
        labels, reference : int[H, W], optional
            Its cells, and others that are drawn as outlines alone, such as true ones.
        channels : sequence of str
            Names of the C channels.
        layers : mapping of str to uint8[H, W, 3] or number[H, W], optional
            Further pictures of the same size to look at, such as the flow.
        pixel_size : float, optional
            Micrometres a pixel, for a scale bar.

        Raises
        ------
        ImageError
            If it is no image, or sizes differ: what was shown stays then.
        """
        shown = make_layers(image, channels, layers or {})
        shape = shown[0].pixels.shape[:2]
        labels = np.zeros(shape) if labels is None else labels
        for one in (labels, reference):
            if one is not None:
                check_size(shape, one.shape, "its masks", title or "image")
        reference = None if reference is None else reference.astype(np.int32)
        self._show(title, shown, labels.astype(np.int32), pixel_size, reference)

    def _show(
        self,
        title: str,
        layers: list[Layer],
        labels: np.ndarray,
        pixel_size: float | None,
        reference: np.ndarray | None = None,
    ) -> None:
        """Show what fits together; these very labels are the ones that are seen from now on."""
        self.title, self._layers, self._labels, self._reference = title, layers, labels, reference
        self._pixel_size = pixel_size
        self._colours, self._tips = [None, None], [[], []]
        self.selected = 0
        self._send_picture()

    @with_lock
    def show_labels(self, labels: np.ndarray) -> None:
        """Show other cells, int[H, W], on the same image; colours and tips are as they were."""
        check_size(self._labels.shape, labels.shape, "its masks", self.title or "image")
        self._labels = labels.astype(np.int32)
        self.send({"type": "labels", "reference": self._reference is not None}, self._cells())

    @with_lock
    def show_layers(self, layers: Mapping[str, np.ndarray]) -> None:
        """Show other pictures beside the channels, see `show`; all else stays as it is."""
        found = _make_pictures(layers, self._labels.shape)
        self._layers = [layer for layer in self._layers if layer.channel] + found
        content = {"type": "layers", "layers": [layer.describe() for layer in found]}
        self.send(content, [layer.pixels.tobytes() for layer in found])

    @with_lock
    def colour(self, cells: np.ndarray | None, reference: np.ndarray | None = None) -> None:
        """Colour cells, and outlines of the reference, by label.

        Each is uint8[n + 1, 4]: red, green, blue and opacity (0 hides a cell) of each label; row 0
        is not used. None: a palette that colour-blind people can tell apart.
        """
        tables = (cells, reference)
        self._colours = [None if one is None else np.asarray(one, np.uint8) for one in tables]
        self._send_colours()

    @with_lock
    def tell(self, tips: Sequence[str], reference: Sequence[str] = ()) -> None:
        """Say something of each cell, by label, where the mouse is on it; entry 0 is not used."""
        self._tips = [list(tips), list(reference)]
        self.send({"type": "tips", "cells": self._tips[0], "reference": self._tips[1]})

    def say(self, text: str, *, error: bool = False) -> None:
        """Show a sentence in the line under the image."""
        self.send({"type": "say", "text": text, "error": error})

    def on(self, event: str, callback: Callable[..., object]) -> None:
        """Call a function at an event of the page.

        They are "cycle", with 1 (the next image is asked for) or -1; "drop", with name, which may
        be anything, and content of a file; and of an editor "save", with the file of masks,
        "point", with the pixel (y, x) whose cell is wanted, and "finish", when all cells are drawn.
        """
        self._callbacks.setdefault(event, []).append(callback)

    def picture(self) -> bytes:
        """What is seen, as a still JPEG of at most 900 px a side."""
        picture = compose([layer.pixels for layer in self._layers if layer.channel])
        drawn = draw_still(picture, self._labels, self._reference, self._colours)
        return cv2.imencode(".jpg", drawn[..., ::-1])[1].tobytes()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not progress.run_by_machine():
            return super()._repr_mimebundle_(**kwargs)
        n_cells, (height, width) = len(np.unique(self._labels[self._labels > 0])), self.labels.shape
        words = {"text/plain": f"{self.title or 'image'}: {width} x {height} px, {n_cells} cells"}
        if not self._layers:
            return words, {}
        return {"image/jpeg": base64.b64encode(self.picture()).decode()} | words, {}

    def _receive(self, _: Any, content: Any, buffers: Sequence[memoryview]) -> None:
        """Answer the browser; an error becomes a message there, and never a traceback."""
        try:
            with self.lock:
                self._handlers[content["type"]](content, buffers)
        except Exception as error:  # whatever a page sends, the kernel goes on
            self.say(plain(error), error=True)

    def _take_selected(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        self._selecting = content["client"]
        self.selected = int(content["label"])
        self._selecting = ""

    @traitlets.observe("selected")
    def _tell_selected(self, change: Any) -> None:
        self.send({"type": "select", "label": self.selected, "by": self._selecting})

    def _take_dropped(self, content: dict[str, Any], buffers: Sequence[memoryview]) -> None:
        """Collect the parts of a file, in order; a page sends one file after the other."""
        client = str(content["client"])
        parts = self._dropped.setdefault(client, [])
        if not content["part"]:
            parts.clear()
        parts.append(bytes(buffers[0]))
        if len(parts) == content["parts"]:
            self._call("drop", str(content["name"]), b"".join(self._dropped.pop(client)))

    def _send_picture(self, client: str | None = None) -> None:
        """Send all that is shown to one page; None: to all that show it."""
        if not self._layers:
            self.send({"type": "empty", "to": client, "listens": sorted(self._callbacks)})
            return
        tables = [colormaps[name](np.arange(256), bytes=True)[:, :3] for name in MAPS.values()]
        content = {
            "type": "open",
            "to": client,
            "title": self.title,
            "shape": list(self._labels.shape),
            "layers": [layer.describe() for layer in self._layers],
            "maps": list(MAPS),
            "palette": COLOURS,
            "pixel_size": self._pixel_size,
            "reference": self._reference is not None,
            "listens": sorted(self._callbacks),
        }
        buffers = [*self._cells(), np.stack(tables).tobytes()]
        buffers += [layer.pixels.tobytes() for layer in self._layers]
        more, history = self._describe_editing()
        self.send(content | more, [*buffers, history])
        self._send_colours()
        if any(self._tips):
            self.tell(*self._tips)

    def _describe_editing(self) -> tuple[dict[str, Any], bytes]:
        """What is sent beside an image that is edited, and the bytes that belong to it."""
        return {}, b""

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


@dataclass(frozen=True, eq=False)
class Layer:
    """One picture: a channel of the image, or another that was made of it."""

    name: str
    pixels: np.ndarray  # uint8[H, W] or uint16[H, W], or uint8[H, W, 3] for colours
    low: float = 0.0  # intensity that 0 stands for
    high: float = 255.0  # intensity that the largest number stands for
    channel: bool = True

    def describe(self) -> dict[str, Any]:
        """Say what goes to the page beside the pixels."""
        said = {**vars(self), "kind": "rgb" if self.pixels.ndim == 3 else str(self.pixels.dtype)}
        del said["pixels"]
        return said


def make_layers(
    image: np.ndarray, channels: Sequence[str], others: Mapping[str, np.ndarray]
) -> list[Layer]:
    """Make layers of an image and of further pictures; ImageError where they do not fit."""
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "buif":
        what = f"an image of shape {image.shape} and {image.dtype} cannot be shown"
        raise ImageError(what, remedy="Give [H, W], or [H, W, C] with the channels last.")
    planes = np.atleast_3d(image)
    n_channels = planes.shape[2]
    usual = {1: ["image"], 3: ["red", "green", "blue"]}
    names = list(channels) or usual.get(n_channels, [f"channel {k + 1}" for k in range(n_channels)])
    if len(names) != n_channels:
        what = f"the image has {n_channels} channels, {len(names)} are named"
        raise ImageError(what, remedy="Name each channel once.")
    found = [_make_layer(name, planes[..., k], channel=True) for k, name in enumerate(names)]
    return found + _make_pictures(others, image.shape[:2])


def _make_pictures(others: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> list[Layer]:
    """Make layers of pictures beside the channels, uint8[H, W, 3] or number[H, W]."""
    for name, pixels in others.items():
        check_size(shape, pixels.shape[:2], repr(name), "image")
        if pixels.ndim > 2 and (pixels.dtype != np.uint8 or pixels.shape[2:] != (3,)):
            what = f"{name!r} is of {pixels.dtype} and the shape {pixels.shape}"
            remedy = "Give intensities of the shape [H, W], or colours as uint8[H, W, 3]."
            raise ImageError(what, remedy=remedy)
    return [_make_layer(name, pixels, channel=False) for name, pixels in others.items()]


def _make_layer(name: str, pixels: np.ndarray, *, channel: bool) -> Layer:
    if pixels.ndim == 3 or pixels.dtype == np.uint8:
        return Layer(name, np.ascontiguousarray(pixels, np.uint8), channel=channel)
    values = np.nan_to_num(pixels.astype(np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (65535 / (high - low) if high > low else 0.0)
    return Layer(name, np.round(scaled).astype(np.uint16), low, high, channel)


def draw_still(
    picture: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray | None,
    colours: Sequence[np.ndarray | None] = (None, None),
) -> np.ndarray:
    """Draw the outlines of cells, int32[H, W], on a picture, uint8[H, W, 3], in a small size."""
    scale = min(1.0, STILL_SIDE / max(picture.shape[:2]))
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    drawn = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    for cells, table, usual in zip((labels, reference), colours, (OUTLINE, REFERENCE), strict=True):
        if cells is None:
            continue
        small = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST_EXACT)
        edge = find_boundaries(small, connectivity=1, mode="inner")
        if table is None:
            drawn[edge] = usual
        else:
            known = np.minimum(small[edge], len(table) - 1)
            drawn[edge] = np.where(table[known, 3:] > 0, table[known, :3], drawn[edge])
    return drawn
