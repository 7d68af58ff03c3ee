"""What the panels say: errors, times and headings in words for somebody who writes no code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path

import ipywidgets
import torch

from scellseg_lib.errors import ScellsegError

ERROR_COLOUR = "#b3261e"
ONE_PLANE = (
    "Save it as one plane, or from ImageJ as a TIFF of several channels, which says what they are."
)
"""What to do about a stack, where the library would name an argument."""


def plain(error: BaseException) -> str:
    """Say what is wrong and what to do; what nobody foresaw goes to the log in full."""
    if isinstance(error, ScellsegError):
        where = f"{Path(error.where).name}: " if error.where is not None else ""
        remedy = error.remedy or ""
        if "page=" in remedy or "axes=" in remedy:
            remedy = ONE_PLANE
        return f"{where}{error.what}. {remedy}".strip()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "The memory does not suffice. Use fewer images per step, or close other programs."
    if isinstance(error, OSError):
        name = f"{Path(error.filename).name}: " if error.filename else ""
        if isinstance(error, FileNotFoundError):
            return (
                f"{name}there is no such file or folder. Check how it is written, and that it was "
                "not moved, renamed or deleted."
            )
        return (
            f"{name}{error.strerror or error}. Check that the folder can be written to and its "
            "disk has room."
        )
    logging.getLogger(__name__).error("unforeseen", exc_info=error)
    return (
        f"Something unforeseen happened ({type(error).__name__}: {error}). Nothing that was saved "
        "is lost: try again, and if it happens again, tell the authors these words."
    )


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


def heading(text: str) -> ipywidgets.HTML:
    """Heading of a part of a panel."""
    widget = ipywidgets.HTML(f"<h3 style='margin:14px 0 4px'>{escape(text)}</h3>")
    return widget.add_class("scellseg-heading")


def button(
    words: str,
    name: str,
    act: Callable[[], object] | None = None,
    *,
    tip: str = "",
    style: str = "",
) -> ipywidgets.Button:
    """Button of the class ``scellseg-NAME``, as wide as its words.

    Parameters
    ----------
    words : str
        On it.
    name : str
    act : callable, optional
        Called when it is pressed.
    tip : str
        Shown while the pointer rests on it.
    style : str
        "primary", "warning" or "danger".
    """
    made = ipywidgets.Button(
        description=words, tooltip=tip or None, button_style=style, layout={"width": "auto"}
    )
    if act is not None:
        made.on_click(lambda _: act())
    return made.add_class(f"scellseg-{name}")


def typed_path(text: str) -> Path | None:
    """Path as it was typed or pasted, with quotes perhaps, made absolute; None for nothing."""
    bare = text.strip().strip("\"'").strip()
    return Path(bare).expanduser().resolve() if bare else None


def row(label: str, *widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Labelled row; the widgets take the room beside the label."""
    name = ipywidgets.HTML(
        f"<span>{escape(label)}</span>", layout=ipywidgets.Layout(flex="0 0 150px")
    )
    layout = ipywidgets.Layout(align_items="center", flex_flow="row wrap", width="100%")
    return ipywidgets.HBox([name, *widgets], layout=layout).add_class("scellseg-row")


class Message(ipywidgets.HTML):
    """The one line in which a panel speaks; read aloud by a screen reader when it changes."""

    def __init__(self) -> None:
        super().__init__()
        self.add_class("scellseg-message")
        self.text, self.is_error = "", False

    def tell(self, text: str) -> None:
        """Say how things are."""
        self._say(text, error=False)

    def fail(self, text: str) -> None:
        """Say what is wrong and what to do."""
        self._say(text, error=True)

    def _say(self, text: str, *, error: bool) -> None:
        self.text, self.is_error = text, error
        lines = escape(text).replace("\n", "<br>")
        if error:
            lines = f"<span style='color:{ERROR_COLOUR}'>&#9888; <b>Problem:</b> {lines}</span>"
        self.value = f"<div role='status'>{lines}</div>" if text else ""
