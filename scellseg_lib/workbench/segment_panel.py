"""Inference panel: one image or a folder, with a preview, and results to look at and correct."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from threading import RLock

import ipywidgets
import numpy as np

from scellseg_lib.errors import ChannelsNeeded, ScellsegError
from scellseg_lib.files import images as readers
from scellseg_lib.files.folder import ImageJob
from scellseg_lib.workbench.experiment import SegmentedImage, list_results
from scellseg_lib.workbench.folder_run import (
    FolderRun,
    Place,
    made_otherwise,
    reworded,
)
from scellseg_lib.workbench.forms import (
    Message,
    button,
    count,
    duration,
    heading,
    plain,
    row,
    typed_path,
)
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.segment_preview import Chosen, SegmentPreview
from scellseg_lib.workbench.segment_results import SegmentResults
from scellseg_lib.workbench.segment_settings import SegmentSettings
from scellseg_lib.workbench.session import SegmentationSettings

EMPTY = "Type the folder of your images, or the path of one image, and press Enter."
LOOKED_AT = 5
"""Images that are read until one shows how many channels there are."""
SHOWN = 30
"""Failures that are listed one by one."""


class SegmentPanel(ipywidgets.VBox):
    """Segment one image or a folder.

    Parameters
    ----------
    folder : Path, optional
        Of the experiment: its ``query/`` is proposed, its models are offered, masks go to its
        ``segmented/``.
    on_inspect, on_edit : callable, optional
        Called with a `SegmentedImage` by "Look at it" and "Correct it", which are there only
        with them.

    Attributes
    ----------
    job : Job or None
        The latest run.
    run : FolderRun or None
        Its work, with what came of it.
    results : SegmentResults
        What is there of the images.
    """

    def __init__(
        self,
        folder: Path | None = None,
        on_inspect: Callable[[SegmentedImage], None] | None = None,
        on_edit: Callable[[SegmentedImage], None] | None = None,
    ) -> None:
        self.folder = folder
        self.job: Job | None = None
        self.run: FolderRun | None = None
        self._place: Place | None = None
        self._jobs: list[ImageJob] = []
        self._coloured: Path | None = None
        self._lock = RLock()  # a run may end while the page asks for something
        self._make_places()
        self._make_run()
        self.results = SegmentResults(on_inspect, on_edit)
        self.preview = SegmentPreview(self._chosen, self.ask_channels)
        self.form = SegmentSettings(self.preview.follow)
        super().__init__(self._parts())
        self.add_class("scellseg-segment-panel")
        self.source.observe(lambda _: self._source_typed(), "value")
        self.output.observe(lambda _: self.check(), "value")
        self.form.model.observe(lambda _: self.list_results(), "value")
        self.go_to(folder)

    # --- its parts ----------------------------------------------------------------------------

    def _make_places(self) -> None:
        wide = ipywidgets.Layout(width="520px")
        self.source, self.output = (
            ipywidgets.Text(continuous_update=False, layout=wide).add_class(name)
            for name in ("scellseg-segment-source", "scellseg-segment-output")
        )
        self.source.placeholder = "folder of images, or one image"
        self.found = Message().add_class("scellseg-segment-found")

    def _make_run(self) -> None:
        self.start = button("Segment", "segment-start", self.segment, style="primary")
        self.pause = button("Pause", "segment-pause", self._pause_or_resume)
        self.cancel = button("Stop", "segment-cancel", self._cancel)
        self.bar = ipywidgets.FloatProgress(min=0, max=1, layout={"width": "320px"})
        self.bar.add_class("scellseg-segment-progress")
        self.message = Message()
        self.failures = ipywidgets.HTML().add_class("scellseg-segment-failures")
        anew = button("Yes, make them anew", "segment-anew", self._anew, style="danger")
        keep = button("No, keep them", "segment-keep", self._keep)
        self._asked = ipywidgets.HTML()
        self.question = ipywidgets.VBox([self._asked, ipywidgets.HBox([anew, keep])])
        self.question.add_class("scellseg-segment-question")
        for part in (self.pause, self.cancel, self.bar, self.question):
            part.layout.display = "none"

    def _parts(self) -> list[ipywidgets.Widget]:
        return [
            heading("Segment images"),
            row("Images", self.source),
            row("", self.found),
            row("Masks go to", self.output),
            self.form,
            heading("Try it on one image"),
            self.preview,
            heading("Segment them all"),
            ipywidgets.HBox([self.start, self.pause, self.cancel, self.bar]),
            self.message,
            self.question,
            self.failures,
            heading("Results"),
            self.results,
        ]

    # --- where ----------------------------------------------------------------------------------

    def go_to(self, folder: Path | None, model: Path | None = None) -> None:
        """Go to an experiment, and choose a model, such as one that was just tuned."""
        self.folder = folder
        self.form.refresh(folder, model)
        if folder is not None:
            proposed = str(folder / "query" if (folder / "query").is_dir() else folder)
            if self.source.value != proposed:
                self.source.value = proposed  # is checked thereby
                return
        self.check()

    def _source_typed(self) -> None:
        self.output.value = ""  # that of other images is not meant
        self.check()

    def _typed_place(self) -> Place:
        source = typed_path(self.source.value) or Path()
        root = source if source.is_dir() else source.parent
        within = self.folder is not None and root == (self.folder / "query").resolve()
        usual = (root.parent if within else root) / "segmented"
        self.output.placeholder = str(usual)
        return Place(source, typed_path(self.output.value) or usual)

    def check(self) -> None:
        """Look for the images, and for masks that are there already."""
        with self._lock:
            self._place, self._jobs, twins = None, [], {}
            if typed_path(self.source.value) is None:
                self.found.tell(EMPTY)
            else:
                place = self._typed_place()
                try:
                    self._jobs, outcome = place.plan(SegmentationSettings(30.0).reading)
                    self._place, twins = place, outcome.failed
                    self._found()
                except (ScellsegError, OSError) as error:
                    self.found.fail(reworded(plain(error)))
            images = [self._place.image_of(job) for job in self._jobs] if self._place else []
            first = [image for image in images if image == self._coloured]
            self.form.offer_channels(_first_pixels([*first, *images]))
            self.preview.offer([(image.name, image) for image in images])
            self.start.disabled = not images or self._running
            self.question.layout.display = "none"
            self._list_failures(twins)
            self.list_results()

    def ask_channels(self, image: Path, problem: BaseException | None) -> None:
        """Ask for channels, if the first image has no choice of them but one that failed has."""
        with self._lock:
            if isinstance(problem, ChannelsNeeded) and not self.form.asks_channels:
                self._coloured = image
                self.form.offer_channels(_first_pixels([image]))

    def _found(self) -> None:
        there = sum(job.masks.exists() for job in self._jobs)
        text = f"{count(len(self._jobs), 'image')} found"
        self.found.tell(f"{text}, {there} of them segmented already." if there else f"{text}.")

    def _chosen(self) -> Chosen | None:
        return None if self.form.chosen is None else self.form.chosen[1:]

    # --- the run --------------------------------------------------------------------------------

    @property
    def _running(self) -> bool:
        return self.job is not None and not self.job.ended

    def segment(self, anew: bool = False) -> Job | None:
        """Segment what has no masks yet (or all, `anew`), in a thread; None where that cannot be.

        Masks that were made otherwise are asked about.
        """
        with self._lock:
            chosen = self._chosen()
            if self._place is None or not self._jobs or self._running:
                return None
            if chosen is None:
                self.message.fail("There is no model. Choose one above.")
                return None
            self.question.layout.display = "none"
            self._list_failures({})
            self.run = FolderRun(self._place, *chosen, anew=anew)
            self.job = Job(self.run, on_change=self._followed)
            return self.job.start()

    def _followed(self, job: Job) -> None:
        with self._lock:
            if job is self.job:
                self._show_run(job)

    def _show_run(self, job: Job) -> None:
        shown = "none" if job.ended else None
        for part in (self.pause, self.cancel, self.bar):
            part.layout.display = shown
        self.start.disabled = not job.ended
        self.pause.description = "Go on" if job.state == "paused" else "Pause"
        self.bar.value = job.done / job.total if job.total else 0
        if job.ended:
            self._ended(job)
            return
        text = f"{job.done} of {count(job.total, 'image')}"
        text += f", {count(job.facts['cells'], 'cell')} so far" if job.facts.get("cells") else ""
        if job.facts.get("waits"):
            self.message.tell("It begins when the other run of this page is done or stopped.")
        elif job.state == "paused":
            self.message.tell(f"{text}. Paused: it waits until you press Go on.")
        else:
            left = job.seconds_left
            time = f", about {duration(left)} left" if left is not None else ""
            self.message.tell(f"{text}{time}.")

    def _ended(self, job: Job) -> None:
        assert self.run is not None
        outcome, total = self.run.outcome, job.total
        if job.state == "failed":
            assert job.error is not None
            if made_otherwise(job.error):
                self._ask(reworded(getattr(job.error, "what", job.error)))
            else:
                self.message.fail(reworded(plain(job.error)))
        elif job.state == "cancelled":
            self.message.tell(
                f"Stopped: {job.done} of {count(total, 'image')} done, and kept. "
                "Press Segment to go on from there."
            )
        else:
            made = f"{count(outcome.segmented, 'image')} segmented, {count(outcome.cells, 'cell')}"
            before = f"{count(outcome.already, 'image')} done before" if outcome.already else ""
            said = [made] * bool(outcome.segmented or not before) + [before] * bool(before)
            self.message.tell(f"{'; '.join(said)}. The masks are in {self.run.place.output}.")
        self._list_failures(outcome.failed, self.run.doubts)
        if self._place is not None:
            for one in self._jobs:
                problem = outcome.failed.get(str(one.masks))
                self.ask_channels(self._place.image_of(one), problem)
        if self._place is not None and job.state != "failed":
            self._found()
            self.list_results()

    def _list_failures(
        self, failed: Mapping[str, ScellsegError], doubts: list[str] | None = None
    ) -> None:
        root = self._place.root if self._place else None
        lines = [f"<li>{escape(reworded(why, root))}</li>" for why in failed.values()]
        more = f"<li>and {len(lines) - SHOWN} more</li>" * (len(lines) > SHOWN)
        text = (
            f"<div role='status' style='color:#b3261e;line-height:1.5'>&#9888; <b>"
            f"{count(len(lines), 'image')} could not be segmented:</b><ul>"
            f"{''.join(lines[:SHOWN])}{more}</ul>Mend or remove these files and press Segment "
            "again: the others stay as they are.</div>"
        ) * bool(lines)
        text += "".join(
            f"<p>&#9432; <b>Please check:</b> {escape(one)}</p>" for one in doubts or ()
        )
        self.failures.value = text

    def _ask(self, words: str) -> None:
        self.message.tell("")
        self._asked.value = (
            f"<div style='line-height:1.5'><b>Make anew?</b> In {escape(self._where())}, "
            f"{escape(words)}.<br>Yes: the masks of these images that are there are deleted, and "
            "made with the settings above. No: they stay; choose another folder for the new masks, "
            "or the former settings.</div>"
        )
        self.question.layout.display = None

    def _where(self) -> str:
        return "" if self.run is None else self.run.place.output.name

    def _anew(self) -> None:
        self.segment(anew=True)

    def _keep(self) -> None:
        self.question.layout.display = "none"
        self.message.tell("Kept. Choose another folder for the masks, or the former settings.")

    def _pause_or_resume(self) -> None:
        if self.job is not None:
            (self.job.resume if self.job.state == "paused" else self.job.pause)()

    def _cancel(self) -> None:
        with self._lock:
            if self.job is not None and self._running:
                self.message.tell("Stopping after the image that is in work.")
                self.job.cancel()

    # --- results --------------------------------------------------------------------------------

    def list_results(self) -> None:
        """List anew what is there, and the rounds of correction."""
        with self._lock:
            found: list[SegmentedImage] = []
            if self._place is not None and self.form.loaded is not None:
                files = [(self._place.image_of(job), job.masks) for job in self._jobs]
                found = list_results(files, self._place.record(), self.form.loaded)
            self.results.show(found, self.folder)


def _first_pixels(images: list[Path]) -> np.ndarray | None:
    """Pixels of the first image that can be read; None without one."""
    for image in images[:LOOKED_AT]:
        try:
            return readers.read_pixels(image)
        except ScellsegError:
            continue
    return None
