"""A fine-tuning in a job: it can be stopped, gone on with, kept as it is, and timed beforehand."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import torch
from pydantic import TypeAdapter, ValidationError

from scellseg_lib.atomic import whole
from scellseg_lib.datasets.load import load_folder
from scellseg_lib.errors import DatasetError, ScellsegError, TrainingError
from scellseg_lib.files.layout import find_free_name
from scellseg_lib.finetuning import STRATEGIES, finetune
from scellseg_lib.model import Model
from scellseg_lib.samples import Dataset
from scellseg_lib.training import CheckpointOfAnotherRun, Enough, Progress, read_run
from scellseg_lib.workbench.experiment import Channels, load_start
from scellseg_lib.workbench.forms import plain
from scellseg_lib.workbench.jobs import Cancelled, Job

TIMED_STEPS = 3
"""Steps before the estimate. The first, slower as all is new, does not count, and of the others the
quicker: another program that is busy for a moment is no reason to tell hours."""


@dataclass(frozen=True)
class Settings:
    """All that is chosen for a fine-tuning; written beside its checkpoint."""

    folder: str
    channels: Channels | None
    start: str
    """Key of the model to start from."""
    strategy: str
    steps: int
    batch_size: int
    device: str
    name: str
    """Of the tuned model."""
    shots: tuple[str, ...]
    queries: tuple[str, ...] | None = None
    """None: not yet known which of them can be read."""
    overwrite: bool = False

    @property
    def model_file(self) -> Path:
        """Where the tuned model is saved."""
        return Path(self.folder) / f"{self.name}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What a stopped run goes on from."""
        return self.model_file.with_suffix(".checkpoint")

    @property
    def record(self) -> Path:
        """These settings, as long as the run is unfinished."""
        return self.checkpoint.with_name(f"{self.checkpoint.name}.json")


