"""The fine-tune panel: from a folder with annotated images to a model of the user's own."""

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from threading import RLock
from time import monotonic

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, Field

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import find_readable, load_folder
from scellseg_lib.errors import ScellsegError
from scellseg_lib.files import layout
from scellseg_lib.files.folder import InUse, alone
from scellseg_lib.finetuning import RECIPES, STRATEGIES, FinetuneOptions, finetune
from scellseg_lib.model import Card, Model
from scellseg_lib.samples import Dataset, Sample
from scellseg_lib.training import Enough, Progress, read_run
from scellseg_lib.workbench import experiment, forms, jobs
from scellseg_lib.workbench.curve import CurvePanel
from scellseg_lib.workbench.experiment import OfferedModel, Survey
from scellseg_lib.workbench.forms import Channels, count, plain
from scellseg_lib.workbench.jobs import Cancelled, Job, runs

EMPTY = "Type the folder of your experiment. Draw the cells of one or two images first (Annotate)."
NO_SHOTS = (
    "None of the images in this folder is done yet. Draw all cells in one or two of them and press "
    "Done (Annotate), of those in query/ Learn from this image; then press Check."
)
NONE_USABLE = "None of the annotated images can be used: the table says why. Mend them, then Check."
NAME = re.compile(r"\w[\w .()+-]*")
TITLES = {"best": "Best", "quick": "Quick", "paper": "As in the paper"}
PATCH_SECONDS = {16: 0.1, 32: 0.34}  # to learn from a patch on two cores, by the model's width
CONTRASTIVE = 1.8  # times as long: patches of other images are looked at too
PACE = "finetuning_pace.txt"  # in the cache: times as long as on two cores the last run took
DRAWN_EVERY = 0.5  # least seconds between two drawings of the curve
CURVES = {
    "segmentation": ("#0072B2", "error on the annotated images"),
    "loss": ("#E69F00", "with the comparison of styles"),
}
MAX_POINTS = 400  # more than a curve of this width can show


