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

from scellseg_lib import progress
from scellseg_lib.errors import ImageError, ModelError, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files.layout import experiment_of, list_images
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.experiment import SegmentedImage
from scellseg_lib.workbench.export_panel import ExportPanel
from scellseg_lib.workbench.finetune_panel import FinetunePanel
from scellseg_lib.workbench.forms import Message, plain
from scellseg_lib.workbench.inspect import Inspector
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.segment_panel import SegmentPanel
from scellseg_lib.workbench.session import STEP, FoundCells, Suggestion, find_cells

TABS = ("1 Annotate", "2 Fine-tune", "3 Segment", "4 Inspect", "5 Export")
ANNOTATE, FINETUNE, SEGMENT, INSPECT, EXPORT = range(5)
USED = "The thresholds are those that you have found under 4 Inspect. Press Segment to use them."
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
        self.annotate = AnnotatePanel(
            on_folder=self._go_to, on_learn=self._learnt, on_suggest=self._finder
        )
        self.finetune = FinetunePanel(on_tuned=self._tuned)
        self.segment = SegmentPanel(on_inspect=self.inspect, on_edit=self._correct_result)
        self.inspector = Inspector(on_edit=self._correct_inspected, on_use=self._use_thresholds)
        self.export = ExportPanel()
        self._results: dict[str, SegmentedImage] = {}
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

    def inspect(self, result: SegmentedImage) -> None:
        """Look at a result among all others, against the cells that were drawn."""
        results = self.segment.results.entries
        self._results = {one.name: one for one in results}
        drawn = _drawn(result)
        self.inspector.show([one.to_inspect(drawn.get(one.name)) for one in results], result.name)
        self._turn_to(INSPECT)

    def correct(self, result: SegmentedImage) -> Job:
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

    def _finder(self, image: Path) -> Callable[[], Suggestion]:
        """What finds cells of an image with the model and the settings of step 3 as they are."""
        chosen = self.segment.form.chosen
        if chosen is None:
            raise ModelError("there is no model", remedy=f"Choose one {STEP}.")
        offered, model, settings = chosen

        def find() -> Suggestion:
            try:
                return find_cells(image, offered.file.removesuffix(".safetensors"), model, settings)
            except ImageError as error:
                self.segment.ask_channels(image, error)
                raise

        return find

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

    def _correct_result(self, result: SegmentedImage) -> None:
        self.correct(result)

    def _correct_inspected(self, entry: FoundCells) -> None:
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

    def _use_thresholds(self, entry: FoundCells) -> None:
        if entry.decoding is not None:
            self.segment.form.take_thresholds(entry.decoding)
            self._turn_to(SEGMENT)
            self.segment.message.tell(USED)


def _drawn(result: SegmentedImage) -> dict[str, Callable[[], np.ndarray]]:
    """What reads the masks that were drawn of the result's experiment, by name."""
    images = list_images(experiment_of(result.image))
    return {
        one.name: partial(readers.read_masks, one.masks) for one in images if one.masks is not None
    }
