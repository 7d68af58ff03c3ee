"""The inference panel: one image or a folder, as by ``scellseg segment``, with a preview."""

from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from threading import RLock

import ipywidgets
import numpy as np

from scellseg_lib import errors
from scellseg_lib.files import layout
from scellseg_lib.files.folder import FolderOutcome, ImageJob, plan_jobs, read_record, segment_jobs
from scellseg_lib.files.images import read_pixels
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction, decode
from scellseg_lib.workbench import experiment, forms, jobs, session
from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.experiment import Experiment, OfferedModel, SegmentedImage
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.jobs import Job, runs
from scellseg_lib.workbench.session import SegmentationSettings

EMPTY = "Type the folder of your images, or the path of one image, and press Enter."
SHOWN = 30  # failures that are listed one by one
ROUNDS = """Annotated images: when the round began. Scores, from 0 to 1, compare what the model gave
with your correction; images that it had learnt from do not count. IoU says how well two outlines
agree: the area that both share, divided by the area of either. AP at IoU 0.5: the cells found with
an IoU of 0.5 or more, divided by these and all that were missed or found wrongly. Mean AP: the
same, averaged over ten demands from 0.5 to 0.95.</small>"""
SUMMARY = {"round": "Round", "model": "Model", "shots": "Annotated images"}
SUMMARY |= {"shot_cells": "Their cells", "images": "Corrected images", "ap50": "AP at IoU 0.5"}
SUMMARY |= {"map": "Mean AP", "added": "Cells added", "removed": "Cells removed"}
SUMMARY |= {"changed": "Cells changed"}
"""What is shown of the rounds of correction."""
Chosen = tuple[OfferedModel, Model, SegmentationSettings]


class SegmentForm(ipywidgets.VBox):
    """Model, diameter, channels and thresholds; `on_change` is called after any change."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.loaded: tuple[OfferedModel, Model, str] | None = None  # chosen; its weights' hash
        self._on_change, self._is_filling = on_change, False
        self._chosen: OfferedModel | None = None
        self._offered: tuple[Sequence[str], Path] = ((), Path())
        self.model = forms.dropdown("segment-model")
        self.origin = ipywidgets.HTML()
        self.message = forms.Message()
        self.diameter = ipywidgets.BoundedFloatText(min=1, max=5000)
        self.diameter.add_class("scellseg-segment-diameter")
        self.channels = forms.ChannelFields("segment", on_change)
        self.thresholds = session.Thresholds(on_change)
        words = "Smooth outlines: find the cells at the image's full size"
        self.full_size = forms.tick(words, "segment-full-size", value=True)
        words = "Best quality: more accurate, but takes four times as long"
        self.flips = forms.tick(words, "segment-flips")
        parts = [
            forms.row("Model", self.model),
            forms.row("", self.origin),
            self.message,
            forms.row("Diameter of the cells", self.diameter, forms.note("px")),
            self.channels,
            forms.row("Quality", ipywidgets.VBox([self.full_size, self.flips])),
            ipywidgets.Accordion([self.thresholds], titles=["Thresholds"]),
        ]
        super().__init__(parts)
        self.model.observe(self._on_model_chosen, "value")
        for widget in (self.diameter, self.full_size, self.flips):
            widget.observe(lambda _: on_change(), "value")

    def refresh(self, folder: Path | None, choose: Path | None = None) -> None:
        """Offer the models of an experiment: `choose`, else the user's choice, else the first."""
        found = experiment.offer_models(folder)
        wanted = [one for one in found if choose is not None and one.name == choose]
        kept = [one for one in found if self._chosen and one.key == self._chosen.key]
        self._is_filling = True
        self.model.options = [(one.title, one) for one in found]
        self.model.value = (wanted or kept or found)[0]
        self._is_filling = False
        self._chosen = wanted[0] if wanted else self._chosen
        self._load()

    @property
    def chosen(self) -> Chosen | None:
        """The model and the settings as they are; None without a model, or a channel."""
        if self.loaded is None or self.channels.is_missing:
            return None
        offered, model, _ = self.loaded
        decoding = self.thresholds.apply_to(model.card.decoding, model.representation)
        looks = self.full_size.value, self.flips.value, self.channels.value
        return offered, model, SegmentationSettings(self.diameter.value, decoding, *looks)

    def take_thresholds(self, decoding: Decoding) -> None:
        """Move the thresholds to those of a decoding."""
        if self.loaded is not None:
            model = self.loaded[1]
            used = model.representation.thresholds
            self.thresholds.chosen = {name: getattr(decoding, name) for name in used}
            self.thresholds.load(model.card.decoding, model.representation)
            self._on_change()

    @property
    def problem(self) -> errors.ScellsegError:
        """Why nothing is chosen."""
        if self.loaded is None:
            return errors.ModelError("there is no model", remedy=f"Choose one {session.STEP}.")
        return errors.ImageError("the images have several channels", remedy="Choose one above.")

    def offer_channels(self, names: Sequence[str] | None = None, image: Path = Path()) -> None:
        """Offer channels, or those of before anew; at first those of a model of one's own."""
        names, image = self._offered = self._offered if names is None else (names, image)
        own = self.loaded and self.loaded[0].is_own
        usual = self.loaded[1].card.channels if self.loaded and own else None
        self.channels.offer(names, image, experiment.experiment_of(image), usual)

    def _on_model_chosen(self, change: dict) -> None:
        if not self._is_filling:
            self._chosen = change["new"]
            self._load()

    def _load(self) -> None:
        self.loaded = None
        self.thresholds.chosen = {}
        self._on_change()  # nothing can be tried meanwhile
        try:
            model = self.model.value.load()
        except (errors.ScellsegError, OSError) as error:
            self.message.fail(f"{plain(error)} Choose another model.")
            self.origin.value = ""
            self.thresholds.load(None, None)
        else:
            self.message.tell("")
            self.origin.value = escape(experiment.describe_model(model.card))
            self.diameter.value, self.flips.value = model.card.diameter, model.card.flips
            self.loaded = self.model.value, model, weights_hash(model.network)
            self.thresholds.load(model.card.decoding, model.representation)
            self.offer_channels()
        self._on_change()


