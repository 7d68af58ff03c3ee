"""The workbench (Fig. 6): annotate, fine-tune, segment, inspect and export in one app."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anywidget
import cv2
import ipywidgets
import numpy as np

from scellseg_lib import progress, readers
from scellseg_lib.errors import ScellsegError
from scellseg_lib.segment import Prediction
from scellseg_lib.widgets.annotate_panel import AnnotatePanel
from scellseg_lib.widgets.annotated_folder import Listed, experiment_of, listed
from scellseg_lib.widgets.export_panel import ExportPanel
from scellseg_lib.widgets.finetune_panel import FinetunePanel
from scellseg_lib.widgets.inspected import Inspected, Looked
from scellseg_lib.widgets.inspector import Inspector
from scellseg_lib.widgets.jobs import Job
from scellseg_lib.widgets.segment_panel import SegmentPanel
from scellseg_lib.widgets.segmented import Result
from scellseg_lib.widgets.wording import Message, plain

TABS = ("1 Annotate", "2 Fine-tune", "3 Segment", "4 Inspect", "5 Export")
ANNOTATE, FINETUNE, SEGMENT, INSPECT, EXPORT = range(5)
MOST = 200
"""Images that are inspected at once: their cells are held in memory."""
T = TypeVar("T")


class _Top(anywidget.AnyWidget):
    """A line of no height, which the page is scrolled to when it is told anything."""

    _esm = """
    export default {
      render({ model, el }) {
        const show = () => el.scrollIntoView();
        model.on("msg:custom", show);
        return () => model.off("msg:custom", show);
      },
    };
    """


class Workbench(ipywidgets.VBox):
    """All steps from images to measurements, side by side.

    Parameters
    ----------
    folder : Path, optional
        Of the experiment. None: it is asked for.

    Attributes
    ----------
    annotate, finetune, segment, inspector, export
        The five panels.
    tabs : Tab
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.annotate = AnnotatePanel(on_folder=self._go_to, on_learn=self._learnt)
        self.finetune = FinetunePanel(on_tuned=self._tuned)
        self.segment = SegmentPanel(on_inspect=self._inspect_result, on_edit=self._correct_result)
        self.inspector = Inspector(on_edit=self._correct_inspected)
        self.export = ExportPanel()
        self._results: dict[str, Result] = {}
        self._asking: Job | None = None
        self.message = Message()
        panels = [self.annotate, self.finetune, self.segment, self.inspector, self.export]
        self.tabs = ipywidgets.Tab(panels, titles=TABS).add_class("scellseg-tabs")
        self.tabs.observe(lambda change: self._turned(change["new"]), "selected_index")
        self.tabs.selected_index = ANNOTATE
        self.annotate.editor.observe(lambda change: self._sized(change["new"]), "diameter")
        self._top = _Top()
        super().__init__([self._top, self.message, self.tabs])
        self.add_class("scellseg-workbench")
        if folder is not None:
            self.annotate.folder.value = str(folder)

    def inspect(self, result: Result) -> Job:
        """Look at a result among all others; the network is asked once more, in the background."""
        results = self.segment.results.entries
        self._results = {one.name: one for one in results}
        self._turn_to(INSPECT)

        def work(job: Job) -> tuple[list[Inspected], str]:
            job.report(0, 1)
            return _entries(results, result)

        def show(found: tuple[list[Inspected], str]) -> None:
            entries, left_out = found
            self.inspector.show(entries)
            self.inspector.go_to(result.name)
            self.message.tell(left_out)

        return self._ask(f"Asking the model about {result.name} once more ...", work, show)

    def correct(self, result: Result) -> Job:
        """Open a result in the mask editor, with what the network says of it."""

        def work(job: Job) -> Prediction | None:
            job.report(0, 1)
            return result.predict()

        def show(prediction: Prediction | None) -> None:
            self.annotate.correct(result, prediction=prediction)
            self._turn_to(ANNOTATE)

        return self._ask(f"Opening {result.name} ...", work, show)

    def picture(self) -> bytes:
        """What is seen of the image that is open, as a still JPEG: a PNG fills a notebook."""
        png = np.frombuffer(self.annotate.editor.picture(), np.uint8)
        pixels = cv2.imdecode(png, cv2.IMREAD_COLOR)
        assert pixels is not None
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not progress.run_by_machine():
            return super()._repr_mimebundle_(**kwargs)
        words = {"text/plain": "Workbench: " + ", ".join(TABS)}
        if self.annotate.current is None:
            return words, {}
        annotated = [image for image in self.annotate.images if image.masks]
        if annotated and not self.annotate.editor.labels.any():
            self.annotate.show(annotated[0])  # a still without cells says little
        return {"image/jpeg": b64encode(self.picture()).decode()} | words, {}

    # --- from one panel to the other ---------------------------------------------------------

    def _go_to(self, folder: Path) -> None:
        self.finetune.folder.value = str(folder)
        self.segment.go_to(folder)
        self.export.go_to(folder)

    def _learnt(self, folder: Path) -> None:
        """An image was annotated: the fine-tune panel looks again."""
        if self.finetune.folder.value == str(folder):
            self.finetune.look()
        else:
            self.finetune.folder.value = str(folder)
        self.segment.list_results()

    def _ask(self, words: str, work: Callable[[Job], T], show: Callable[[T], None]) -> Job:
        """Do something in the background and show what came of it, if nothing else was asked."""

        def followed(job: Job) -> None:
            if job is not self._asking or not job.ended:
                return
            try:
                if job.error is not None:
                    raise job.error
                self.message.tell("")
                show(job.result)
            except Exception as error:
                self.message.fail(plain(error))

        self.message.tell(words)
        self._asking = Job(work, on_change=followed)
        return self._asking.start()

    def _sized(self, diameter: float) -> None:
        """The disk that was set beside the cells is the size that images are segmented at."""
        if diameter > 0:
            self.segment.form.diameter.value = diameter

    def _tuned(self, model: Path) -> None:
        self.segment.go_to(model.parent, model)

    def _turn_to(self, tab: int) -> None:
        """Show a tab from its top, wherever the page has been scrolled to."""
        self.tabs.selected_index = tab
        self._top.send("show")

    def _turned(self, tab: int) -> None:
        """Bring what other panels may have changed up to date."""
        annotate = self.annotate
        annotate.in_words(annotate.keep)
        if annotate.editor.is_changed:
            self.message.fail(annotate.message.text)
        elif self.message.is_error:
            self.message.tell("")
        if tab == FINETUNE and self.finetune.folder.value and not self.finetune.running:
            self.finetune.look()
        elif tab == SEGMENT:
            self.segment.check()
        elif tab == EXPORT:
            self.export.look()

    def _inspect_result(self, result: Result) -> None:
        self.inspect(result)

    def _correct_result(self, result: Result) -> None:
        self.correct(result)

    def _correct_inspected(self, entry: Looked) -> None:
        result = self._results.get(entry.name)
        if result is None:
            return
        try:
            self.annotate.correct(result, entry.predicted, entry.prediction)
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
        else:
            self.message.tell("")
            self._turn_to(ANNOTATE)


