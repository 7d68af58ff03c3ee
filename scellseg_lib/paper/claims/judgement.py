"""What the paper claims, how a rule that judges a claim is registered, and what becomes of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

import pandas as pd
from pydantic import BaseModel, Field

from scellseg_lib import paths
from scellseg_lib.datasets.manifest import read_yaml
from scellseg_lib.errors import ManifestError, ScellsegError, telling
from scellseg_lib.paper.claims.evidence import STANDS_FOR, Evidence, Scale, group_by_profile

Triple = tuple[float, float, float]  # numbers on BBBC010_elegans, LIVECell_bv2 and mito
ANY = ("paper", "released", "cpu")  # profiles in the order in which they are evidence; not `smoke`
AS_PRETRAINED = ("paper", "released")  # those whose models are pre-trained as the paper's
FIVE = ("paper", "cpu")  # those of all five models, and of pre-training subsets


class Fact(BaseModel, extra="forbid", frozen=True):
    """What the paper says of a data set."""

    id: str
    where: str  # place in the paper
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


class Claim(BaseModel, extra="forbid", frozen=True):
    """A claim of the paper and its numbers, each with what it is called in the scorecard."""

    id: str
    where: str
    text: str
    scellseg_cft: Triple | None = Field(None, title="Scellseg-CFT ")
    cellpose_ft: Triple | None = Field(None, title="Cellpose-FT ")
    sneuro: float | None = Field(None, title="Sneuro ")
    sfluor: float | None = Field(None, title="Sfluor ")
    smicro: Triple | None = Field(None, title="Smicro ")
    sgeneral: Triple | float | None = Field(None, title="Sgeneral ")
    minimum: float | None = Field(None, title="at least ")
    value: float | None = Field(None, title="")
    values: dict[str, float] | None = Field(None, title="")
    shots: int | None = Field(None, title="shots ")
    ambiguous: str | None = None  # what the paper leaves open


class PaperClaims(BaseModel, extra="forbid", frozen=True):
    """The file ``data_manifests/paper_claims.yaml``."""

    datasets: tuple[Fact, ...]
    claims: tuple[Claim, ...]
    shot_levels: dict[str, tuple[int, ...]]
    repeats: int


def load_claims() -> PaperClaims:
    """Read what the paper claims; ManifestError if the file does not follow the schema."""
    file = paths.MANIFESTS / "paper_claims.yaml"
    remedy = "See `claims.judgement.PaperClaims` for its fields."
    with telling("the claims cannot be read", file, remedy, ManifestError):
        return PaperClaims.model_validate(read_yaml(file))


class Verdict(StrEnum):
    """What becomes of a claim, the gravest first."""

    DISAGREES = "disagrees"
    UNFAIR = "not a fair test here"
    UNTESTED = "not tested at this scale"
    UNCLEAR = "cannot be told here"
    AMBIGUOUS = "ambiguous in the paper"
    AGREES = "agrees"


class Judgement(NamedTuple):
    """What a rule says of a claim."""

    verdict: Verdict
    ours: str  # our numbers, with intervals
    reason: str  # one sentence on these numbers, without capital and full stop
    on: Sequence[str] = ()  # labels of the data sets that a rule of a table used


class Rule(NamedTuple):
    """How one claim is judged."""

    # Of a claim (for "datasets", facts) and a `Scale`; of `Evidence` where there are no profiles.
    judge: Callable[[Any, Any], Judgement]
    notebook: str
    profiles: tuple[str, ...]


RULES: dict[str, Rule] = {}


def rule(
    claim: str, notebook: str, profiles: tuple[str, ...] = ANY, *, each_set: bool = False
) -> Callable[[Callable[..., Judgement]], Callable[..., Judgement]]:
    """Register how a claim is judged; by tables other than trials if there are no profiles.

    With `each_set`, the rule gets the label of a data set too, and must hold on all of them.
    """

    def register(judge: Callable[..., Judgement]) -> Callable[..., Judgement]:
        def judge_each_set(stated: Claim, at: Scale) -> Judgement:
            return join(judge(stated, at, name) for name in at.sets())

        RULES[claim] = Rule(judge_each_set if each_set else judge, notebook, profiles)
        return judge

    return register


def decide(holds: bool) -> Verdict:
    """Verdict of a rule that leaves nothing open."""
    return Verdict.AGREES if holds else Verdict.DISAGREES


def join(judgements: Iterable[Judgement]) -> Judgement:
    """Join what must all hold: the gravest verdict, with the reasons of those that gave it."""
    parts = list(judgements)
    gravest = min((part.verdict for part in parts), key=list(Verdict).index)
    reasons = [part.reason for part in parts if part.verdict == gravest]
    return Judgement(gravest, "; ".join(part.ours for part in parts), "; ".join(reasons))


def judge_claims(evidence: Evidence) -> pd.DataFrame:
    """Judge every claim of the paper by trials and tables, of which there may be none.

    Returns the scorecard: one row a claim by its ``id``, in the paper's order, the facts on data
    sets first as one. ``ours`` has 95 % intervals; ``verdict`` says where data, subsets or tests
    are not the paper's, and ``on`` which are used, and what they stand for. ``at_zero`` is the
    verdict at Cellpose's cell threshold, 0.0, and ``seen`` which random states had been seen before
    the rules were committed.
    """
    paper = load_claims()
    claims: dict[str, Claim | tuple[Fact, ...]] = {"datasets": paper.datasets}
    claims |= {claim.id: claim for claim in paper.claims}
    if unmatched := sorted(claims.keys() ^ RULES.keys()):
        raise ScellsegError(
            f"{', '.join(unmatched)}: either claim or rule is missing",
            remedy="Each claim of paper_claims.yaml needs one rule in claims/rules.py.",
        )
    half, zero = (group_by_profile(evidence.trials, threshold) for threshold in (0.5, 0.0))
    rows = []
    for name, claim in claims.items():
        judged = _judge_claim(claim, RULES[name], half, evidence)
        judged["at_zero"] = _judge_claim(claim, RULES[name], zero, evidence)["verdict"]
        rows.append({"id": name} | _describe(claim) | judged)
    return pd.DataFrame(rows).set_index("id")


def _judge_claim(
    claim: Claim | tuple[Fact, ...], rule: Rule, trials: Mapping[str, Scale], evidence: Evidence
) -> dict[str, str]:
    """Judge by the first profile that has what is needed; else say what is lacking."""
    places: list[Scale | Evidence] = [evidence]
    if rule.profiles:
        places = [replace(trials[p], on={}, states={}) for p in rule.profiles if p in trials]
    lacking = []
    for place in places:
        try:
            judged = rule.judge(claim, place)
            break
        except ScellsegError as error:  # also of a statistic for which states are too few
            lacking.append(error.what)
    else:
        none = f"there are no trials of the profile {' or '.join(rule.profiles)}"
        judged, place = Judgement(Verdict.UNTESTED, "none", "; ".join(lacking) or none), evidence
    on, profile = {name: STANDS_FOR[name] for name in judged.on if name in STANDS_FOR}, ""
    seen = "all"
    if isinstance(place, Scale):
        on, profile, seen = place.on, place.profile.name, place.tell_seen()
    return {
        "ours": judged.ours,
        "verdict": f"{judged.verdict}{' (on a stand-in)' if any(on.values()) else ''}",
        "reason": f"{judged.reason[0].upper()}{judged.reason[1:]}.",
        "on": "; ".join(f"{one} for {other}" if other else one for one, other in on.items()),
        "profile": profile,
        "seen": seen,
        "notebook": rule.notebook,
    }


def _describe(claim: Claim | tuple[Fact, ...]) -> dict[str, str]:
    """Where the paper says it, in which words, and by which numbers."""
    if isinstance(claim, Claim):
        return {"where": claim.where, "text": claim.text, "paper": _tell_numbers(claim)}
    told = []
    for fact in claim:
        if fact.train:
            cells = f", {fact.instances_test} cells" if fact.instances_test else ""
            name = fact.id.removeprefix("dataset.")
            told.append(f"{name} {fact.train} + {fact.test} images{cells}")
    text = "Numbers and sizes of the data sets"
    return {"where": claim[0].where, "text": text, "paper": "; ".join(told)}


def _tell_numbers(claim: Claim) -> str:
    """The paper's numbers as text; most claims are in words only."""
    told, suffix = [], ""
    for name, field in Claim.model_fields.items():
        value = getattr(claim, name)
        if value is None or field.title is None:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{number:g} on {role}" for role, number in value.items())
        elif isinstance(value, tuple):
            value, suffix = ", ".join(f"{number:g}" for number in value), " (elegans, bv2, mito)"
        told.append(f"{field.title}{value}")
    return f"{'; '.join(told)}{suffix}" if told else "in words"
