"""What all panels are made of, and how they speak to somebody who writes no code.

Each widget has the class ``scellseg-NAME``, by which the tests find it in a page.
"""

import json
import logging
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from scellseg_lib import errors
from scellseg_lib.atomic import whole
from scellseg_lib.errors import ScellsegError, ScellsegWarning
from scellseg_lib.files import layout
from scellseg_lib.files.images import read_pixels
from scellseg_lib.options import Options
from scellseg_lib.plots import STYLE
from scellseg_lib.samples import normalise
from scellseg_lib.training import CheckpointOfAnotherRun

REMEDIES: dict[type[ScellsegError], str] = {
    errors.AxesNeeded: "Choose one of its planes in step 1, where it becomes an image of its own: "
    "cells are drawn in planes. If they are channels, save it from ImageJ, which says so.",
    errors.ChannelsNeeded: "Choose under Channels what to segment.",
    CheckpointOfAnotherRun: "The images or the model have changed since this run was stopped: "
    "discard it and start anew.",
    errors.SideTooSmall: "Make the image of a cell {side} px or more a side, or 0.",
}
"""What to do about an error with the controls that there are."""
CONTROLS = {"diameter": "a diameter of the cells of {} px", "side": "{}"}
"""Options that other remedies name, in the words of the panels."""
Channels = tuple[str, str]


def plain(error: BaseException) -> str:
    """Say what is wrong and what to do; what nobody foresaw goes to the log in full."""
    if isinstance(error, ScellsegError):
        where = f"{Path(error.where).name}: " if error.where is not None else ""
        remedy = REMEDIES.get(type(error), error.remedy)
        remedy = error.say(remedy, lambda name, value: CONTROLS.get(name, name).format(value))
        return f"{where}{error.say(error.what)}. {remedy}".strip()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "The memory does not suffice. Use fewer images per step, or close other programs."
    if isinstance(error, OSError):
        name = f"{Path(error.filename).name}: " if error.filename else ""
        what = error.strerror or str(error)
        remedy = "Check that the folder can be written to and its disk has room."
        if error.errno == ENAMETOOLONG:
            remedy = "Give the image a shorter name."
        if isinstance(error, FileNotFoundError):
            what = "there is no such file or folder"
            remedy = "Check how it is written, and that it was not moved, renamed or deleted."
        return f"{name}{what}. {remedy}"
    logging.getLogger(__name__).error("unforeseen", exc_info=error)
    return (
        f"Something unforeseen happened ({type(error).__name__}: {error}). Nothing that was saved "
        "is lost: try again, and if it happens again, tell the authors these words."
    )


def hear(act: Callable[[], Any]) -> tuple[Any, str]:
    """Do something; what it gives, and in words what the library has warned of."""
    with warnings.catch_warnings(record=True, action="always") as heard:
        given = act()
    doubts = [one.message for one in heard if isinstance(one.message, ScellsegWarning)]
    return given, " ".join(map(plain, doubts))


def duration(seconds: float) -> str:
    """Say a time as precisely as an estimate deserves: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(round(minutes, -1), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def count(number: int, one: str, many: str | None = None) -> str:
    """Say a number of things: "1 cell", "2 cells"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def read_path(text: str) -> Path | None:
    """Path as it was typed or pasted, with quotes perhaps, made absolute; None for nothing."""
    bare = text.strip().strip("\"'").strip()
    return Path(bare).expanduser().resolve() if bare else None


def heading(text: str) -> ipywidgets.HTML:
    """Heading of a part of a panel."""
    return ipywidgets.HTML(f"<h3>{escape(text)}</h3>").add_class("scellseg-heading")