def _truths(result: Result) -> dict[str, Listed]:
    """Images of the result's experiment with masks that were drawn, by name."""
    images = listed(experiment_of(result.image))
    return {one.name: one for one in images if one.masks is not None}


def _entries(results: list[Result], chosen: Result) -> tuple[list[Inspected], str]:
    """At most `MOST` results for the inspector, and what is to be said of those left out.

    The chosen one is among them, then those with true cells, then those that follow.
    """
    truths, n, at = _truths(chosen), len(results), results.index(chosen)
    order = sorted(range(n), key=lambda k: (k != at, results[k].name not in truths, (k - at) % n))
    entries, words = [], []
    for one in (results[k] for k in sorted(order[:MOST])):
        try:
            entries.append(_inspected(one, truths.get(one.name), one is chosen))
        except (ScellsegError, OSError) as error:
            if one is chosen:
                raise
            words.append(f"{one.name} is left out. {plain(error)}")
    if n > MOST:
        words.append(f"{MOST} of {n} images are shown: {chosen.name}, and those around it.")
    return entries, "\n".join(words)


def _inspected(result: Result, truth: Listed | None, ask: bool) -> Inspected:
    later = None if result.model is None else result.predict  # when it is looked at
    prediction = result.predict() if ask else later
    return Inspected(
        result.name,
        result.pixels,
        None if truth is None or truth.masks is None else partial(readers.read_masks, truth.masks),
        result.labels(),
        prediction,
        result.model.representation if result.model else None,
        result.settings.decoding,
        result.settings.resample,
    )
