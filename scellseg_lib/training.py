"""The one loop of training; a run that is killed and resumed ends as one that never stopped."""

import json
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scellseg_lib.atomic import whole
from scellseg_lib.device import Precision, release_memory
from scellseg_lib.errors import TrainingError, telling
from scellseg_lib.model import Model, TrainingData, library_versions, open_tensors
from scellseg_lib.network import NetworkOutput
from scellseg_lib.progress import bar
from scellseg_lib.samples import Sample
from scellseg_lib.style import remember_styles

SAVE_EVERY = 30.0  # seconds between checkpoints: what a kill can cost
ANEW = "Delete it to start anew."


class Progress(NamedTuple):
    """What a training loop tells its callback after each step: steps done, and its losses."""

    step: int
    n_steps: int
    losses: dict[str, float]


Callback = Callable[[Progress], None]


class Enough(Exception):
    """What a callback raises to end a run after the step; what is learnt so far is its result."""


def train(
    model: Model,
    saved: "Checkpoint",
    losses_at: Callable[[int], dict[str, Tensor]],
    rate: Callable[[int], float],
    n_steps: int,
    *,
    fixed: Sequence[nn.Module] = (),  # which keep their statistics
    validate: tuple[Callable[[], float], int] | None = None,
    callback: Callback | None = None,
) -> None:
    """Train a model in place and write its log; the checkpoint's file is left to the caller.

    ``losses_at`` gives the ``loss`` of a step, counted from 0, and its parts, by random numbers of
    that step alone; ``rate`` its share of the learning rates; ``validate`` the validation loss, and
    after how many steps each.
    """
    optimiser = saved.optimiser
    rates = [group["lr"] for group in optimiser.param_groups]
    log = model.log = saved.resume()
    saved_at = monotonic()

    with bar(n_steps, "train", initial=len(log), delay=0) as shown:
        while len(log) < n_steps:
            step, done = len(log), len(log) + 1
            model.network.train()
            for part in fixed:
                part.eval()
            for group, usual in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = usual * rate(step)

            losses = losses_at(step)
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            if not math.isfinite(values["loss"]):
                remedy = "Lower the learning rate, and check the images for odd intensities."
                raise TrainingError(f"the loss is {values['loss']} at step {done}", remedy=remedy)
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            optimiser.step()

            log.append({"step": done} | values)
            if validate and (done % validate[1] == 0 or done == n_steps):
                log[-1]["validation_loss"] = validate[0]()
            if done == n_steps or monotonic() - saved_at >= SAVE_EVERY:
                saved.save(log)
                saved_at = monotonic()
            shown.update()
            try:
                if callback:
                    callback(Progress(done, n_steps, values))
            except Enough:
                saved.save(log)
                break
    optimiser.zero_grad(set_to_none=True)  # gradients are as large as the network
    model.network.requires_grad_(True).eval()
    release_memory()


def segmentation_loss(
    model: Model, images: Tensor, targets: Tensor, precision: Precision
) -> tuple[Tensor, NetworkOutput]:
    """Loss of a batch by the model's representation, and what the network said."""
    with precision.autocast(model.device):
        output = model.network(images.to(model.device))
    return model.representation.loss(output.maps.float(), targets.to(model.device)), output


def complete_card(
    model: Model, how: str, data: Sequence[Sequence[Sample]], recipe: dict[str, Any]
) -> None:
    """Write how and on what a model was trained into its card, which is still that of its start."""
    sets = [(getattr(s, "name", "images"), len(s), getattr(s, "licence", "")) for s in data]
    learnt = [TrainingData(name=name, images=n, licence=terms) for name, n, terms in sets]
    validated = [entry for entry in model.log if "validation_loss" in entry]
    card = model.card
    before = f"; started from: {card.origin}" if card.origin else ""
    card.origin = f"{how} by the Scellseg notebooks, {len(model.log)} steps{before}"
    card.channels = getattr(data[0], "channels", card.channels)
    card.training_data = list(dict.fromkeys([*card.training_data, *learnt]))
    card.recipe = recipe
    card.scores = {"validation_loss": validated[-1]["validation_loss"]} if validated else {}
    card.versions = library_versions()
    remember_styles(model, [sample for one in data for sample in one])