def row(label: str, *widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Labelled row; the widgets take the room beside the label."""
    name = ipywidgets.HTML(f"<span>{escape(label)}</span>")
    for field in (one for one in widgets if not isinstance(one, ipywidgets.HTML | ipywidgets.Box)):
        field.description = field.description or label  # which names it for a screen reader
    return ipywidgets.HBox([name, *widgets]).add_class("scellseg-row")


def note(text: str) -> ipywidgets.HTML:
    """Explanation beside a control."""
    return ipywidgets.HTML(f"<span class='scellseg-note'>{text}</span>")


def actions(buttons: Sequence[ipywidgets.Widget], *below: ipywidgets.Widget) -> ipywidgets.VBox:
    """What a panel does, and what comes of it: always in view."""
    return ipywidgets.VBox([ipywidgets.HBox(buttons), *below]).add_class("scellseg-actions")


def button(
    words: str, name: str, act: Callable[[], object], tip: str = "", style: str = ""
) -> ipywidgets.Button:
    """Button as wide as its words; its `style` may be "primary", "warning" or "danger"."""
    made = ipywidgets.Button(description=words, tooltip=tip or None, button_style=style)
    made.on_click(lambda _: act())
    return made.add_class(f"scellseg-{name}")


def text_field(name: str, hint: str = "") -> ipywidgets.Text:
    """Field for a line, which counts once it is entered; `hint` is seen while it is empty."""
    made = ipywidgets.Text(continuous_update=False, placeholder=hint)
    return made.add_class(f"scellseg-{name}")


def dropdown(name: str) -> ipywidgets.Dropdown:
    """One of several."""
    return ipywidgets.Dropdown().add_class(f"scellseg-{name}")


def tick(words: str, name: str, *, value: bool = False) -> ipywidgets.Checkbox:
    """Box to be ticked, before its words."""
    made = ipywidgets.Checkbox(value=value, description=words, indent=False)
    return made.add_class(f"scellseg-{name}")


def number_field(name: str, options: type[Options], option: str) -> ipywidgets.BoundedIntText:
    """Field for a whole number among the library's options, with their bounds and usual value."""
    said = options.describe(option)
    made = ipywidgets.BoundedIntText(
        value=said["default"],
        min=said["minimum"],
        max=said.get("maximum", 1_000_000),
        continuous_update=False,
    )
    return made.add_class(f"scellseg-{name}")


def slider(
    name: str, words: str, tip: str | None, steps: tuple[float, float, float]
) -> ipywidgets.FloatSlider | ipywidgets.IntSlider:
    """Slider from the first number to the second, by the third."""
    kind = ipywidgets.IntSlider if isinstance(steps[2], int) else ipywidgets.FloatSlider
    limits = dict(zip(("min", "max", "step"), steps, strict=True))
    made = kind(value=steps[0], **limits, description=words, tooltip=tip)
    return made.add_class(f"scellseg-{name}")


def show(is_shown: bool, *widgets: ipywidgets.Widget) -> None:
    """Show or hide parts of a panel."""
    for widget in widgets:
        widget.layout.display = None if is_shown else "none"


def table(frame: pd.DataFrame) -> str:
    """Table as HTML; names in it are shown as text and not as markup."""
    three = "{:.3f}".format
    return frame.to_html(index=False, border=0, col_space=90, float_format=three, na_rep="-")


def render_html(figure: Figure, words: str) -> str:
    """Draw a figure as an SVG within an ``<img>``; ``words`` are for those who do not see it."""
    drawn = BytesIO()
    with plt.style.context(STYLE):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    encoded = b64encode(drawn.getvalue()).decode()
    return f'<img src="data:image/svg+xml;base64,{encoded}" alt="{escape(words)}">'


class ChannelFields(ipywidgets.VBox):
    """Channel of the cells and of the nuclei; hidden where there is nothing to choose.

    What is chosen by hand is kept in a file of the folder, and holds there from then on.
    """

    def __init__(self, name: str, on_change: Callable[[], object]) -> None:
        self._on_change, self._is_offering = on_change, False
        self._image = self._file = Path()  # that is shown, and where the choice is kept
        self.pictures = ipywidgets.HTML()
        self.cells = dropdown(f"{name}-channel")
        self.nuclei = dropdown(f"{name}-nuclei")
        words = [ipywidgets.HTML(text) for text in ("cells in&nbsp;", "&nbsp;nuclei in&nbsp;")]
        choices = row("Channels", words[0], self.cells, words[1], self.nuclei)
        super().__init__([choices, row("", self.pictures)])
        self.offer([], Path(), Path())
        for field in (self.cells, self.nuclei):
            field.observe(lambda _: self._on_changed(), "value")

    def offer(
        self, names: Sequence[str], image: Path, folder: Path, usual: Channels | None = None
    ) -> None:
        """Offer channels of an image by the library's names.

        Chosen is what is kept in the folder, else what was chosen, else `usual`.
        """
        before = self.value if self._file == folder / layout.CHANNELS else None
        self._file, self._is_offering = folder / layout.CHANNELS, True
        named = ["" if name.isdigit() else f" ({name})" for name in names]
        titles = [*(f"channel {k}{one}" for k, one in enumerate(named, 1)), "the mean of all"]
        channels = list(zip(titles, [*names, "gray"], strict=True))
        self.cells.options = [("Choose the channel ...", None), *channels]
        self.nuclei.options = [("none", "none"), *channels]
        self.cells.index, self.nuclei.value = 0, "none"
        show(bool(names), self)
        if usual and usual[0] != "gray":  # several are never averaged in silence
            self.choose(usual)
        self.choose(before)
        with suppress(OSError, ValueError, TypeError):
            cells, nuclei = json.loads(self._file.read_bytes())
            self.choose((cells, nuclei))
        self._is_offering = False
        self._show_pictures()
        if names and image != self._image:
            self._image, planes = image, np.atleast_3d(read_pixels(image))
            self.pictures.value = "".join(map(_picture, titles, planes.transpose(2, 0, 1)))

    def choose(self, wanted: Channels | None) -> None:
        """Choose channels, if there are such."""
        names = [name for _, name in self.cells.options[1:]]
        colours = dict(zip("012", names[:-1], strict=False))
        cells, nuclei = (colours.get(one, one) for one in wanted or ("", ""))
        if cells in names and nuclei in {*names, "none"}:
            before, self._is_offering = self._is_offering, True
            self.cells.value, self.nuclei.value = cells, nuclei
            self._is_offering = before

    @property
    def value(self) -> Channels | None:
        """Channel of the cells and of the nuclei; None where none is chosen, or is to be."""
        is_chosen = self.layout.display != "none" and self.cells.value is not None
        return (self.cells.value, self.nuclei.value) if is_chosen else None

    @property
    def is_missing(self) -> bool:
        """Whether there are channels of which none is chosen."""
        return self.layout.display != "none" and self.cells.value is None

    def _show_pictures(self) -> None:
        """Show what is in each channel until one is chosen."""
        show(self.cells.value is None, self.pictures)

    def _on_changed(self) -> None:
        if not self._is_offering:
            self._show_pictures()
            if self.value:
                with suppress(OSError), whole(self._file) as scratch:
                    scratch.write_text(json.dumps(self.value))
            self._on_change()


def _picture(title: str, plane: np.ndarray) -> str:
    encoded, name = b64encode(draw_small(plane, 120)).decode(), escape(title)
    image = f"<img src='data:image/jpeg;base64,{encoded}' height='90' alt='{name}'/>"
    return f"<figure style='display:inline-block;margin:0 8px 0 0'>{image}<br>{name}</figure>"


def draw_small(pixels: np.ndarray, side: int) -> bytes:
    """Draw an image, number[H, W] or number[H, W, C], at most `side` px large, as a JPEG."""
    step = -(-max(pixels.shape[:2]) // side)
    small = np.moveaxis(np.atleast_3d(pixels)[::step, ::step], -1, 0)
    return cv2.imencode(".jpg", compose([*small])[..., ::-1])[1].tobytes()


def compose(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Compose up to three planes, each from its 1st to its 99th percentile, uint8[H, W, 3]."""
    even = [255 * normalise(plane[None].astype(np.float32))[0] for plane in planes[:3]]
    last = even[0] if len(even) == 1 else np.zeros_like(even[0])
    return np.dstack(even + [last] * (3 - len(even))).clip(0, 255).astype(np.uint8)


class Message(ipywidgets.HTML):
    """The one line in which a panel speaks; read aloud by a screen reader when it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("scellseg-message")
        self.text, self.is_error = "", False

    def tell(self, text: str, *, is_error: bool = False) -> None:
        """Say how things are."""
        self.text, self.is_error = text, is_error
        lines = escape(text).replace("\n", "<br>")
        if is_error:
            lines = f"<span class='scellseg-problem'>&#9888; Problem: {lines}</span>"
        self.value = f"<div role='status'>{lines}</div>" if text else ""

    def fail(self, text: str) -> None:
        """Say what is wrong and what to do."""
        self.tell(text, is_error=True)

    @contextmanager
    def tell_errors(self) -> Iterator[None]:
        """Say what goes wrong within, and go on after it."""
        try:
            yield
        except Exception as error:
            self.fail(plain(error))