class Tuning:
    """One fine-tuning: call it in a `Job`; its result is the path of the saved model.

    Attributes
    ----------
    settings : Settings
    log : list of dict
        Losses of the steps done, as `finetune` logs them.
    kept : Model or None
        After a stop, the model as it was then.
    left_out : list of str
        Images to be segmented that could not be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log: list[dict[str, float]] = _log(settings.checkpoint)
        self.kept: Model | None = None
        self.left_out: list[str] = []

    def __call__(self, job: Job) -> Path:
        """Learn to the end and save; a stop keeps the checkpoint and `kept`, and is `Cancelled`."""
        self._check_alone()
        self.kept, settings = None, self.settings
        self.log = _log(settings.checkpoint)
        job.report(0, 0, doing="Reading the model and the images")
        shots, queries = self._images(job)
        try:
            tuned = self._learn(job, shots, queries)
        finally:
            if settings.checkpoint.exists():
                self._write_record(learning=False)
            else:  # nothing to go on from
                settings.record.unlink(missing_ok=True)
        self.log = tuned.log
        if len(tuned.log) < settings.steps:
            self.kept = tuned
            raise Cancelled
        return self._save(tuned)

    @property
    def how_far(self) -> str:
        """How many steps are done, in words."""
        return f"{len(self.log)} of {self.settings.steps} steps are done"

    def keep(self) -> Path:
        """Save the model as it was when the run was stopped, and end the run.

        Raises
        ------
        ModelError
            If it cannot be written.
        TrainingError
            If another window has gone on with the run.
        """
        assert self.kept is not None
        self._check_alone()
        recipe = self.kept.card.recipe | {"stopped_after": len(self.kept.log)}
        self.kept.card = self.kept.card.model_copy(update={"recipe": recipe})
        return self._save(self.kept)

    def discard(self) -> None:
        """Forget the run, its checkpoint too; TrainingError where another window learns it."""
        self._check_alone()
        self._forget()

    def _forget(self) -> None:
        self.kept = None
        for file in (self.settings.checkpoint, self.settings.record):
            file.unlink(missing_ok=True)

    def _learn(self, job: Job, shots: Dataset, queries: Dataset | None) -> Model:
        self._write_record(learning=True)
        job.report(0, 0, doing="Preparing")
        try:
            return _finetune(
                self.settings,
                shots,
                queries,
                steps=self.settings.steps,
                checkpoint=self.settings.checkpoint,
                callback=partial(self._step, job),
            )
        except CheckpointOfAnotherRun as error:
            raise TrainingError(
                "the images or the model have changed since this run was stopped",
                remedy="Discard it and start anew.",
            ) from error

    def _write_record(self, *, learning: bool) -> None:
        record = asdict(self.settings)
        if learning:
            record["process"] = _process(psutil.Process())
        with whole(self.settings.record) as scratch:
            scratch.write_text(json.dumps(record, indent=2))

    def _check_alone(self) -> None:
        if _learns(self.settings.record):
            raise TrainingError(
                f"{self.settings.name} is being learnt in another window",
                remedy="Wait until it is done or stop it there; then press Check.",
            )

    def _images(self, job: Job) -> tuple[Dataset, Dataset | None]:
        """Shots, and the images to be segmented that can be read, where the strategy needs them."""
        settings = self.settings
        images = load_folder(settings.folder, settings.channels)
        shots = _chosen(images, "shot", settings.shots)
        if not STRATEGIES[settings.strategy].needs_queries:
            return shots, None
        if settings.queries is None:
            names = self._readable(job, images)
            self.settings = replace(settings, queries=names)
        queries = _chosen(images, "query", self.settings.queries or ()).without_masks()
        return shots, queries if len(queries) else None

    def _readable(self, job: Job, images: Dataset) -> tuple[str, ...]:
        """Names of the images to be segmented that can be read."""
        self.left_out = []
        names = []
        queries = [sample for sample in images if sample.split == "query"]
        for done, sample in enumerate(queries):
            job.report(done, len(queries), doing="Checking the images to be segmented")
            try:
                _ = sample.without_masks().image  # a copy: its pixels go with it
            except (ScellsegError, OSError) as error:
                self.left_out.append(plain(error))
            else:
                names.append(sample.name)
        return tuple(names)

    def _step(self, job: Job, progress: Progress) -> None:
        self.log.append({"step": progress.step, **progress.losses})
        try:
            job.report(progress.step, progress.n_steps, doing="Learning")
        except Cancelled:
            raise Enough from None  # at the end of a step, so that this state is whole

    def _save(self, tuned: Model) -> Path:
        settings, file = self.settings, self.settings.model_file
        if file.exists() and not settings.overwrite:  # it came while this learnt
            folder = Path(settings.folder)
            file = folder / f"{find_free_name(folder, settings.name)}.safetensors"
        tuned.save(file)
        self._forget()
        return file


def seconds_per_step(job: Job, settings: Settings) -> float:
    """Time a step of a fine-tuning on this machine; nothing of it is kept.

    Raises
    ------
    Cancelled
        If the job was cancelled meanwhile.
    ScellsegError
        Where the fine-tuning itself would fail.
    """
    ends: list[float] = []

    def timed(progress: Progress) -> None:
        ends.append(monotonic())
        job.report(progress.step, TIMED_STEPS)
        if progress.step == TIMED_STEPS:
            raise _Timed

    job.report(0, 0)
    shots = _chosen(load_folder(settings.folder, settings.channels), "shot", settings.shots)
    with suppress(_Timed):
        _finetune(settings, shots, None, steps=TIMED_STEPS, callback=timed)
    return min(later - earlier for earlier, later in pairwise(ends))


class _Timed(Exception):
    """What ends the timing once it is done."""


def _finetune(
    settings: Settings,
    shots: Dataset,
    queries: Dataset | None,
    *,
    steps: int,
    callback: Callable[[Progress], None],
    checkpoint: Path | None = None,
) -> Model:
    start = load_start(settings.start, Path(settings.folder))
    device: Any = torch.device(settings.device)
    start.network.to(device)
    return finetune(
        start,
        shots,
        queries,
        settings.strategy,
        steps=steps,
        batch_size=settings.batch_size,
        device=device,
        checkpoint=checkpoint,
        callback=callback,
    )


def _chosen(images: Dataset, split: str, names: Sequence[str]) -> Dataset:
    """Images of a split by their names; DatasetError for one that is there no more."""
    there = {sample.name: sample for sample in images if sample.split == split}
    gone = [name for name in names if name not in there]
    if gone:
        raise DatasetError(
            f"images are gone since this run began: {', '.join(gone)}",
            remedy="Put them back, or discard the run and start anew.",
        )
    return replace(images, samples=tuple(there[name] for name in names))


def unfinished(folder: Path) -> Tuning | None:
    """Latest run in a folder that was stopped, by whatever, and can be gone on with."""
    stopped = (one for one in _recorded(folder) if one.log and not _learns(one.settings.record))
    return next(stopped, None)


def learning(folder: Path) -> list[str]:
    """Names of the models of a folder that are being learnt now, in whatever window."""
    return [one.settings.name for one in _recorded(folder) if _learns(one.settings.record)]


def _recorded(folder: Path) -> Iterator[Tuning]:
    """Runs that have left a record in a folder, the latest first."""
    records = [path for path in folder.glob("[!.]*.checkpoint.json") if path.is_file()]
    for record in sorted(records, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            settings = TypeAdapter(Settings).validate_json(record.read_bytes())
        except (OSError, ValidationError):
            continue  # no record of ours
        tuning = Tuning(replace(settings, folder=str(folder)))
        if tuning.settings.record == record:
            yield tuning


def _process(process: psutil.Process) -> list[Any]:
    """Say which process it is; its number alone is given to another after its end."""
    return [platform.node(), process.pid, round(process.create_time())]


def _learns(record: Path) -> bool:
    """Whether a process of this computer lives that has begun a run and not ended it."""
    try:
        said = json.loads(record.read_bytes())
        node, number, _ = said["process"]
        if said["folder"] != str(record.parent) or node != platform.node():
            return False  # a copy; of another computer nobody here can tell
        return _process(psutil.Process(number)) == said["process"]
    except (OSError, KeyError, TypeError, ValueError, psutil.Error):
        return False


def _log(checkpoint: Path) -> list[dict[str, float]]:
    """Losses of the steps that a checkpoint holds; none where there is no readable one."""
    run = read_run(checkpoint)
    return run.log if run else []
