"""Inspector: truth against prediction in colours, and thresholds that act while they are moved."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets
import numpy as np

from scellseg_lib import metrics, progress
from scellseg_lib.data import Sample
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.metrics import ObjectMatches
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding
from scellseg_lib.segment import Cells
from scellseg_lib.widgets import comparison
from scellseg_lib.widgets.comparison import IOUS
from scellseg_lib.widgets.inspected import Found, Inspected, Record, inspected, network_pictures
from scellseg_lib.widgets.jobs import Job
from scellseg_lib.widgets.thresholds import Newest, Thresholds
from scellseg_lib.widgets.view import ImageView
from scellseg_lib.widgets.wording import Message, count, heading, plain

__all__ = ["Inspected", "Inspector"]

EMPTY = (
    "There is nothing to inspect yet. Segment one or more images first; their cells are then shown "
    "here, beside the true cells where you have drawn them."
)
FIXED = (
    "The thresholds of these cells cannot be moved, since what the network said was not kept. "
    "Segment the image once more to move them."
)


class Inspector(ipywidgets.VBox):
    """Images with the cells found in them, against the true cells where they are known.

    Parameters
    ----------
    entries : sequence of Inspected
    on_edit : callable, optional
        Called with the entry that is looked at, its cells at the present thresholds, by the button
        "Correct this image", which is there only with it.

    Attributes
    ----------
    view : ImageView
        The picture.
    iou : ipywidgets.FloatSlider
        Threshold from which on a found cell is right, 0.50 to 0.95.
    thresholds : Thresholds
        Of the step from the network's maps to cells.
    """

    def __init__(
        self,
        entries: Sequence[Inspected] = (),
        *,
        on_edit: Callable[[Inspected], None] | None = None,
    ) -> None:
        self._records: list[Record] = []
        self._order: list[int] = []
        self._current = 0
        self._looked_at: Record | None = None
        self._seen: Found | None = None
        self._on_edit, self._filling = on_edit, False
        self._job: Job | None = None
        self._tips: list[str] = []
        self.view = ImageView()
        self.view.observe(lambda _: self._tell_selected(), "selected")
        self.view.on_cycle(self._step)
        self._redraw = Newest(self._draw_or_say)
        self.thresholds = Thresholds(self._redraw)
        self.iou = _iou_slider()
        self.iou.observe(lambda _: self._redraw(), "value")
        self._list = ipywidgets.Select(layout={"width": "auto", "height": "380px"})
        self._list.add_class("scellseg-images")
        self._list.observe(lambda change: self._go(change["new"]), "value")
        self._message = Message()
        self._summary, self._told = _html("summary"), _html("told")
        self._legend, self._curve = _html("legend"), _html("ap-curve")
        self._body = self._laid_out()
        super().__init__([heading("Inspect the cells"), self._message, self._body])
        self.add_class("scellseg-inspector")
        self.show(entries)

    @classmethod
    def of(
        cls,
        cells: Sequence[Cells],
        samples: Sequence[Sample],
        model: Model,
        *,
        decoding: Decoding | None = None,
        resample: bool = True,
        on_edit: Callable[[Inspected], None] | None = None,
    ) -> Inspector:
        """Inspect what `segment` has given.

        Parameters
        ----------
        cells : sequence of Cells
        samples : sequence of Sample
            That were segmented, in the same order; the masks of those that have some are the truth.
        model : Model
            That segmented them.
        decoding : Decoding, optional
            Thresholds that were used; None: the model's own.
        resample : bool
            As given to `segment`.
        on_edit : callable, optional
            See the class.

        Raises
        ------
        DatasetError
            If the cells are not those of the samples.
        """
        if [one.name for one in cells] != [sample.name for sample in samples]:
            raise DatasetError(
                f"these {len(cells)} results are not those of these {len(samples)} images",
                remedy="Give the images that were segmented, in the same order.",
            )
        entries = [
            inspected(found, sample, model, decoding or model.card.decoding, resample)
            for found, sample in zip(cells, samples, strict=True)
        ]
        return cls(entries, on_edit=on_edit)

    def show(self, entries: Sequence[Inspected]) -> None:
        """Look at other images, the worst first, at their own thresholds."""
        if self._job is not None:
            self._job.cancel()
        self.thresholds.chosen = {}
        self._records = [Record(entry) for entry in entries]
        standings = [record.now.standing for record in self._records]
        self._order = comparison.worst_first(standings, self.iou.value)
        self._current = self._order[0] if self._order else 0
        self._looked_at = None
        self._redraw()

    @property
    def entry(self) -> Inspected | None:
        """Image that is looked at, with the cells at the present thresholds; None without any."""
        if not self._records:
            return None
        record = self._records[self._current]
        found = record.now
        return replace(
            record.entry, true=record.true, predicted=found.masks, decoding=found.decoding
        )

    @property
    def names(self) -> list[str]:
        """Names of the images in the order of the list: the worst first."""
        return [self._records[index].entry.name for index in self._order]

    def next(self) -> None:
        """Go to the next image of the list; from the last to the first."""
        self._step(1)

    def previous(self) -> None:
        """Go to the image before in the list; from the first to the last."""
        self._step(-1)

    def go_to(self, name: str) -> None:
        """Look at the image of this name, if there is one."""
        for index in self._order:
            if self._records[index].entry.name == name:
                self._go(index)

    def picture(self) -> bytes:
        """What is seen, as a still PNG: the cells beside the AP curve."""
        record, iou = self._records[self._current], self.iou.value
        scores = record.now.standing.scores
        return comparison.still(self.view.picture(), record.entry.name, scores, iou)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not progress.run_by_machine():
            return super()._repr_mimebundle_(**kwargs)
        words = {"text/plain": f"Inspector: {len(self._records)} images"}
        if not self._records:
            return words, {}
        return {"image/png": b64encode(self.picture()).decode()} | words, {}

    def apply_to_all(self) -> Job:
        """Bring the other images to the present thresholds too, in a thread of its own."""
        if self._job is not None:
            self._job.cancel()
        wanted = [(record, record.decoding(self.thresholds)) for record in self._records]

        def work(job: Job) -> None:
            for done, (record, decoding) in enumerate(wanted):
                job.report(done, len(wanted))
                record.apply(decoding)

        self._job = Job(work, on_change=self._applied)
        return self._job.start()

    def _laid_out(self) -> ipywidgets.HBox:
        """Make the buttons, and put all below the message in three columns."""
        self._previous = _button(
            "◀ Previous", "previous", "Image before in the list", self.previous
        )
        self._next = _button("Next ▶", "next", "Next image of the list", self.next)
        self._correct = _button(
            "Correct this image", "correct", "Open its cells in the editor", self._edit
        )
        self._correct.button_style = "primary"
        self._correct.layout.display = None if self._on_edit else "none"
        self._apply = _button(
            "Apply to all images",
            "apply",
            "Find the cells of the other images at these thresholds too",
            self.apply_to_all,
        )
        moved = heading("Thresholds")
        buttons = ipywidgets.HBox([self._previous, self._next, self._correct])
        columns = (
            ("0 0 250px", [self._summary, self._list]),
            ("1 1 420px", [buttons, self.view, self._told]),
            (
                "0 0 350px",
                [self.iou, self._legend, self._curve, moved, self.thresholds, self._apply],
            ),
        )
        boxes = [
            ipywidgets.VBox(
                children, layout={"flex": flex, "min_width": "0", "margin": "0 8px 0 0"}
            )
            for flex, children in columns
        ]
        # What finds no room beside the picture goes below it.
        return ipywidgets.HBox(boxes, layout={"width": "100%", "flex_flow": "row wrap"})

    def _applied(self, job: Job) -> None:
        if job is not self._job:
            return  # other images are shown by now
        if job.ended:
            self._redraw()
        if job.error is not None:
            self._message.fail(plain(job.error))
        elif not job.ended:
            self._message.tell(
                f"Applying the thresholds: {job.done} of {count(job.total, 'image')} done."
            )

    def _go(self, index: int | None) -> None:
        if index is not None and index != self._current and not self._filling:
            self._current = index
            self._redraw()

    def _step(self, by: int) -> None:
        if self._order:
            place = self._order.index(self._current)
            self._go(self._order[(place + by) % len(self._order)])

    def _draw_or_say(self) -> None:
        try:
            self._draw()
        except Exception as error:
            self._message.fail(plain(error))

    def _draw(self) -> None:
        """Show the current image at the present thresholds; `_redraw` alone calls it."""
        self._body.layout.display = None if self._records else "none"
        if not self._records:
            self._message.tell(EMPTY)
            return
        record, iou = self._records[self._current], self.iou.value
        found = record.apply(record.decoding(self.thresholds))
        matched = None
        if record.true is not None and found.standing.scores is not None:
            matched = metrics.match(record.true, found.masks, iou)
        problem = self._draw_cells(record, found, matched) or found.standing.problem
        before = record.given.standing.scores if found is not record.given else None
        self._legend.value = comparison.legend(matched, found.masks, iou)
        self._curve.value = comparison.curve(found.standing.scores, iou, before)
        self._list_images(record, iou)
        self._tell_selected()
        if problem:
            self._message.fail(problem)
        else:
            self._message.tell(self._place(record, found))

    def _draw_cells(self, record: Record, found: Found, matched: ObjectMatches | None) -> str:
        """Bring the picture up to date; returns what is wrong with the image, or nothing."""
        problem = ""
        if record is not self._looked_at:
            problem = self._open(record, found, None if matched is None else record.true)
        elif found is not self._seen:
            self.view.show_labels(found.masks)
        self._looked_at, self._seen = record, found
        if matched is None:
            self._tips = comparison.sizes(found.masks)
            self.view.colour(None)
            self.view.tell(self._tips)
        else:
            self._tips = comparison.tips(matched, "predicted")
            self.view.colour(*(comparison.colours(matched, side) for side in comparison.SIDES))
            self.view.tell(self._tips, comparison.tips(matched, "true"))
        return problem

    def _open(self, record: Record, found: Found, true: np.ndarray | None) -> str:
        """Show another image; returns what is wrong with it, or nothing."""
        entry, layers, problem = record.entry, {}, ""
        if entry.prediction is not None and entry.representation is not None:
            layers = network_pictures(entry.prediction, entry.representation)
        try:
            image, channels = record.picture(), entry.channels
        except (ScellsegError, OSError) as error:
            # The cells can be looked at all the same.
            image, channels = np.zeros(found.masks.shape, np.uint8), ()
            problem = plain(error)
        self.view.show(
            image,
            found.masks,
            reference=true,
            channels=channels,
            layers=layers,
            title=entry.name,
        )
        if record.decoding(self.thresholds) is None:
            self.thresholds.load(None, None, FIXED)
        else:
            self.thresholds.load(entry.decoding, entry.representation)
        return problem

    def _list_images(self, record: Record, iou: float) -> None:
        """Bring the list, its order and what acts on it up to date."""
        standings = [record.now.standing for record in self._records]
        stale = [record.stale(self.thresholds) for record in self._records]
        self._order = comparison.worst_first(standings, iou)
        options = [
            (comparison.line(standings[i], iou) + (" *" if stale[i] else ""), i)
            for i in self._order
        ]
        self._filling = True  # the list goes to its first line when it is filled
        if self._list.options != tuple(options):
            self._list.options = options
        self._list.value = self._records.index(record)
        self._filling = False
        self._summary.value = comparison.summary(standings, iou, n_stale=sum(stale))
        self._apply.disabled = not any(stale)
        self._previous.disabled = self._next.disabled = len(self._order) < 2

    def _place(self, record: Record, found: Found) -> str:
        place = self._order.index(self._records.index(record)) + 1
        text = f"{record.entry.name}: image {place} of {len(self._order)}, the worst first."
        if found.masks.any():
            return text
        return f"{text} No cells were found in it; lower the first threshold to find more."

    def _tell_selected(self) -> None:
        label = self.view.selected
        chosen = self._tips[label] if 0 < label < len(self._tips) else ""
        self._told.value = chosen or "Point at a cell to read what became of it."

    def _edit(self) -> None:
        entry = self.entry
        if entry is not None and self._on_edit is not None:
            self._on_edit(entry)


def _iou_slider() -> ipywidgets.FloatSlider:
    slider = ipywidgets.FloatSlider(
        value=IOUS[0],
        min=IOUS[0],
        max=IOUS[-1],
        step=0.01,
        description="IoU",
        readout_format=".2f",
        tooltip="From which agreement with a true cell on a found cell is right",
        style={"description_width": "110px"},
        layout={"width": "100%"},
    )
    slider.add_class("scellseg-iou")
    return slider


def _html(name: str, text: str = "") -> ipywidgets.HTML:
    widget = ipywidgets.HTML(text)
    widget.add_class(f"scellseg-{name}")
    return widget


def _button(text: str, name: str, help: str, act: Callable[[], object]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, tooltip=help, layout={"width": "auto"})
    button.add_class(f"scellseg-{name}")
    button.on_click(lambda _: act())
    return button