class FinetuneRun(BaseModel):
    """One fine-tuning, to be called in a `Job`; written beside its checkpoint until it is done."""

    folder: Path
    channels: Channels | None
    start: str  # key of the model to start from
    recipe: str = "best"
    options: FinetuneOptions
    name: str  # of the tuned model
    shots: tuple[str, ...]
    overwrite: bool = False

    log: list[dict[str, float]] = Field(default=[], exclude=True)  # losses of the steps done
    times: list[float] = Field(default=[], exclude=True)  # when those that were done here ended, s

    def model_post_init(self, context: object) -> None:
        """Look what is done already."""
        self.log, self.times = read_run(self.file(layout.CHECKPOINT)).get("log", []), []

    def file(self, ending: str) -> Path:
        """File of the model, of the checkpoint, or of what is chosen, by its ending."""
        return self.folder / f"{self.name}{ending}"

    def __call__(self, job: Job) -> Path:
        """Learn to the end; the path of the model. A stop keeps the checkpoint: `Cancelled`."""
        record, checkpoint = self.file(layout.RUN), self.file(layout.CHECKPOINT)
        with alone(checkpoint, 1):  # a window that looks at it takes a moment
            self.model_post_init(None)  # another window may have gone on with it
            job.report(0, 0, doing="Reading the model and the images")
            start, images = experiment.load_start(self.start, self.folder), self.read_images(job)
            job.report(0, 0, doing="Preparing")
            with whole(record) as scratch:
                scratch.write_text(self.model_dump_json(indent=2))
            how = self.options.model_dump() | {"callback": partial(self._step, job)}
            try:
                tuned = finetune(start, *images, self.recipe, checkpoint=checkpoint, **how)
            finally:
                if not checkpoint.exists():  # nothing to go on from
                    record.unlink(missing_ok=True)
            note_pace(self.times, self.options, tuned.card)
            if len(self.log) < self.options.steps:
                raise Cancelled
            return self._save(tuned)

    @property
    def how_far(self) -> str:
        """How many steps are done, in words."""
        return f"{len(self.log)} of {self.options.steps} steps are done"

    @property
    def is_learnt(self) -> bool:
        """Whether a window on this computer learns it now."""
        try:
            with alone(self.file(layout.CHECKPOINT)):
                return False
        except InUse:
            return True
        except OSError:  # nobody learns where nothing can be written
            return False

    def discard(self) -> None:
        """Forget the run, its checkpoint too."""
        with alone(self.file(layout.CHECKPOINT)):
            self._forget()

    def _step(self, job: Job, progress: Progress) -> None:
        self.log.append({"step": progress.step, **progress.losses})
        self.times.append(monotonic())
        try:
            job.report(progress.step, progress.n_steps, doing="Learning", log=self.log)
        except Cancelled:
            raise Enough from None  # at the end of a step, so that this state is whole

    def read_images(self, job: Job) -> tuple[Dataset, Dataset | None]:
        """Shots, and the images to be segmented that can be read, where the strategy needs them."""
        images = load_folder(self.folder, self.channels)
        shots = tuple(sample for sample in images.shot if sample.name in self.shots)
        queries, left_out = list[Sample](), list[str]()
        if STRATEGIES[self.options.strategy]:
            for done in range(len(every := images.query.without_masks())):
                job.report(done, len(every), doing="Checking the images to be segmented")
                good, wrong = find_readable(every[done : done + 1])
                queries += good
                left_out += map(plain, wrong)
        job.report(0, 0, left_out=left_out)
        return replace(images, samples=shots), replace(images, samples=tuple(queries)) or None

    def _save(self, tuned: Model) -> Path:
        file = self.file(layout.MODEL)
        if file.exists() and not self.overwrite:  # it came while this learnt
            file = self.folder / f"{find_free_name(self.folder, self.name)}{layout.MODEL}"
        tuned.save(file)
        self._forget()
        return file

    def _forget(self) -> None:
        for ending in (layout.CHECKPOINT, layout.RUN):
            self.file(ending).unlink(missing_ok=True)


def find_runs(folder: Path) -> list[FinetuneRun]:
    """Unfinished runs of a folder, in whatever window, the latest first."""
    found = []
    for record in experiment.Experiment(folder).find_models(layout.RUN):
        # What is no record of ours is passed over.
        with suppress(ScellsegError, OSError, TypeError, ValueError, RecursionError):
            said = json.loads(record.read_bytes()) | {"folder": record.parent}
            found.append(FinetuneRun.model_validate(said))
    return found


def find_free_name(folder: Path, wanted: str) -> str:
    """Name for a model that no model, card or unfinished run of the folder has."""
    name, number, endings = wanted, 2, (layout.MODEL, ".json", layout.CHECKPOINT, layout.RUN)
    while any((folder / f"{name}{ending}").exists() for ending in endings):
        name, number = f"{wanted}-{number}", number + 1
    return name


def reckon_seconds(options: FinetuneOptions, card: Card | None) -> float:
    """Seconds that a run takes on two cores, by what was measured."""
    each = PATCH_SECONDS.get(card.levels[0] if card else 32, PATCH_SECONDS[32])
    times = CONTRASTIVE if STRATEGIES[options.strategy] else 1
    return options.steps * options.batch_size * each * times


def note_pace(ended: Sequence[float], options: FinetuneOptions, card: Card) -> None:
    """Note how fast this computer learns, by when the steps of a run ended."""
    if len(ended) > 1:
        seconds = float(np.median(np.diff(ended))) * options.steps
        with suppress(OSError), whole(paths.cache() / PACE) as scratch:
            scratch.write_text(str(seconds / reckon_seconds(options, card)))


