"""A trial: everything that decides the scores of one run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from scellseg_lib.data import Dataset, Sample

METHOD_VERSION = 1
"""Raised when a change of the code changes scores: trials of another version are other trials."""
METHOD_SOURCES = "b6172522ac0b718b"
"""Hash of the code that decides scores; a test says when it is another and the version may have to
be raised."""
PROTOCOLS = {"paper": False, "best": True}
"""Decoding at the 30-px scale, or at full size with the maps averaged over the flips."""


@dataclass(frozen=True)
class Trial:
    """One run: which model is tuned how, by which shots, and how its maps are decoded."""

    data: str
    """Name of the data set."""
    model: str
    """One of the five networks."""
    weights: str
    """"packaged" or "released"."""
    strategy: str
    """"direct" (not tuned), or a strategy of `finetune`."""
    shots: tuple[str, ...]
    """Names of the annotated images; "direct" takes their diameter."""
    seed: int = 0
    """The random state: of the draw of shots and of the patches."""
    steps: int = 100
    options: tuple[tuple[str, Any], ...] = ()
    """Further options of `finetune`, as sorted pairs."""
    levels: tuple[int, ...] = (32, 64, 128, 256)
    split: str = "query"
    """Images that are segmented and scored."""
    protocol: str = "paper"
    """One of `PROTOCOLS`."""
    contrast: str = ""
    """Name of the contrast images; none for a strategy without."""
    precision: str = "fp32"
    """Numeric type of the network: "fp32" or "bf16"."""

    @property
    def n_shots(self) -> int:
        """Number of shots."""
        return len(self.shots)

    def identity(
        self, data: Dataset, contrast: Dataset | None, weights_sha256: str
    ) -> dict[str, Any]:
        """What the scores depend on: the trial, the pixels, the weights and the method.

        Parameters
        ----------
        data, contrast : Dataset
            That ``data`` and ``contrast`` name.
        weights_sha256 : str
            Of the weights that the trial starts from, see `checkpoint.weights_hash`.
        """
        needed = [*self.shot_samples(data), *data.split(self.split), *(contrast or ())]
        return asdict(self) | {
            "method": METHOD_VERSION,
            "pixels": _pixels_hash(needed),
            "weights_sha256": weights_sha256,
        }

    def tuning(self) -> Trial:
        """Return the trial without what only concerns the scoring: one tuned model serves all."""
        return replace(self, protocol="paper")

    def shot_samples(self, data: Dataset) -> Dataset:
        """Shots of the trial, in its order."""
        named = {sample.name: sample for sample in data.shot}
        return replace(data, samples=tuple(named[name] for name in self.shots))


def key(identity: Mapping[str, Any]) -> str:
    """Name of a trial's results: 16 hexadecimal digits of the hash of its `Trial.identity`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _pixels_hash(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode())
        digest.update(sample.image.tobytes())
        digest.update(sample.masks.tobytes())
    return digest.hexdigest()
