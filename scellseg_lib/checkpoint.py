"""Checkpoints of training: all state in one safetensors file, written whole, read without pickle.

Random numbers are drawn from ``default_rng((seed, step))``, so that the step is their whole state
and a resumed run ends with the weights of one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scellseg_lib.errors import TrainingError
from scellseg_lib.precision import Precision


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

    def save(
        self,
        step: int,
        modules: dict[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        log: list[dict[str, float]],
    ) -> None:
        """Write the state after ``step`` steps; the earlier file stays until this is whole."""
        tensors: dict[str, Tensor] = {}
        for prefix, module in modules.items():
            for key, value in module.state_dict().items():
                tensors[f"{prefix}/{key}"] = value.detach().cpu().contiguous().clone()
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser/{index}/{key}"] = value.detach().cpu().contiguous().clone()
        meta = {"identity": self.identity, "step": step, "log": log}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        save_file(tensors, scratch, metadata={"run": json.dumps(meta)})
        scratch.replace(self.path)

    def resume(
        self, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer
    ) -> tuple[int, list[dict[str, float]]]:
        """Restore the state; returns (steps done, log), or (0, []) where there is no file.

        Raises
        ------
        TrainingError
            If the file is damaged or of another run.
        """
        if not self.path.is_file():
            return 0, []
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
        return meta["step"], meta["log"]

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

    def remove(self) -> None:
        """Delete the file of a finished run."""
        self.path.unlink(missing_ok=True)