def tell_recipe(name: str, card: Card | None) -> str:
    """Say what a recipe is for, and about how long it takes with a model to start from."""
    seconds, where = reckon_seconds(RECIPES[name].options, card), "on two cores"
    with suppress(OSError, ValueError):  # there is none before the first run
        seconds, where = seconds * float((paths.cache() / PACE).read_text()), "on this computer"
    return f"{TITLES[name]}: {RECIPES[name].help}, about {forms.duration(seconds)} {where}"


class FinetunePanel(ipywidgets.VBox):
    """Fine-tune on the annotated images of a folder; `on_tuned` gets the path of each new model."""

    def __init__(
        self, folder: Path | None = None, on_tuned: Callable[[Path], object] = lambda model: None
    ) -> None:
        self.on_tuned = on_tuned
        self.on_next: Callable[[], object] = lambda: None  # once there is a model to segment with
        self.found: Survey | None = None
        self.job: Job | None = None
        self.run: FinetuneRun | None = None  # that runs, or was stopped and can be gone on with
        self._learnt_elsewhere: list[str] = []
        self._looking: Job | None = None
        self._proposed, self._drawn, self._is_filling = "", 0.0, False
        self._lock = RLock()  # a run may end while the page asks for something
        super().__init__([*self._make_choices(), *self._make_run()])
        self.add_class("scellseg-finetune-panel")
        self.folder.observe(lambda _: self.look(), "value")
        self.name.observe(lambda _: self._show_state(), "value")
        self.model.observe(lambda _: self._on_model_chosen(), "value")
        self.recipe.observe(lambda _: self._follow_recipe(), "value")
        self._follow_recipe()
        self._show_found()
        self.message.tell(EMPTY)
        if folder is not None:
            self.folder.value = str(folder)

    def _make_choices(self) -> list[ipywidgets.Widget]:
        self.folder = forms.text_field("tune-folder", "folder of your experiment")
        self.check = forms.button("Check", "tune-check", self.look, tip="look into it again")
        self.more = CurvePanel(self.choose)
        self.shots, self.about = ipywidgets.HTML(), ipywidgets.HTML()
        self.channels = forms.ChannelFields("tune", self._follow_choice)
        self.model = forms.dropdown("tune-model")
        self.recipe = ipywidgets.RadioButtons(options=[*RECIPES]).add_class("scellseg-tune-recipe")
        self.steps = forms.number_field("tune-steps", FinetuneOptions, "steps")
        self.batch = forms.number_field("tune-batch", FinetuneOptions, "batch_size")
        cut_out = forms.note("small ones, cut out of yours at random")
        more = [forms.row("Steps", self.steps), forms.row("Images per step", self.batch, cut_out)]
        self.name = forms.text_field("tune-name")
        self.overwrite = forms.tick("replace the model of that name", "tune-overwrite")
        return [
            forms.heading("Your annotated images"),
            forms.row("Folder", self.folder, self.check),
            self.shots,
            self.channels,
            self.more,
            forms.heading("How to learn"),
            forms.row("Start from", self.model),
            forms.row("", self.about),
            forms.row("Way of learning", self.recipe),
            forms.row("Name of the model", self.name, self.overwrite),
            ipywidgets.Accordion([ipywidgets.VBox(more)], titles=["More settings"]),
        ]

    def _make_run(self) -> list[ipywidgets.Widget]:
        self.start = forms.button("Start", "tune-start", self.begin, style="primary")
        self.stop = forms.button("Stop", "tune-stop", self.cancel, style="warning")
        self.go_on = forms.button("Go on", "tune-go-on", self.begin, style="primary")
        self.discard = forms.button("Discard", "tune-discard", self.forget)
        self.next = forms.button("Go on to Segment", "tune-next", lambda: self.on_next())
        forms.show(False, self.next)
        self.progress = ipywidgets.IntProgress()
        self.time, self.curve = ipywidgets.HTML(), ipywidgets.HTML()
        self.message = forms.Message()
        buttons = [self.start, self.stop, self.go_on, self.discard, self.progress, self.time]
        buttons.append(self.next)
        return [self.curve, forms.actions(buttons, self.message)]

    def look(self) -> None:
        """Look into the folder, in the background; after what is shown of a run that ends."""
        with self._lock:
            if runs(self.job):
                return
            folder = forms.read_path(self.folder.value)
            self.more.curve.value = ""
            self.more.message.tell("")
            self.found = self.run = None
            if self._looking is not None:
                self._looking.cancel()
            self._show_found()
            if folder is None:
                self.message.tell(EMPTY)
                return
            self.message.tell("Looking into the folder ...")
            survey = experiment.Experiment(folder).survey
            self._looking = Job(lambda job: survey(job.report), on_change=self._on_looked)
            self._looking.start()

    def _on_looked(self, job: Job) -> None:
        if job is not self._looking:
            return  # another folder was named meanwhile
        if job.state == "running" and job.total:
            self.message.tell(f"Reading the annotated images: {job.done} of {job.total} ...")
        elif job.error is not None:
            self.message.fail(plain(job.error))
        elif job.state == "done":
            with self._lock:
                self.found = job.result
                self._show_found()

    def _show_found(self) -> None:
        found = self.found
        unfinished = find_runs(found.folder) if found else []
        self._learnt_elsewhere = [run.name for run in unfinished if run.is_learnt]
        self.run = next((run for run in unfinished if run.log and not run.is_learnt), None)
        self.shots.value = tell_shots(found) if found else ""
        self._is_filling = True
        self._offer_models()
        if found:
            names, image = experiment.find_channels(shot.image for shot in found.usable)
            self.channels.offer(names, image, found.folder)
        if run := self.run:
            self.channels.choose(run.channels)
            self.recipe.value, self.name.value = run.recipe, run.name
            self.steps.value, self.batch.value = run.options.steps, run.options.batch_size
            starts = {start.key: start for _, start in self.model.options}
            self.model.value = starts.get(run.start, self.model.value)
        self._is_filling = False
        self._show_curve(self.run)
        self._follow_choice()

    def _say_what_next(self, found: Survey) -> None:
        left_out = len(found.shots) - len(found.usable)
        if self.run:
            there = f"An unfinished run, {self.run.name}, lies here: {self.run.how_far}."
            self.message.tell(f"{there} Go on with it, or discard it.")
        elif self._learnt_elsewhere:
            self.message.tell(
                f"{', '.join(self._learnt_elsewhere)} is still being learnt in another window. Its "
                "model appears in the folder when it is done; press Check to look. You can start "
                "another beside it, but both are then slower."
            )
        elif problem := self._find_problem():
            self.message.fail(problem)
        elif left_out:
            some = count(left_out, "annotated image is", "annotated images are")
            what = "the table says why. You can start without, or mend and Check again."
            self.message.tell(f"{some} left out: {what}")
        else:
            self.message.tell("Ready: press Start.")

    def _offer_models(self) -> None:
        before: OfferedModel | None = self.model.value
        known = experiment.offer_models(self.found.folder if self.found else None, to_start=True)
        self.model.options = [(start.title, start) for start in known]
        kept = [one for one in known if before and one.key == before.key]
        self.model.value = (kept or known)[0]

    def _on_model_chosen(self) -> None:
        with self._lock:  # a choice by hand while a thread fills the form comes after that
            start: OfferedModel = self.model.value
            if not self._is_filling:
                if start.is_own and start.card:
                    self.channels.choose(start.card.channels)
                self._follow_choice()

    def _follow_choice(self) -> None:
        """Show what follows from what is chosen, and say what to do next."""
        with self._lock:
            start, recipe = self.model.value, self.recipe.value
            self.about.value = escape(experiment.describe_model(start.card)) if start.card else ""
            self._is_filling = True  # the first recipe is chosen when they are offered anew
            self.recipe.options = tuple((tell_recipe(name, start.card), name) for name in RECIPES)
            self.recipe.value, self._is_filling = recipe, False
            self._propose_name(start)
            self._show_state()
            if self.found:
                self._say_what_next(self.found)

    def _follow_recipe(self) -> None:
        if not self._is_filling:
            chosen = RECIPES[self.recipe.value].options
            self.steps.value, self.batch.value = chosen.steps, chosen.batch_size

    def _propose_name(self, start: OfferedModel) -> None:
        """Propose a free name, unless the user has given one."""
        if self.found and not self.run and self.name.value in ("", self._proposed):
            kind = start.card.architecture if start.card and not start.is_own else "tuned"
            wanted = re.sub(r"[^\w.-]", "_", self.found.folder.name).strip("._-") or "my"
            self._proposed = find_free_name(self.found.folder, f"{wanted}-{kind}")
            self.name.value = self._proposed

    def choose(self) -> FinetuneRun | None:
        """Run as it is chosen; None while there is nothing to learn from."""
        if not (self.found and self.found.usable) or self.channels.is_missing:
            return None
        usual = RECIPES[self.recipe.value].options
        return FinetuneRun(
            folder=self.found.folder,
            channels=self.channels.value,
            start=self.model.value.key,
            recipe=self.recipe.value,
            options=usual.change(steps=self.steps.value, batch_size=self.batch.value),
            name=self.name.value.strip().removesuffix(layout.MODEL),
            shots=tuple(shot.name for shot in self.found.usable),
            overwrite=self.overwrite.value,
        )

    def _find_problem(self) -> str:
        """Say why a run cannot begin; empty where it can."""
        if self.found is None:
            return "Name the folder of your experiment first, and press Check."
        if not self.found.usable:
            return NONE_USABLE if self.found.shots else NO_SHOTS
        if (run := self.choose()) is None:
            return "The images have several channels: choose the one of the cells."
        if not NAME.fullmatch(run.name):
            return "Give the new model a name of letters, digits, spaces, - and _."
        if run.file(layout.CHECKPOINT).exists():
            return "An unfinished run of this name lies in the folder. Give another name."
        if run.file(layout.MODEL).exists() and not run.overwrite:
            return "There is a model of this name. Give another, or tick that it be replaced."
        return ""

    def begin(self) -> None:
        """Start, or go on with the run that was stopped, or say what is missing."""
        if runs(self.job):
            return
        busy = "Stop the test of what more cells would add first." if runs(self.more.job) else ""
        problem, run = busy or ("" if self.run else self._find_problem()), self.run or self.choose()
        if problem or run is None:
            self.message.fail(problem)
            return
        self.run, self._drawn = run, 0.0
        self.job = Job(jobs.apart(run), on_change=partial(self._on_followed, run))
        self.message.tell("")
        self.job.start()

    def cancel(self) -> None:
        """Stop after the step that is being done."""
        with self._lock:
            if self.job is not None and runs(self.job):
                self.message.tell("Stopping after this step ...")
                self.job.cancel()

    def forget(self) -> None:
        """Discard the run that was stopped; what it had learnt is lost."""
        if self.run and not runs(self.job):
            with self.message.tell_errors():
                self.run.discard()
                self.look()

    def _on_followed(self, run: FinetuneRun, job: Job) -> None:
        if job is not self.job:
            return
        run.log = job.facts.get("log", run.log)
        if job.ended:
            with self._lock:
                self._on_ended(job, run)
            return
        self.progress.max, self.progress.value = max(job.total, 1), job.done
        self.time.value = jobs.tell_progress(job)
        if monotonic() - self._drawn >= DRAWN_EVERY:
            self._drawn = monotonic()
            self._show_curve(run)
            self._show_state()

    def _on_ended(self, job: Job, run: FinetuneRun) -> None:
        self._show_curve(run)
        if job.state == "done":
            self._on_saved(job.result, run, job.facts.get("left_out", ()))
            return
        if not run.file(layout.CHECKPOINT).exists():
            self.run = None
        self._show_state()
        if job.error is not None:
            self.message.fail(plain(job.error))
        elif self.run is None:
            self.message.tell("Stopped before the first step.")
        else:
            self.message.tell(f"Stopped: {run.how_far}. Go on with it, or discard it.")

    def _on_saved(self, path: Path, run: FinetuneRun, left_out: Sequence[str]) -> None:
        """Say what was saved, and offer it as a model to start from."""
        self.run = None
        shots = count(len(run.shots), "annotated image")
        text = f"Saved as {path.name}, with the size of its cells. It has learnt from {shots}. "
        text += "Segment your images with it next."
        if left_out:
            text += "\nLeft out, as they could not be read: " + " ".join(left_out)
        self._is_filling = True
        self._offer_models()
        self._is_filling = self.overwrite.value = False
        self._follow_choice()
        forms.show(True, self.next)
        self.message.tell(text)
        try:
            self.on_tuned(path)
        except Exception as error:  # the model is saved all the same
            self.message.fail(f"{text}\nBut it could not be passed on: {plain(error)}")

    def _show_state(self) -> None:
        running, chosen = runs(self.job), self.choose()
        stopped = self.run is not None and not running
        free = not running and not stopped
        forms.show(free, self.start)
        forms.show(running, self.stop, self.progress, self.time)
        forms.show(stopped, self.go_on, self.discard)
        is_there = chosen is not None and chosen.file(layout.MODEL).exists()
        forms.show(free and is_there, self.overwrite)
        self.folder.disabled = self.check.disabled = self.more.button.disabled = running
        channels, how = [self.channels.cells, self.channels.nuclei], [self.steps, self.batch]
        for field in (*channels, *how, self.model, self.recipe, self.name, self.overwrite):
            field.disabled = not free

    def _show_curve(self, run: FinetuneRun | None) -> None:
        self.curve.value = draw_losses(list(run.log), run.options.steps) if run else ""