class SegmentPreview(ipywidgets.VBox):
    """Try settings on an image; `on_fail` gets one that cannot be segmented, and its error."""

    def __init__(self, form: SegmentForm, on_fail: Callable[[Path, Exception], None]) -> None:
        self._form, self._on_fail = form, on_fail
        self._tried: tuple[tuple, Prediction, np.ndarray] | None = None
        """What the network's answer depended on, the answer, and the image's pixels."""
        self._drawn: Prediction | None = None
        self.job: Job | None = None
        self.image = forms.dropdown("preview-image")
        self.button = forms.button("Try", "preview-try", self.try_image)
        self.message = forms.Message()
        self.view = ImageView(height=420)
        forms.show(False, self.view)
        self._redraw = session.Newest(self._draw)
        self.image.observe(lambda _: self.follow(), "value")
        choice = forms.row("Try it on", self.image, self.button)
        super().__init__([choice, self.message, self.view])
        self.add_class("scellseg-preview")

    def offer(self, images: Sequence[Path]) -> None:
        """Offer images; the one chosen before stays if it is among them."""
        before = self.image.value
        self.image.options = [(image.name, image) for image in images]
        if images:
            self.image.value = before if before in images else images[0]
        self._allow()

    def try_image(self) -> Job | None:
        """Let the network see the chosen image, in a thread of its own."""
        chosen, image = self._form.chosen, self.image.value
        if chosen is None or image is None:
            return None
        _, model, settings = chosen

        def work(job: Job) -> tuple[tuple, Prediction, np.ndarray]:
            prediction = session.predict_one(model, image, settings)
            return (image, model, settings.seen), prediction, read_pixels(image)

        self.job = Job(work, on_change=partial(self._on_followed, image))
        return self.job.start()

    def follow(self) -> None:
        """Bring the cells to the thresholds as they are now."""
        self._allow()
        if self._tried is not None and not runs(self.job):
            self._redraw()

    def _allow(self) -> None:
        """Let an image be tried if there is one, the model is loaded, and none is looked at."""
        ready = self._form.chosen is not None and self.image.value is not None
        self.button.disabled = not ready or runs(self.job)
        if not self.image.value:
            self.message.tell("Say above where your images are; then try the settings on one.")
        elif self._form.channels.is_missing:
            self.message.tell("Choose above in which channel the cells are.")
        elif self._tried is None:
            self.message.tell("Choose an image and press Try.")

    def _on_followed(self, image: Path, job: Job) -> None:
        if job is not self.job:
            return  # another was begun meanwhile
        self._allow()
        if not job.ended:
            self.message.tell("The network looks at the image. This can take a few seconds.")
        elif job.error is not None:
            self.message.fail(plain(job.error))
            self._on_fail(image, job.error)
        else:
            self._tried = job.result
            self._redraw()

    def _draw(self) -> None:
        chosen, tried, image = self._form.chosen, self._tried, self.image.value
        if chosen is None or tried is None:
            return
        (_, model, settings), (seen, prediction, pixels) = chosen, tried
        if seen != (image, model, settings.seen):
            self.message.tell("What you have changed needs a new look: press Try again.")
            return
        known = model.representation
        masks = decode(prediction, known, settings.decoding, resample=settings.resample)
        if prediction is self._drawn:
            self.view.show_labels(masks)
        else:
            pictures = session.network_pictures(prediction, known)
            self.view.show(pixels, masks, layers=pictures, title=image.name)
            self._drawn = prediction
        forms.show(True, self.view)
        n_cells = count(int(np.count_nonzero(np.unique(masks))), "cell")
        hint = "" if masks.any() else " Lower the cell probability, or check the diameter."
        self.message.tell(f"{n_cells} found.{hint} Move a threshold: the cells follow.")


