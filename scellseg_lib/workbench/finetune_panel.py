"""The fine-tune panel: from a folder with annotated images to a model of the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import RLock
from time import monotonic

from scellseg_lib.errors import ScellsegError
from scellseg_lib.workbench.finetune_choices import NO_SHOTS, NONE_USABLE, FinetuneChoices
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.tuning import Settings, Tuning

DRAWN_EVERY = 0.25
"""Least seconds between two drawings of the curve."""
NAME = re.compile(r"\w[\w .()+-]*")


class FinetunePanel(FinetuneChoices):
    """Fine-tune a model on the annotated images of a folder, without a line of code.

    Every field and button is an attribute (`folder`, `model`, `steps`, `start` ..) that Python can
    set or click as a hand does; `join` waits for what runs in the background.

    Parameters
    ----------
    folder : Path, optional
        Of the experiment, in a layout of `folders.find_samples`.
    on_tuned : callable, optional
        Called with the path of each model that is saved, from the thread that saved it.

    Attributes
    ----------
    found : Found or None
        What the folder holds.
    job : Job or None
        The latest fine-tuning.
    tuning : Tuning or None
        The one that runs, or was stopped and can be gone on with.
    """

    def __init__(
        self, folder: Path | None = None, on_tuned: Callable[[Path], None] | None = None
    ) -> None:
        self._lock = RLock()  # a run may end while the page asks for something
        super().__init__()
        self.on_tuned = on_tuned
        self._drawn = 0.0
        clicks = {
            self.start: self.begin,
            self.stop: self.cancel,
            self.go_on: self.resume,
            self.keep: self.keep_as_is,
            self.discard: self.forget,
        }
        for button, react in clicks.items():
            button.on_click(lambda _, react=react: react())
        if folder is not None:
            self.folder.value = str(folder)

    def begin(self) -> None:
        """Start, or say what is missing."""
        if self.running or self.tuning:
            return
        settings = self.settings()
        problem = self._missing(settings)
        if settings is None or problem:
            self.message.fail(problem)
        else:
            self._run(Tuning(settings))

    def _missing(self, settings: Settings | None) -> str:
        if self.found is None:
            return "Name the folder of your experiment first, and press Check."
        if settings is None:
            if not self.found.usable:
                return NONE_USABLE if self.found.shots else NO_SHOTS
            return "Choose the channel of the cells."
        if not NAME.fullmatch(settings.name):
            return "Give the new model a name of letters, digits, spaces, - and _."
        if settings.checkpoint.exists():
            return "An unfinished run of this name lies in the folder. Give another name."
        if settings.model_file.exists() and not settings.overwrite:
            return "There is a model of this name. Give another, or tick that it be replaced."
        return ""

    def resume(self) -> None:
        """Go on with the run that was stopped."""
        if self.tuning and not self.running:
            self._run(self.tuning)

    def look(self) -> None:
        """Look into the folder, in the background; after what is shown of a run that ends."""
        with self._lock:
            super().look()

    def cancel(self) -> None:
        """Stop after the step that is being done."""
        with self._lock:
            if self.job is not None and self.running:
                self.message.tell("Stopping after this step ...")
                self.job.cancel()

    def keep_as_is(self) -> None:
        """Save the model as it was when the run was stopped."""
        tuning = self.tuning
        if tuning is None or tuning.kept is None or self.running:
            return
        try:
            path = tuning.keep()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
        else:
            self._saved(path, tuning)

    def forget(self) -> None:
        """Discard the run that was stopped; what it had learnt is lost."""
        if self.tuning is None or self.running:
            return
        try:
            self.tuning.discard()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
            return
        self.look()

    def _run(self, tuning: Tuning) -> None:
        self.tuning, timing = tuning, self._timing
        if timing is not None:
            timing.cancel()

        def work(job: Job) -> Path:
            if timing is not None:
                timing.join()  # two at once are slower than one after the other
            return tuning(job)

        self.job = Job(work, on_change=partial(self._follow, tuning))
        self._drawn = 0.0
        self.message.tell("")
        self.job.start()
        self._show_estimate()

    def _follow(self, tuning: Tuning, job: Job) -> None:
        """Show how far the run is; called from its thread."""
        if job is not self.job:
            return
        if job.ended:
            with self._lock:
                self._ended(job, tuning)
            return
        self.show_progress(job)
        if monotonic() - self._drawn >= DRAWN_EVERY:
            self._drawn = monotonic()
            self.show_curve(tuning)
            self._show_state()

    def _ended(self, job: Job, tuning: Tuning) -> None:
        self.show_progress(job)
        self.show_curve(tuning)
        if job.state == "done":
            self._saved(job.result, tuning)
            return
        if not tuning.settings.checkpoint.exists():
            self.tuning = None
        self._show_state()
        self._show_estimate()
        if job.error is not None:
            self.message.fail(plain(job.error))
        elif tuning.kept is None:
            self.message.tell("Stopped before the first step.")
        else:
            self.message.tell(
                f"Stopped: {tuning.how_far}. Go on, keep the model as it is now, or discard it."
            )

    def _saved(self, path: Path, tuning: Tuning) -> None:
        """Say what was saved, and offer it as a model to start from."""
        self.tuning = None
        n_shots = len(tuning.settings.shots)
        text = f"Saved as {path.name}, with the size of its cells. It has learnt from "
        text += f"{count(n_shots, 'annotated image')}. Segment your images with it next."
        if tuning.left_out:
            text += "\nLeft out, as they could not be read: " + " ".join(tuning.left_out)
        with self._quietly():
            self._offer_models()
            self.overwrite.value = False
            self._propose_name()
        self._show_state()
        self._show_estimate()
        self.message.tell(text)
        if self.on_tuned is None:
            return
        try:
            self.on_tuned(path)
        except Exception as error:  # the model is saved all the same
            self.message.fail(f"{text}\nBut it could not be passed on: {plain(error)}")