def tell_shots(found: Survey) -> str:
    """Tell how much is annotated, with a table of the images: what is doubtful, or left out."""
    cells = count(sum(shot.cells for shot in found.usable), "cell")
    summary = f"<b>{count(len(found.usable), 'annotated image')}</b> with {cells}; "
    summary += f"{count(len(found.queries), 'image')} to be segmented."
    if found.usable:
        width = f"{found.diameter:.0f} px wide on average"
        summary += f" Your cells are {width}; the new model remembers it."
    rows = [
        (shot.name, "", "", f"\N{WARNING SIGN} left out: {shot.problem}")
        if shot.problem
        else (shot.name, str(shot.cells), f"{shot.diameter:.0f} px", shot.doubt)
        for shot in found.shots
    ]
    frame = pd.DataFrame(rows, columns=["Image", "Cells", "Diameter", "Remark"])
    return summary + (forms.table(frame) if rows else "")


def draw_losses(log: list[dict[str, float]], n_steps: int) -> str:
    """Draw the losses of a fine-tuning: each is a dot, the line their mean over a tenth."""
    if not log:
        return ""
    losses = pd.DataFrame(log[:: -(-len(log) // MAX_POINTS)]).set_index("step")
    means = losses.rolling(max(1, len(losses) // 10), min_periods=1).mean()
    figure = Figure(figsize=(5.8, 2.2), layout="constrained")
    axes = figure.subplots()
    for name, (colour, label) in CURVES.items():
        if name == "segmentation" or "contrast" in losses:
            axes.plot(losses[name], ".", color=colour, alpha=0.35, markersize=3)
            axes.plot(means[name], color=colour, label=label)
    axes.set(xlim=(0, n_steps), ylim=(0, None), xlabel="step")
    axes.legend(loc="upper right", frameon=False)
    now = log[-1]["segmentation"]
    return forms.render_html(figure, f"Loss over {len(log)} of {n_steps} steps, now {now:.3g}")