class SegmentPanel(ipywidgets.VBox):
    """Segment one image or a folder, of an experiment or not; `on_inspect` is to show `entries`."""

    def __init__(
        self, folder: Path | None = None, on_inspect: Callable[[], object] = lambda: None
    ) -> None:
        self.folder, self.entries = folder, list[SegmentedImage]()
        self.inspect = forms.button("Look at the cells", "segment-inspect", on_inspect)
        self.job: Job | None = None
        self._jobs: list[ImageJob] = []
        self._source = self._output = Path()
        self._coloured: Path | None = None
        self._doubt = ""  # of files that are not read
        self._lock = RLock()  # a run may end while the page asks for something
        self.source = forms.text_field("segment-source", "folder of images, or one image")
        self.output = forms.text_field("segment-output")
        self.found = forms.Message().add_class("scellseg-segment-found")
        self.form = SegmentForm(lambda: self.preview.follow())
        self.preview = SegmentPreview(self.form, self.ask_channels)
        self.rounds = ipywidgets.HTML()
        parts = [
            forms.row("Images", self.source),
            forms.row("", self.found),
            forms.row("Masks go to", self.output),
            self.form,
            self.preview,
            *self._make_run(),
        ]
        super().__init__(parts)
        self.add_class("scellseg-segment-panel")
        self.source.observe(lambda _: self._on_source_typed(), "value")
        self.output.observe(lambda _: self.check(), "value")
        self.form.model.observe(lambda _: self.list_results(), "value")
        self.go_to(folder)

    def _make_run(self) -> list[ipywidgets.Widget]:
        self.start = forms.button("Segment", "segment-start", self.segment, style="primary")
        self.pause = forms.button("Pause", "segment-pause", self._pause_or_resume)
        self.cancel = forms.button("Stop", "segment-cancel", self._cancel)
        self.bar = ipywidgets.FloatProgress(min=0, max=1)
        self.message = forms.Message()
        self.failures = forms.Message().add_class("scellseg-segment-failures")
        self.doubts = forms.Message()
        self.anew = forms.tick("make masks of other settings anew", "segment-anew")
        forms.show(False, self.pause, self.cancel, self.bar, self.anew)
        buttons = [self.start, self.inspect, self.pause, self.cancel, self.bar]
        actions = forms.actions(buttons, self.message, self.anew)
        return [self.failures, self.doubts, self.rounds, actions]

    def go_to(self, folder: Path | None, model: Path | None = None) -> None:
        """Go to an experiment, and choose a model, such as one that was just tuned."""
        self.folder = folder
        self.form.refresh(folder, model)
        if folder is not None:
            query = folder / layout.QUERY
            proposed = str(query if query.is_dir() else folder)
            if self.source.value != proposed:
                self.source.value = proposed  # is checked thereby
                return
        self.check()

    def _on_source_typed(self) -> None:
        self.output.value = ""  # that of other images is not meant
        self.check()

    def check(self) -> None:
        """Look for the images, and for masks that are there already."""
        with self._lock:
            outcome, self._jobs = FolderOutcome(), []
            source = forms.read_path(self.source.value)
            if source is None:
                self.found.tell(EMPTY)
            else:
                usual = layout.results_path(source)
                if self.folder and usual.parent == (self.folder / layout.QUERY).resolve():
                    usual = usual.parent.parent / layout.SEGMENTED
                self.output.placeholder = str(usual)
                self._source, self._output = source, forms.read_path(self.output.value) or usual
                with self.found.tell_errors():
                    source.stat()  # or it is said that there is no such file
                    plan = partial(plan_jobs, source, self._output, ".tif")
                    (self._jobs, outcome), self._doubt = forms.hear(plan)
                    self._tell_found()
            images = [job.image for job in self._jobs if job.image]
            coloured = [image for image in images if image == self._coloured]
            self.form.offer_channels(*experiment.find_channels([*coloured, *images]))
            self.preview.offer(images)
            self.start.disabled = not images or runs(self.job)
            self._list_failures(outcome)
            self.list_results()

    def _tell_found(self) -> None:
        there = sum(job.masks.exists() for job in self._jobs)
        having = f", {there} of them with masks" if there else ""
        self.found.tell(f"{count(len(self._jobs), 'image')} found{having}. {self._doubt}".strip())

    def ask_channels(self, image: Path, error: Exception) -> None:
        """Ask for channels, if the first image has no choice of them but one that failed has."""
        with self._lock:
            if isinstance(error, errors.ChannelsNeeded) and self.form.channels.value is None:
                self._coloured = image
                self.form.offer_channels(error.channels, image)

    def segment(self) -> Job | None:
        """Segment what has no masks yet, in a thread; None where that cannot be."""
        with self._lock:
            if not self._jobs or runs(self.job):
                return None
            if self.form.chosen is None:
                self.message.fail(plain(self.form.problem))
                return None
            offered, _, settings = self.form.chosen
            place = self._source, self._output
            work = partial(segment_files, *place, offered, settings, self.anew.value)
            self.anew.value = False
            forms.show(False, self.anew)
            self._list_failures(FolderOutcome())
            self.job = Job(jobs.apart(work), on_change=partial(self._on_followed, self._output))
            return self.job.start()

    def _on_followed(self, output: Path, job: Job) -> None:
        with self._lock:
            if job is not self.job:
                return
            outcome = job.facts.get("outcome", FolderOutcome())
            forms.show(not job.ended, self.pause, self.cancel, self.bar)
            self.start.disabled = not job.ended
            self.pause.description = "Go on" if job.state == "paused" else "Pause"
            self.bar.value = job.done / job.total if job.total else 0
            if job.ended:
                self._on_ended(job, outcome, output)
                return
            cells = f" {count(outcome.cells, 'cell')} so far." if outcome.cells else ""
            self.message.tell(f"{jobs.tell_progress(job, 'image')}{cells}")

    def _on_ended(self, job: Job, outcome: FolderOutcome, output: Path) -> None:
        if isinstance(job.error, errors.MasksMadeOtherwise) and job.error.replaceable:
            forms.show(True, self.anew)
            self.message.fail(tell_differing(job.error))
        elif job.error is not None:
            self.message.fail(plain(job.error))
        elif job.state == "cancelled":
            done = f"{job.done} of {count(job.total, 'image')} done, and kept."
            self.message.tell(f"Stopped: {done} Press Segment to go on from there.")
        else:
            text = f"{count(outcome.written, 'image')} segmented, {count(outcome.cells, 'cell')}"
            if outcome.already:
                text += f"; {count(outcome.already, 'image')} done before"
            self.message.tell(f"{text}. The masks are in {output}.")
        self._list_failures(outcome)
        for one in self._jobs:
            error = outcome.failed.get(str(one.masks))
            if error and one.image:
                self.ask_channels(one.image, error)
        if self._jobs:
            self._tell_found()
            self.list_results()

    def _list_failures(self, outcome: FolderOutcome) -> None:
        lines = [plain(error) for error in outcome.failed.values()]
        more = [f"And {len(lines) - SHOWN} more."] if len(lines) > SHOWN else []
        text = "\n".join([f"{count(len(lines), 'image')} could not be segmented:", *lines[:SHOWN]])
        remedy = "Mend or remove these files and press Segment again: the others stay as they are."
        self.failures.tell("\n".join([text, *more, remedy]) if lines else "", is_error=True)
        doubts = [f"Please check: {plain(doubt)}" for doubt in outcome.sum_up_doubts()]
        self.doubts.tell("\n".join(doubts))

    def _pause_or_resume(self) -> None:
        if self.job is not None:
            self.job.pause_or_resume()

    def _cancel(self) -> None:
        with self._lock:
            if self.job is not None and runs(self.job):
                self.message.tell("Stopping after the image that is in work.")
                self.job.cancel()

    def list_results(self) -> None:
        """List anew what is there, and the rounds of correction."""
        with self._lock:
            found: list[SegmentedImage] = []
            if self._jobs and self.form.loaded is not None:
                files = [(job.image, job.masks) for job in self._jobs if job.image]
                with self.found.tell_errors():
                    record = read_record(self._output)
                    found = experiment.list_results(files, record, self.form.loaded)
            self.entries, self.inspect.disabled, self.rounds.value = found, not found, ""
            with self.found.tell_errors():
                if self.folder and len(rounds := Experiment(self.folder).sum_up_rounds()):
                    told = forms.table(rounds[list(SUMMARY)].rename(columns=SUMMARY))
                    self.rounds.value = f"<b>Rounds of correction</b>{told}<small>{ROUNDS}"


