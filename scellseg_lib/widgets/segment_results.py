"""Results of the inference panel: cells by image, to look at and correct; rounds of correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import ipywidgets

from scellseg_lib.errors import ScellsegError
from scellseg_lib.widgets.folder_run import reworded
from scellseg_lib.widgets.rounds import Rounds
from scellseg_lib.widgets.segmented import Result
from scellseg_lib.widgets.wording import Message, count, plain

Action = Callable[[Result], None]
_SUMMARY = {
    "round": "Round",
    "model": "Model",
    "shots": "Annotated images",
    "shot_cells": "Their cells",
    "images": "Corrected images",
    "ap50": "AP at IoU 0.5",
    "map": "Mean AP",
    "added": "Cells added",
    "removed": "Cells removed",
    "changed": "Cells changed",
}

_STYLE = (
    "<style>.scellseg-rounds th, .scellseg-rounds td "
    "{padding: 2px 10px; text-align: right; line-height: 1.3}</style>"
)


class SegmentResults(ipywidgets.VBox):
    """List of segmented images.

    Parameters
    ----------
    on_inspect, on_edit : callable or None
        Called with a `Result` by "Look at it" and "Correct it", which are there only with them.

    Attributes
    ----------
    entries : list of Result
    """

    def __init__(self, on_inspect: Action | None, on_edit: Action | None) -> None:
        self.entries: list[Result] = []
        self.list = ipywidgets.Select(rows=10, layout={"width": "520px"})
        self.list.add_class("scellseg-segment-results")
        self.message = Message()
        actions = (("Look at it", "inspect", on_inspect), ("Correct it", "edit", on_edit))
        self.buttons = {name: self._button(words, name, act) for words, name, act in actions if act}
        self.rounds = ipywidgets.HTML().add_class("scellseg-rounds")
        buttons = ipywidgets.HBox(list(self.buttons.values()))
        super().__init__([self.message, self.list, buttons, self.rounds])

    def show(self, entries: Sequence[Result], folder: Path | None) -> None:
        """Show results, and the rounds of the experiment in a folder."""
        chosen = None if self.list.index is None else self.entries[self.list.index].masks
        self.entries = list(entries)
        self.list.options = [(_line(entry), k) for k, entry in enumerate(self.entries)]
        there = [entry.masks for entry in self.entries]
        if there:
            self.list.index = there.index(chosen) if chosen in there else 0
        self.list.layout.display = None if there else "none"
        for button in self.buttons.values():
            button.disabled = not there
        cells = sum(entry.cells or 0 for entry in self.entries)
        self.message.tell(
            f"{count(len(there), 'image')} with {count(cells, 'cell')}."
            if there
            else "Nothing is segmented here yet. Press Segment above."
        )
        self._show_rounds(folder)

    def _button(self, words: str, name: str, act: Action) -> ipywidgets.Button:
        def press(_: object) -> None:
            try:
                act(self.entries[self.list.index])
            except (ScellsegError, OSError) as error:
                self.message.fail(reworded(plain(error)))

        button = ipywidgets.Button(description=words)
        button.on_click(press)
        return button.add_class(f"scellseg-segment-{name}")

    def _show_rounds(self, folder: Path | None) -> None:
        self.rounds.value = ""
        if folder is None:
            return
        try:
            summary = Rounds(folder).summary()
        except ScellsegError as error:
            self.rounds.value = f"<p>&#9888; {escape(plain(error))}</p>"
            return
        if len(summary):
            table = summary[list(_SUMMARY)].rename(columns=_SUMMARY)
            html = table.to_html(index=False, border=0, float_format="{:.3f}".format, na_rep="-")
            self.rounds.value = (
                f"{_STYLE}<b>Rounds of correction</b>{html}<small>Annotated images: when the round "
                "began. Scores compare what the model gave with your correction; images that it "
                "had learnt from do not count.</small>"
            )


def _line(entry: Result) -> str:
    if entry.cells is None:
        return f"{entry.name}: the masks are damaged; delete their file and segment again"
    return f"{entry.name}: {count(entry.cells, 'cell')}"
