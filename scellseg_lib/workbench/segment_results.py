"""Results of the inference panel: cells by image, to look at and correct; rounds of correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from threading import RLock

import ipywidgets

from scellseg_lib.errors import ScellsegError
from scellseg_lib.workbench.experiment import (
    UNCOUNTED,
    Experiment,
    SegmentedImage,
    count_cells,
)
from scellseg_lib.workbench.folder_run import reworded
from scellseg_lib.workbench.forms import Message, button, count, plain
from scellseg_lib.workbench.jobs import Job

Action = Callable[[SegmentedImage], None]
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
        Called with a `SegmentedImage` by "Look at it" and "Correct it", which are there only
        with them.

    Attributes
    ----------
    entries : list of SegmentedImage
    job : Job or None
        Counts their cells, which can take a while; None where their numbers are known.
    """

    def __init__(self, on_inspect: Action | None, on_edit: Action | None) -> None:
        self.entries: list[SegmentedImage] = []
        self.job: Job | None = None
        self._lock = RLock()  # lists come from the page, from a run that ends, and counted
        self.list = ipywidgets.Select(rows=10, layout={"width": "520px"})
        self.list.add_class("scellseg-segment-results")
        self.message = Message()
        actions = (("Look at it", "inspect", on_inspect), ("Correct it", "edit", on_edit))
        self.buttons = {name: self._button(words, name, act) for words, name, act in actions if act}
        self.rounds = ipywidgets.HTML().add_class("scellseg-rounds")
        buttons = ipywidgets.HBox(list(self.buttons.values()))
        super().__init__([self.message, self.list, buttons, self.rounds])

    def show(self, entries: Sequence[SegmentedImage], folder: Path | None) -> None:
        """Show results, and the rounds of the experiment in a folder."""
        with self._lock:
            self._show(entries)
            self._show_rounds(folder)
            self._count()

    def _show(self, entries: Sequence[SegmentedImage]) -> None:
        chosen = None if self.list.index is None else self.entries[self.list.index].masks
        self.entries = list(entries)
        lines = [_line(entry.name, entry.cells) for entry in self.entries]
        self.list.options = [(line, k) for k, line in enumerate(lines)]
        there = [entry.masks for entry in self.entries]
        if there:
            self.list.index = there.index(chosen) if chosen in there else 0
        self.list.layout.display = None if there else "none"
        for one in self.buttons.values():
            one.disabled = not there
        if not there:
            self.message.tell("Nothing is segmented here yet. Press Segment above.")

    def _count(self) -> None:
        """Count the cells, in the background where files must be read for that."""
        if self.job is not None:
            self.job.cancel()
            self.job = None  # it may be through before it hears of that
        entries = self.entries
        if all(entry.cells != UNCOUNTED for entry in entries):
            self._counted([entry.cells for entry in entries])
            return
        self.message.tell(f"{count(len(entries), 'image')}; their cells are being counted ...")

        def work(job: Job) -> list[int | None]:
            cells = []
            for done, entry in enumerate(entries):
                job.report(done, len(entries))
                cells.append(count_cells(entry.masks))
            return cells

        self.job = Job(work, on_change=self._followed)
        self.job.start()

    def _followed(self, job: Job) -> None:
        with self._lock:
            if job is not self.job:
                return  # others are listed by now
            if job.state == "done":
                self._counted(job.result)
            elif job.error is not None:
                self.message.fail(plain(job.error))

    def _counted(self, cells: list[int | None]) -> None:
        """Add the numbers of cells to the list; what is chosen in it stays."""
        if not self.entries:
            return
        chosen = self.list.index
        self.list.options = [
            (_line(entry.name, number), k)
            for k, (entry, number) in enumerate(zip(self.entries, cells, strict=True))
        ]
        self.list.index = chosen
        total = sum(number or 0 for number in cells)
        self.message.tell(f"{count(len(cells), 'image')} with {count(total, 'cell')}.")

    def _button(self, words: str, name: str, act: Action) -> ipywidgets.Button:
        def press() -> None:
            with self._lock:
                chosen = self.entries[self.list.index]
            try:
                act(chosen)
            except (ScellsegError, OSError) as error:
                self.message.fail(reworded(plain(error)))

        return button(words, f"segment-{name}", press)

    def _show_rounds(self, folder: Path | None) -> None:
        self.rounds.value = ""
        if folder is None:
            return
        try:
            summary = Experiment(folder).sum_up_rounds()
        except ScellsegError as error:
            self.rounds.value = f"<p>&#9888; {escape(plain(error))}</p>"
            return
        if len(summary):
            table = summary[list(_SUMMARY)].rename(columns=_SUMMARY)
            html = table.to_html(index=False, border=0, float_format="{:.3f}".format, na_rep="-")
            self.rounds.value = (
                f"{_STYLE}<b>Rounds of correction</b>{html}<small>Annotated images: when the round "
                "began. Scores, from 0 to 1, compare what the model gave with your correction; "
                "images that it had learnt from do not count. IoU says how well two outlines "
                "agree: the area that both share, divided by the area of either. AP at IoU 0.5: "
                "the cells found with an IoU of 0.5 or more, divided by these and all that were "
                "missed or found wrongly. Mean AP: the same, averaged over ten demands from 0.5 "
                "to 0.95.</small>"
            )


def _line(name: str, cells: int | None) -> str:
    if cells is None:
        return f"{name}: the masks are damaged; delete their file and segment again"
    return name if cells == UNCOUNTED else f"{name}: {count(cells, 'cell')}"