def segment_files(
    source: Path,
    output: Path,
    offered: OfferedModel,
    settings: SegmentationSettings,
    anew: bool,
    job: Job,
) -> None:
    """Do the work of a job; what is written stays, and another run goes on from there."""
    model, (files, outcome) = offered.load(), plan_jobs(source, output, ".tif", **settings.reading)
    lost = len(outcome.failed)

    def tell() -> None:
        done = outcome.written + len(outcome.failed) - lost
        total = len(files) - outcome.already  # it is told at its own speed
        job.report(done, total, doing="Segmenting", outcome=outcome)

    how = settings.decoding.model_dump() | {"diameter": settings.diameter, "flips": settings.flips}
    how |= {"resample": settings.resample, "reading": settings.reading | {"format": "tiff"}}
    tell()
    segment_jobs(files, model, output, outcome, overwrite=anew, callback=tell, **how)
    tell()


def tell_differing(error: errors.MasksMadeOtherwise) -> str:
    """Tell that masks of other settings are there, and that they may be made anew."""
    words = {"resample": "full size", "flips": "best quality", "weights": "model"}
    words |= {"robust": "new normalisation", "dtype": "type of numbers"}
    words |= {name: str(one.title).lower() for name, one in Decoding.model_fields.items()}
    pairs = [(words.get(name, name), *pair) for name, pair in error.differing.items()]
    differing = "; ".join(f"{name} {there} there, {now} now" for name, there, now in pairs)
    return (
        f"There are masks of other settings or of an earlier version: {differing}. They are kept. "
        "Choose another folder for the new masks, or the former settings; or tick that they be "
        "made anew and press Segment, which deletes them."
    )
