"""Inspector: truth against prediction in colours, and thresholds that act while they are moved."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from scellseg_lib import metrics, progress
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.metrics import ObjectMatches
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import Cells, Prediction
from scellseg_lib.workbench import comparison
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.inspected import Found, Inspected, Looked, Record, inspected
from scellseg_lib.workbench.inspector_form import ASKING, EMPTY, FIXED, InspectorForm
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.thresholds import Newest

__all__ = ["Inspected", "Inspector", "Looked"]


class Inspector(InspectorForm):
    """Images with the cells found in them, against the true cells where they are known.

    Parameters
    ----------
    entries : sequence of Inspected
    on_edit : callable, optional
        Called with the entry that is looked at, its cells at the present thresholds, by the button
        "Correct this image", which is there only with it.
    on_use : callable, optional
        The same by "Segment with these", for its thresholds.

    Attributes
    ----------
    view, iou, thresholds
        See `InspectorForm`.
    """

    def __init__(
        self,
        entries: Sequence[Inspected] = (),
        *,
        on_edit: Callable[[Looked], None] | None = None,
        on_use: Callable[[Looked], None] | None = None,
    ) -> None:
        self._records: list[Record] = []
        self._order: list[int] = []
        self._current = 0
        self._looked_at: tuple[Record, Prediction | None] | None = None
        self._seen: Found | None = None
        self._filling = False
        self._job: Job | None = None
        self._comparing: Job | None = None
        self._asking: Job | None = None
        self._refusal = ""
        self._tips: list[str] = []
        self._redraw = Newest(self._draw_or_say)
        super().__init__(self._redraw)
        self._correct.layout.display = None if on_edit else "none"
        self._use.layout.display = None if on_use else "none"
        self.view.observe(lambda _: self._tell_selected(), "selected")
        self.view.on_cycle(self._step)
        self.iou.observe(lambda _: self._redraw(), "value")
        self._list.observe(lambda change: self._go(change["new"]), "value")
        clicks = {
            self._previous: self.previous,
            self._next: self.next,
            self._correct: partial(self._give, on_edit),
            self._use: partial(self._give, on_use),
            self._apply: self.apply_to_all,
        }
        for pressed, act in clicks.items():
            pressed.on_click(lambda _, act=act: act())
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
        on_edit: Callable[[Looked], None] | None = None,
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

    def show(self, entries: Sequence[Inspected], first: str = "") -> None:
        """Look at other images, the worst first or that of a name, at their own thresholds.

        Those whose cells are to be read first are put into their order in the background.
        """
        for job in (self._job, self._comparing, self._asking):
            if job is not None:
                job.cancel()
        self.thresholds.chosen = {}
        self._records = [Record(entry) for entry in entries]
        standings, names = [r.standing for r in self._records], [one.name for one in entries]
        self._order = comparison.worst_first(standings, self.iou.value)
        self._current = names.index(first) if first in names else (self._order or [0])[0]
        self._looked_at = None
        self._redraw()
        if any(standing.pending for standing in standings):
            records = list(self._records)
            self._comparing = Job(partial(self._compare_all, records), on_change=self._compared)
            self._comparing.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing runs in the background, at most `timeout` seconds for each part."""
        for job in (self._comparing, self._asking, self._job):
            if job is not None:
                job.join(timeout)

    @property
    def entry(self) -> Looked | None:
        """Image that is looked at, with the cells at the present thresholds; None without any."""
        if not self._records:
            return None
        record = self._records[self._current]
        found, given = record.load(), record.entry
        return Looked(
            given.name,
            given.image,
            found.true,
            found.masks,
            record.prediction,
            given.representation,
            found.decoding,
            given.resample,
            given.channels,
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
        scores = record.load().standing.scores
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
                record.ask()
                record.apply(decoding)
                self._rest(record)

        self._job = Job(work, on_change=self._applied)
        return self._job.start()

    def _rest(self, record: Record) -> None:
        """Free the memory of an image that nobody looks at."""
        if not self._records or record is not self._records[self._current]:
            record.rest()

    def _compare_all(self, records: list[Record], job: Job) -> None:
        for done, record in enumerate(records):
            job.report(done, len(records))
            record.load()
            self._rest(record)

    def _compared(self, job: Job) -> None:
        if self._goes_on(job, self._comparing) and job.total:
            self._summary.value = f"Comparing: {job.done} of {count(job.total, 'image')} done."

    def _goes_on(self, job: Job, latest: Job | None) -> bool:
        """Whether the latest job is under way; its end is shown, one of before is passed over."""
        if job is not latest:
            return False  # other images are shown by now
        if job.ended:
            self._redraw()
        if job.error is not None:
            self._message.fail(plain(job.error))
        return not job.ended

    def _ask(self, record: Record) -> None:
        """Ask the network about an image, so that its thresholds can be moved."""
        before = self._asking

        def work(job: Job) -> None:
            if before is not None:
                before.join()  # two at once are slower than one after the other
            job.report(0, 1)
            record.ask()
            self._rest(record)

        if before is not None:
            before.cancel()
        self._refusal = ""
        self._asking = Job(work, on_change=self._asked)
        self._asking.start()

    def _asked(self, job: Job) -> None:
        if job is self._asking and job.ended:
            self._refusal = plain(job.error) if job.error is not None else ""
            self._redraw()

    def _applied(self, job: Job) -> None:
        if self._goes_on(job, self._job) and job.total:
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
        if found.true is not None and found.standing.scores is not None:
            matched = metrics.match(found.true, found.masks, iou)
        problem = self._draw_cells(record, found, matched) or found.standing.problem
        before = record.given_scores if found.decoding != record.entry.decoding else None
        self._show_thresholds(record)
        self._legend.value = comparison.legend(matched, found.masks, iou)
        self._curve.value = comparison.curve(found.standing.scores, iou, before)
        self._list_images(record, iou)
        self._tell_selected()
        if problem or self._refusal:
            self._message.fail(problem or self._refusal)
        else:
            self._message.tell(self._place(record, found))

    def _draw_cells(self, record: Record, found: Found, matched: ObjectMatches | None) -> str:
        """Bring the picture up to date; returns what is wrong with the image, or nothing."""
        problem = ""
        if self._looked_at is None or record is not self._looked_at[0]:
            left, self._refusal = self._looked_at, ""
            if left is not None:
                self._rest(left[0])
            self._looked_at = None
            if record.unasked:
                self._ask(record)
        prediction = record.prediction
        if self._looked_at is None or self._looked_at[1] is not prediction:
            problem = self._open(record, found, None if matched is None else found.true)
        elif found is not self._seen:
            self.view.show_labels(found.masks)
        self._looked_at, self._seen = (record, prediction), found
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
        entry, problem = record.entry, ""
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
            layers=record.layers(),
            title=entry.name,
        )
        return problem

    def _show_thresholds(self, record: Record) -> None:
        if record.decoding(self.thresholds) is None:
            self.thresholds.load(None, None, FIXED)
        else:
            note = ASKING if record.unasked else ""
            self.thresholds.load(record.entry.decoding, record.entry.representation, note)

    def _list_images(self, record: Record, iou: float) -> None:
        """Bring the list, its order and what acts on it up to date."""
        standings = [record.standing for record in self._records]
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
        self._use.disabled = not self.thresholds.chosen
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

    def _give(self, take: Callable[[Looked], None] | None) -> None:
        if self.entry is not None and take is not None:
            take(self.entry)
