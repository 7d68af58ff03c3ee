"""A trial: everything that decides the scores of one run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

from scellseg_lib.samples import Dataset, Sample

METHOD_VERSION = 1  # HoVer's decoding was mended under it, before it had any result
"""Raised when a change of the code changes scores: trials of another version are other trials."""
METHOD_SOURCES = "cd0a001d0e2581fb"
"""Hash of the code that decides scores: when a test finds another, the version may have to rise."""
ADDED = {"queries": "query", "tested_on": "", "recalibrated": ""}
"""Fields added later, with the value of earlier trials: identities leave it out, so keys stay."""


class DecodingProtocol(NamedTuple):
    """How maps become masks."""

    resample: bool  # the dynamics run at the image's own size, not at the 30-px scale
    flips: bool  # the maps are averaged over the four flips
    as_released: bool = False  # by the released code's decoders, see `as_released`


PROTOCOLS = {
    "paper": DecodingProtocol(resample=False, flips=False),
    "flips": DecodingProtocol(resample=False, flips=True),
    "resample": DecodingProtocol(resample=True, flips=False),
    "best": DecodingProtocol(resample=True, flips=True),
    "as_released": DecodingProtocol(resample=False, flips=False, as_released=True),
}


@dataclass(frozen=True)
class Trial:
    """One run: which model is tuned how, by which shots, and how its maps are decoded."""

    data: str  # name of the data set
    model: str  # one of the five networks
    weights: str  # "packaged", "released", "untrained", or pre-trained on "subset:NAME"
    strategy: str  # "direct" (not tuned), or a strategy of `finetune`
    shots: tuple[str, ...]  # names of the annotated images; "direct" takes their diameter
    seed: int = 0  # the random state: of the draw of shots and of the patches
    steps: int = 100
    options: tuple[tuple[str, Any], ...] = ()  # further options of `finetune`, as sorted pairs
    levels: tuple[int, ...] = (32, 64, 128, 256)
    # What is scored: a split of the data set, or "held_out": the images of its pool but the shots.
    split: str = "query"
    protocol: str = "paper"  # one of `PROTOCOLS`
    contrast: str = ""  # name of the contrast images; none for a strategy without
    precision: str = "fp32"  # numeric type of the network: "fp32" or "bf16"
    # Split that contrastive fine-tuning has as queries, without masks: "query", as in the paper
    # (transductive), or "shot", the pool (inductive).
    queries: str = "query"
    # Another data set whose split is scored, each image scaled by its own true diameter, an oracle.
    tested_on: str = ""
    # Of what BatchNorm's running statistics are estimated anew before the tuned model segments: a
    # value of `FinetuneOptions.statistics`, or "" where they are those of the tuning.
    recalibrated: str = ""

    @property
    def n_shots(self) -> int:
        """Number of shots."""
        return len(self.shots)

    @property
    def needs(self) -> set[str]:
        """Names of the data sets that the trial uses."""
        return {self.data, self.contrast, self.tested_on} - {""}

    def identify(self, images: Mapping[str, Dataset], weights_sha256: str) -> dict[str, Any]:
        """What the scores depend on: the trial, the pixels, the weights and the method."""
        samples = [*self.select_shots(images), *self.select_tested(images)]
        if self.contrast:
            if (self.split, self.queries, self.tested_on) != ("query", "query", ""):
                samples += self.select_queries(images)  # else they are those that are scored
            samples += images[self.contrast]
        fields = asdict(self)
        for name, former in ADDED.items():
            if fields[name] == former:
                del fields[name]
        return fields | {
            "method": METHOD_VERSION,
            "pixels": _hash_pixels(samples),
            "weights_sha256": weights_sha256,
        }

    def drop_scoring(self) -> Self:
        """Return the trial without what only concerns the scoring: one tuned model serves all."""
        tuned = replace(self, protocol="paper", split="query", tested_on="", recalibrated="")
        # Classic fine-tuning has contrast images for its statistics alone.
        return replace(tuned, contrast="") if self.strategy == "classic" else tuned

    def select_shots(self, images: Mapping[str, Dataset]) -> Dataset:
        """Shots of the trial, in its order."""
        data = images[self.data]
        by_name = {sample.name: sample for sample in data.shot}
        return replace(data, samples=tuple(by_name[name] for name in self.shots))

    def select_queries(self, images: Mapping[str, Dataset]) -> Dataset:
        """Queries of contrastive fine-tuning, without masks."""
        return images[self.data].split(self.queries).without_masks()

    def select_tested(self, images: Mapping[str, Dataset]) -> Dataset:
        """Images that are segmented and scored."""
        if self.split != "held_out":
            return images[self.tested_on or self.data].split(self.split)
        pool = images[self.data].shot
        return replace(pool, samples=tuple(s for s in pool if s.name not in self.shots))


def hash_identity(identity: Mapping[str, Any]) -> str:
    """Name of a trial's results: 16 hexadecimal digits of the hash of its `Trial.identify`."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _hash_pixels(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.name.encode())
        digest.update(sample.image.tobytes())
        if sample.read_masks is not None:  # queries that only train have none
            digest.update(sample.masks.tobytes())
    return digest.hexdigest()
