"""What the paper claims, and how a rule that judges a claim is written and registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from scellseg_lib import paths
from scellseg_lib.errors import ManifestError, ScellsegError

Triple = tuple[float, float, float]
"""Numbers on BBBC010_elegans, LIVECell_bv2 and mito."""

ANY = ("paper", "released", "cpu")
"""Profiles in the order in which their trials are looked for; those of `smoke` are no evidence."""
AS_PRETRAINED = ANY[:2]
"""Those whose models are pre-trained as the paper's."""
FIVE = ("paper", "cpu")
"""Those of all five models, and of pre-training subsets."""


class Verdict(StrEnum):
    """What becomes of a claim, the gravest first."""

    DISAGREES = "disagrees"
    UNTESTED = "not tested at this scale"
    AMBIGUOUS = "ambiguous in the paper"
    AGREES = "agrees"


class Judgement(NamedTuple):
    """What a rule says of a claim."""

    verdict: Verdict
    ours: str
    """Our numbers, with intervals."""
    reason: str
    """One sentence on these numbers, without capital and full stop."""
    on: Mapping[str, str] = {}
    """What a rule of a table used, where it is not the paper's: stand-in -> original."""


class Untested(ScellsegError):
    """What a claim is tested by is not there."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Entry(_Strict):
    id: str
    where: str
    """Place in the paper."""


class Fact(_Entry):
    """What the paper says of a data set."""

    train: int | None = None
    test: int | None = None
    instances_test: int | None = None
    modality: str | None = None
    shape: tuple[int, int, int] | None = None
    images: int | None = None
    instances: int | None = None
    instances_over: int | None = None
    values: Triple | None = None
    range: tuple[int, int] | None = None
    slip: str | None = None


class Claim(_Entry):
    """A claim of the paper and its numbers; ``ambiguous`` says what the paper leaves open."""

    text: str
    scellseg_cft: Triple | None = None
    cellpose_ft: Triple | None = None
    sneuro: float | None = None
    sfluor: float | None = None
    smicro: Triple | None = None
    sgeneral: Triple | float | None = None
    minimum: float | None = None
    value: float | None = None
    values: dict[str, float] | None = None
    shots: int | None = None
    ambiguous: str | None = None


class PaperClaims(_Strict):
    """The file ``data_manifests/paper_claims.yaml``."""

    datasets: tuple[Fact, ...]
    claims: tuple[Claim, ...]
    shot_levels: dict[str, tuple[int, ...]]
    repeats: int

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        entries: list[_Entry] = [*self.datasets, *self.claims]
        ids = [one.id for one in entries]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"{', '.join(twice)} twice")
        return self


def load_claims() -> PaperClaims:
    """Read what the paper claims; ManifestError if the file does not follow the schema."""
    file = paths.manifests() / "paper_claims.yaml"
    try:
        return PaperClaims.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ManifestError(
            f"the claims cannot be read ({error})",
            where=file,
            remedy="See `claims.base.PaperClaims` for its fields.",
        ) from error


class Rule(NamedTuple):
    """How one claim is judged."""

    judge: Callable[[Any, Any], Judgement]
    """Of the claim (a tuple of facts for "datasets") and the trials of one profile, a
    `evidence.Scale`, or the `evidence.Evidence` where there are no profiles."""
    notebook: str
    profiles: tuple[str, ...]


RULES: dict[str, Rule] = {}


def rule(
    claim: str, notebook: str, profiles: tuple[str, ...] = ANY
) -> Callable[[Callable[[Any, Any], Judgement]], Callable[[Any, Any], Judgement]]:
    """Register how a claim is judged; by tables other than trials if there are no profiles."""

    def registered(judge: Callable[[Any, Any], Judgement]) -> Callable[[Any, Any], Judgement]:
        if claim in RULES:
            raise ScellsegError(f"{claim} has two rules", remedy="Keep one.")
        RULES[claim] = Rule(judge, notebook, profiles)
        return judge

    return registered


def together(judgements: Iterable[Judgement]) -> Judgement:
    """Join what must all hold: the gravest verdict, with the reasons of those that gave it."""
    parts = list(judgements)
    gravest = min((part.verdict for part in parts), key=list(Verdict).index)
    reasons = [part.reason for part in parts if part.verdict == gravest]
    return Judgement(gravest, "; ".join(part.ours for part in parts), "; ".join(reasons))
