"""Checkpoints of training: all state in one safetensors file, written whole, read without pickle.

Random numbers are drawn from ``default_rng((seed, step))``, so that the step is their whole state
and a resumed run ends with the weights of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scellseg_lib.atomic import whole
from scellseg_lib.device import Precision
from scellseg_lib.errors import TrainingError
from scellseg_lib.progress import bar

SAVE_EVERY = 30.0
"""Seconds between checkpoints: what a kill can cost."""


@dataclass(frozen=True)
class Progress:
    """What a training loop tells its callback after each step."""

    step: int
    """Steps done."""
    n_steps: int
    losses: dict[str, float]
    """Of this step: ``loss`` and its parts."""
    validation_loss: float | None = None


Callback = Callable[[Progress], None]


class Enough(Exception):
    """What a callback raises to end a run after the step that it is told of.

    The run's checkpoint is written, and what it has learnt so far is its result.
    """


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over all weights and statistics, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def kept_precision(path: str | Path | None) -> Precision | None:
    """Precision of the run that a checkpoint is of, which its resumption keeps."""
    if path is None or not Path(path).is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return Precision(**json.loads(file.metadata()["run"])["identity"]["precision"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None  # `resume` will say what is wrong with the file


def check_choices(asked: dict[str, tuple[str, Collection[str]]]) -> None:
    """Refuse options that are none of their choices; from a name to (value, choices).

    Raises
    ------
    TrainingError
        For the first that is unknown.
    """
    for name, (value, choices) in asked.items():
        if value not in choices:
            raise TrainingError(
                f"{name}={value!r} is unknown", remedy=f"Choose one of {', '.join(choices)}."
            )


def check_numbers(*, counts: dict[str, Any], sizes: dict[str, Any]) -> None:
    """Refuse counts that are no whole numbers from 1, and sizes that are no numbers from 0.

    Raises
    ------
    TrainingError
        For the first of them.
    """
    for name, value in (counts | sizes).items():
        kind, least = (Integral, 1) if name in counts else (Real, 0)
        if not (isinstance(value, kind) and least <= value < math.inf):  # type: ignore[operator]
            what = "a whole number from 1" if name in counts else "a number from 0"
            raise TrainingError(
                f"{name}={value!r} is not {what}", remedy="Leave it out for the usual."
            )


class Checkpoint:
    """The resumable state of a run.

    Parameters
    ----------
    path : path
        File to write to and to resume from.
    identity : dict
        What makes the run what it is (recipe, data, precision); a file of another run is refused.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any]) -> None:
        self.path = Path(path)
        self.identity = json.loads(json.dumps(identity, sort_keys=True, default=str))

    def save(self, tensors: dict[str, Tensor], log: list[dict[str, float]]) -> None:
        """Write a `snapshot` after the steps of a log; the earlier file stays until this is whole.

        Raises
        ------
        TrainingError
            If it cannot be written.
        """
        meta = {"identity": self.identity, "step": len(log), "log": log}
        stored = {key: value.cpu().contiguous() for key, value in tensors.items()}
        try:
            with whole(self.path) as scratch:
                save_file(stored, scratch, metadata={"run": json.dumps(meta)})
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the checkpoint cannot be written ({error})",
                where=self.path,
                remedy="Make room, or give another folder; the same call goes on from the last.",
            ) from error

    def resume(
        self, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer
    ) -> list[dict[str, float]]:
        """Restore the state; returns the log of the steps done, none where there is no file.

        Raises
        ------
        TrainingError
            If the file is damaged or of another run.
        """
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="pt") as file:
                meta = json.loads((file.metadata() or {})["run"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"the checkpoint cannot be read ({error})",
                where=self.path,
                remedy="Delete it to start anew.",
            ) from error
        self._check(meta["identity"])
        for prefix, module in modules.items():
            head = f"{prefix}/"
            module.load_state_dict(
                {key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)}
            )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser/"):
                _, index, name = key.split("/")
                state.setdefault(int(index), {})[name] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        return meta["log"]

    def _check(self, found: dict[str, Any]) -> None:
        differing = [
            f"{key}: {found.get(key)} there, {self.identity.get(key)} asked for"
            for key in sorted({*found, *self.identity})
            if found.get(key) != self.identity.get(key)
        ]
        if differing:
            raise TrainingError(
                "the checkpoint is of another run: " + "; ".join(differing),
                where=self.path,
                remedy="Give another file, or delete it to start anew.",
            )


def snapshot(modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All state of a run, as tensors."""
    states = {prefix: module.state_dict() for prefix, module in modules.items()}
    for index, state in optimiser.state_dict()["state"].items():
        states[f"optimiser/{index}"] = state
    return {
        f"{prefix}/{key}": value.detach()
        for prefix, state in states.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


@dataclass
class Steps:
    """The steps of a run: logged, told to the callback and shown with the time left.

    Iterate over it within ``with``, and call `finish` after each step. With a checkpoint the run
    goes on where that ends; it is written every ``SAVE_EVERY`` seconds and after the last step, and
    left to who saves the model.

    Parameters
    ----------
    n_steps : int
    label : str
        Of the bar.
    modules, optimiser
        All that the steps change.
    saved : Checkpoint, optional
    callback : callable, optional
        Gets a `Progress` after each step; it may raise `Enough`.

    Attributes
    ----------
    log : list of dict
        ``step``, the losses, and ``validation_loss`` where it was measured.
    """

    n_steps: int
    label: str
    modules: dict[str, nn.Module]
    optimiser: torch.optim.Optimizer
    saved: Checkpoint | None
    callback: Callback | None

    def __post_init__(self) -> None:
        self.log = self.saved.resume(self.modules, self.optimiser) if self.saved else []
        self.saved_at = monotonic()
        self.enough = False
        self.bar = bar(self.n_steps, self.label, initial=len(self.log), delay=0)

    def __iter__(self) -> Iterator[int]:
        for step in range(len(self.log), self.n_steps):
            if self.enough:
                return
            yield step

    def finish(self, losses: dict[str, float], validation_loss: float | None = None) -> None:
        """Note what a step came to."""
        done = len(self.log) + 1
        validated = {} if validation_loss is None else {"validation_loss": validation_loss}
        self.log.append({"step": done} | losses | validated)
        if done == self.n_steps or monotonic() - self.saved_at >= SAVE_EVERY:
            self._save()
        self.bar.update()
        if self.callback:
            try:
                self.callback(Progress(done, self.n_steps, losses, validation_loss))
            except Enough:
                self.enough = True
                self._save()

    def _save(self) -> None:
        if self.saved:
            self.saved.save(snapshot(self.modules, self.optimiser), self.log)
            self.saved_at = monotonic()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
