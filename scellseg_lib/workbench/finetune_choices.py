"""What is chosen for a fine-tuning, what follows from it, and how long it will take."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from threading import local
from typing import Any

from scellseg_lib.errors import ScellsegError
from scellseg_lib.files.layout import find_free_name
from scellseg_lib.network import ARCHITECTURES
from scellseg_lib.workbench.experiment import (
    Channels,
    Experiment,
    OfferedModel,
    Survey,
    describe_model,
    offer_starts,
)
from scellseg_lib.workbench.finetune_form import (
    CHOOSE,
    NO_NUCLEI,
    ONLY,
    FinetuneForm,
    diameter_picture,
    shots_table,
)
from scellseg_lib.workbench.forms import count, duration, plain, typed_path
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.tuning import Settings, Tuning, learning, seconds_per_step, unfinished

EMPTY = (
    "Type the folder of your experiment. Draw the cells in one or two of its images first "
    "(Annotate)."
)
NO_SHOTS = (
    "None of the images in this folder is annotated yet. Draw all cells in one or two of them "
    "(Annotate), then press Check."
)
NONE_USABLE = "None of the annotated images can be used: the table says why. Mend them, then Check."


class FinetuneChoices(FinetuneForm):
    """The form of the fine-tune panel, filled from the folder that is named."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Survey | None = None
        self.tuning: Tuning | None = None
        self._former: Tuning | None = None
        self.job: Job | None = None
        self._looking: Job | None = None
        self._timing: Job | None = None
        self._speeds: dict[tuple, float] = {}
        self._proposed = ""
        self._quiet = local()
        self._observe()
        self._offer_models()
        self._show_found()
        self.message.tell(EMPTY)

    def _observe(self) -> None:
        def on(widget: Any, react: Callable[[], None]) -> None:
            widget.observe(lambda _: None if self._is_quiet else react(), "value")

        on(self.folder, self.look)
        on(self.steps, self._show_estimate)
        on(self.name, self._show_state)
        on(self.model, self._model_chosen)
        for channel in (self.cells_channel, self.nuclei_channel):
            on(channel, self._channel_chosen)
        for widget in (self.strategy, self.batch, self.device):
            on(widget, self._show_estimate)
        self.check.on_click(lambda _: self.look())

    @property
    def _is_quiet(self) -> bool:
        return getattr(self._quiet, "on", False)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Within, this thread sets fields without what follows from a choice; a hand that chooses
        meanwhile does so in another thread, and is heard.
        """
        before, self._quiet.on = self._is_quiet, True
        try:
            yield
        finally:
            self._quiet.on = before

    @property
    def running(self) -> bool:
        """Whether a fine-tuning runs."""
        return self.job is not None and not self.job.ended

    @property
    def channels(self) -> Channels | None:
        """Channel of the cells and of the nuclei; None where each image has but one."""
        if not self.cells_channel.value:
            return None
        return self.cells_channel.value, self.nuclei_channel.value

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing runs in the background, at most `timeout` seconds for each part."""
        for name in ("_looking", "_timing", "job"):
            job: Job | None = getattr(self, name)
            if job is not None:
                job.join(timeout)

    # --- the folder ---------------------------------------------------------------------------

    def look(self) -> None:
        """Look into the folder, in the background."""
        if self.running:
            return
        folder = typed_path(self.folder.value)
        self._former = self.tuning or self._former
        self.found, self.tuning = None, None
        for job in (self._looking, self._timing):
            if job is not None:
                job.cancel()
        self._show_found()
        if folder is None:
            self.message.tell(EMPTY)
            return
        self.message.tell("Looking into the folder ...")
        self._looking = Job(
            lambda job: Experiment(folder).survey(job.report), on_change=self._looked
        )
        self._looking.start()

    def _looked(self, job: Job) -> None:
        if job is not self._looking:
            return  # another folder was named meanwhile
        if job.state == "running" and job.total:
            self.message.tell(f"Reading the annotated images: {job.done} of {job.total} ...")
        elif job.state == "failed":
            assert job.error is not None
            self.message.fail(plain(job.error))
        elif job.state == "done":
            self.found = job.result
            self._show_found()

    def _show_found(self) -> None:
        found = self.found
        self.shots.value = shots_table(found) if found else ""
        if found:
            self.tuning = self._as_known(unfinished(found.folder))
        with self._quietly():
            self._offer_channels()
            self._offer_models()
            if self.tuning:
                self._fill(self.tuning.settings)
            self._propose_name()
        self._show_diameter()
        self.show_curve(self.tuning)
        self._show_state()
        self._show_estimate()
        if found:
            self._say_what_next(found)

    def _as_known(self, tuning: Tuning | None) -> Tuning | None:
        """Give the run as it was stopped here, with the model that can be kept, if it is that."""
        former = self._former
        if tuning and former and former.kept and former.settings.record == tuning.settings.record:
            # Another window may have gone on with it: then what was kept here is out of date.
            return former if former.log == tuning.log else tuning
        return tuning

    def _say_what_next(self, found: Survey) -> None:
        if self.tuning:
            self.message.tell(
                f"An unfinished run, {self.tuning.settings.name}, lies here: "
                f"{self.tuning.how_far}. Go on with it, or discard it."
            )
        elif names := learning(found.folder):
            self.message.tell(
                f"{', '.join(names)} is still being learnt in another window. Its model appears in "
                "the folder when it is done; press Check to look. You can start another beside it, "
                "but both are then slower."
            )
        elif not found.shots:
            self.message.fail(NO_SHOTS)
        elif not found.usable:
            self.message.fail(NONE_USABLE)
        elif self.cells_channel.value is None:
            self.message.tell("The images have several channels: choose the one of the cells.")
        elif left_out := len(found.shots) - len(found.usable):
            self.message.tell(
                f"{count(left_out, 'annotated image is', 'annotated images are')} left out: the "
                "table says why. You can start without, or mend and Check again."
            )
        else:
            self.message.tell("Ready: press Start.")

    # --- what is chosen -----------------------------------------------------------------------

    def _offer_channels(self) -> None:
        before = self.channels
        named = self.found.channels if self.found and self.found.usable else []
        self.cells_channel.options = [CHOOSE, *named] if named else [ONLY]
        self.nuclei_channel.options = [NO_NUCLEI, *named]
        self._choose_channels(before)

    def _choose_channels(self, wanted: Channels | None) -> None:
        """Choose channels if the images have them."""
        named = {name for _, name in self.cells_channel.options}
        if wanted and wanted[0] in named and wanted[1] in {*named, "none"}:
            self.cells_channel.value, self.nuclei_channel.value = wanted

    def _offer_models(self) -> None:
        before = self.model.value
        known = offer_starts(self.found.folder if self.found else None)
        self.model.options = [(start.title, start) for start in known]
        same = [start for start in known if before and start.key == before.key]
        self.model.value = (same or known)[0]
        self._show_about()

    def _model_chosen(self) -> None:
        with self._quietly():
            start: OfferedModel = self.model.value
            if start.is_own and start.card:
                self._choose_channels(start.card.channels)
            self._show_about()
            self._propose_name()
        self._show_diameter()
        self._show_state()
        self._show_estimate()

    def _show_about(self) -> None:
        card = self.model.value.card
        self.about.value = escape(describe_model(card)) if card else ""

    def _channel_chosen(self) -> None:
        self._show_diameter()
        if self.found:
            self._say_what_next(self.found)
        self._show_estimate()

    def _propose_name(self) -> None:
        """Propose a free name, unless the user has given one."""
        if self.found is None or self.tuning or self.name.value not in ("", self._proposed):
            return
        kind = self.model.value.key.removeprefix("released ").split("_")[0]
        kind = kind if kind in ARCHITECTURES else "tuned"
        wanted = re.sub(r"[^\w.-]", "_", self.found.folder.name).strip("._-") or "my"
        self._proposed = find_free_name(self.found.folder, f"{wanted}-{kind}")
        self.name.value = self._proposed

    def _show_diameter(self) -> None:
        self.diameter.value = ""
        if self.found and self.found.usable and self.cells_channel.value is not None:
            try:
                self.diameter.value = diameter_picture(self.found, self.channels)
            except (ScellsegError, OSError) as error:
                self.message.fail(plain(error))

    def settings(self) -> Settings | None:
        """What is chosen; None while there is nothing to learn from."""
        if not (self.found and self.found.usable) or self.cells_channel.value is None:
            return None
        return Settings(
            folder=str(self.found.folder),
            channels=self.channels,
            start=self.model.value.key,
            strategy=self.strategy.value,
            steps=self.steps.value,
            batch_size=self.batch.value,
            device=self.device.value,
            name=self.name.value.strip().removesuffix(".safetensors"),
            shots=tuple(shot.name for shot in self.found.usable),
            overwrite=self.overwrite.value,
        )

    def _fill(self, settings: Settings) -> None:
        """Show the settings of a run that was stopped."""
        self._choose_channels(settings.channels)
        self.steps.value, self.batch.value = settings.steps, settings.batch_size
        self.strategy.value, self.name.value = settings.strategy, settings.name
        for field, wanted in ((self.model, settings.start), (self.device, settings.device)):
            for _, value in field.options:
                if wanted in (value, getattr(value, "key", None)):
                    field.value = value

    # --- the estimate -------------------------------------------------------------------------

    def _show_estimate(self) -> None:
        """Say how long it will take; times a step in the background where that is not known."""
        settings = self.settings()
        if self._timing is not None:
            self._timing.cancel()
        if settings is None or self.running:
            self.estimate.value = ""
            return
        key = (settings.start, settings.strategy, settings.batch_size, settings.device)
        if key in self._speeds:
            self._say_estimate(self._speeds[key])
            return
        before = self._timing

        def work(job: Job) -> float:
            if before is not None:
                before.join()
            return seconds_per_step(job, settings)

        self.estimate.value = "Estimating the time: a few steps are tried out ..."
        self._timing = Job(work, on_change=partial(self._timed, key))
        self._timing.start()

    def _timed(self, key: tuple, job: Job) -> None:
        if job.state == "done":
            self._speeds[key] = job.result
        if job is not self._timing or self.running:
            return
        if job.state == "done":
            self._say_estimate(job.result)
        elif job.state == "failed":
            assert job.error is not None
            self.estimate.value = ""
            self.message.fail(plain(job.error))

    def _say_estimate(self, seconds: float) -> None:
        done = len(self.tuning.log) if self.tuning else 0
        left = duration(seconds * (self.steps.value - done))
        self.estimate.value = (
            f"It will take about <b>{left}</b> on this computer (an estimate, from a few steps "
            "that were tried out)."
        )

    def _show_state(self) -> None:
        """Show and free what can be used now."""
        settings = self.settings()
        taken = settings is not None and settings.model_file.exists()
        self.show_state(running=self.running, tuning=self.tuning, taken=taken)