class CheckpointOfAnotherRun(TrainingError):
    """A checkpoint is of another run."""

    differing: dict[str, tuple[Any, Any]]  # by name: the value there, and that asked for


def read_run(path: str | Path | None) -> dict[str, Any]:
    """``identity`` of a checkpoint's run, and ``log`` of its steps; empty if it cannot be read."""
    with suppress(TrainingError), open_tensors(Path(path or ""), ANEW, TrainingError) as file:
        return _read_run(file)
    return {}  # `Checkpoint.resume` says what is wrong with the file


def _read_run(file: Any) -> dict[str, Any]:
    run = json.loads(file.metadata()["run"])
    return {"identity": dict(run["identity"]), "log": [dict(step) for step in run["log"]]}


def resume_precision(path: str | Path | None, otherwise: Precision) -> Precision:
    """Precision in which a run began that has a checkpoint, since it goes on as it began."""
    with suppress(KeyError, TypeError):
        return Precision(**read_run(path)["identity"]["precision"])
    return otherwise


class Checkpoint:
    """State of a run (modules, optimiser) as safetensors, restored in place; no path, no file."""

    def __init__(
        self,
        path: str | Path | None,
        identity: dict[str, Any],
        modules: dict[str, nn.Module],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        self.path = Path(path) if path else None
        self.modules, self.optimiser = modules, optimiser
        self.identity = json.loads(json.dumps(identity, sort_keys=True, default=str))

    def save(self, log: list[dict[str, float]]) -> None:
        """Write all state; the earlier file stays until this is whole. TrainingError otherwise."""
        if self.path is None:
            return
        states: dict[str, dict[str, Any]] = {k: m.state_dict() for k, m in self.modules.items()}
        states |= {f"optimiser/{i}": s for i, s in self.optimiser.state_dict()["state"].items()}
        tensors = {
            f"{prefix}/{name}": value.detach().cpu().contiguous()
            for prefix, state in states.items()
            for name, value in state.items()
            if isinstance(value, Tensor)
        }
        run = json.dumps({"identity": self.identity, "log": log})
        what = "the checkpoint cannot be written"
        remedy = "Make room, or give another folder; the same call goes on from the last."
        with telling(what, self.path, remedy, TrainingError), whole(self.path) as scratch:
            save_file(tensors, scratch, metadata={"run": run})

    def resume(self) -> list[dict[str, float]]:
        """Restore all state; returns the log of the steps done. TrainingError where it cannot."""
        if self.path is None or not os.path.lexists(self.path):
            return []
        here, states = self.identity, dict[str, dict[str, Tensor]]()
        with open_tensors(self.path, ANEW, TrainingError) as file:
            run = _read_run(file)
            there, log = run["identity"], run["log"]
            pairs = {name: (there.get(name), here.get(name)) for name in sorted({*there, *here})}
            if differing := {name: (a, b) for name, (a, b) in pairs.items() if a != b}:
                words = (f"{name}: {a} there, {b} asked for" for name, (a, b) in differing.items())
                what = f"the checkpoint is of another run: {'; '.join(words)}"
                remedy = "Give another file, or delete it to start anew."
                raise CheckpointOfAnotherRun(what, remedy=remedy, differing=differing)
            for key in file.keys():  # noqa: SIM118
                prefix, name = key.rsplit("/", 1)
                value = states.setdefault(prefix, {})[name] = file.get_tensor(key)
                if not value.isfinite().all():
                    raise ValueError(f"{key} is no number")
            for prefix, module in self.modules.items():
                module.load_state_dict(states.pop(prefix, {}))
            state = {int(prefix.split("/")[1]): values for prefix, values in states.items()}
            if log and not state:
                raise KeyError("the optimiser's state")
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": state, "param_groups": groups})
            for weight, values in self.optimiser.state.items():
                _ = [value.expand(weight.shape) for value in values.values()]  # or it does not fit
        return log
