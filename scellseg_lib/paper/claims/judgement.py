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


Stated = Claim | tuple[Fact, ...]


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

    judge: Callable[[Any, Any], Judgement]  # of a claim (for "datasets", facts), by a source
    notebook: str
    sources: tuple[str, ...]  # profiles, whose `Scale` it is judged by, or a table


RULES: dict[str, Rule] = {}
Judge = Callable[..., Iterable[Judgement]]  # tells what must all hold


def rule(
    claim: str, notebook: str, sources: tuple[str, ...] = ANY, *, each_set: bool = False
) -> Callable[[Judge], Judge]:
    """Register how a claim is judged: by the first profile, or the table, that is there.

    With `each_set`, the rule gets the label of a data set too, and must hold on all of them.
    """

    def register(judge: Judge) -> Judge:
        def judge_all(stated: Any, by: Any) -> Judgement:
            sets = [(name,) for name in by.sets()] if each_set else [()]
            return join(found for data in sets for found in judge(stated, by, *data))

        RULES[claim] = Rule(judge_all, notebook, sources)
        return judge

    return register


def join(judgements: Iterable[Judgement]) -> Judgement:
    """Join what must all hold: the gravest verdict, with the reasons of those that gave it."""
    parts = list(judgements)
    gravest = min((part.verdict for part in parts), key=list(Verdict).index)
    reasons = [part.reason for part in parts if part.verdict == gravest]
    on = [name for part in parts for name in part.on]
    return Judgement(gravest, "; ".join(part.ours for part in parts), "; ".join(reasons), on)


def judge_claims(evidence: Evidence) -> pd.DataFrame:
    """Judge every claim of the paper by trials and tables, of which there may be none.

    Returns the scorecard: one row a claim by its ``id``, in the paper's order, the facts on data
    sets first as one. ``ours`` has 95 % intervals; ``on`` says which data, subsets or tests are
    used, and what they stand for; ``at_zero`` is the verdict at Cellpose's cell threshold, 0.0, and
    ``seen`` which random states had been seen before the rules were committed.
    """
    paper = load_claims()
    claims: dict[str, Stated] = {"datasets": paper.datasets}
    claims |= {claim.id: claim for claim in paper.claims}
    if unmatched := sorted(claims.keys() ^ RULES.keys()):
        what = f"{', '.join(unmatched)}: either claim or rule is missing"
        remedy = "Each claim of paper_claims.yaml needs one rule in claims/rules.py."
        raise ScellsegError(what, remedy=remedy)
    half, zero = ({**group_by_profile(evidence.trials, at), **evidence.tables} for at in (0.5, 0.0))
    rows = []
    for name, claim in claims.items():
        judged = _judge_claim(claim, RULES[name], half)
        judged["at_zero"] = _judge_claim(claim, RULES[name], zero)["verdict"]
        rows.append({"id": name} | _describe(claim) | judged)
    return pd.DataFrame(rows).set_index("id")


def _judge_claim(claim: Stated, rule: Rule, found: Mapping[str, object]) -> dict[str, str]:
    """Judge by the first source that has what is needed; else say what is lacking."""
    lacking, on, profile, seen = [], {}, "", "all"
    for place in (found[source] for source in rule.sources if source in found):
        at = replace(place, on={}, states={}) if isinstance(place, Scale) else place
        try:
            judged = rule.judge(claim, at)
        except ScellsegError as error:  # also of a statistic for which states are too few
            lacking.append(error.what)
            continue
        on = {name: STANDS_FOR[name] for name in judged.on if name in STANDS_FOR}
        if isinstance(at, Scale):
            on, profile, seen = at.on, at.profile.name, at.tell_seen()
        break
    else:
        none = f"there are no results of {' or '.join(rule.sources)}"
        judged = Judgement(Verdict.UNTESTED, "none", "; ".join(lacking) or none)
    return {
        "ours": judged.ours,
        "verdict": f"{judged.verdict}{' (on a stand-in)' if any(on.values()) else ''}",
        "reason": f"{judged.reason[0].upper()}{judged.reason[1:]}.",
        "on": "; ".join(f"{one} for {other}" if other else one for one, other in on.items()),
        "profile": profile,
        "seen": seen,
        "notebook": rule.notebook,
    }


def _describe(claim: Stated) -> dict[str, str]:
    """Where the paper says it, in which words, and by which numbers."""
    if isinstance(claim, Claim):
        return {"where": claim.where, "text": claim.text, "paper": _tell_numbers(claim)}
    told = []
    for fact in claim:
        if fact.train:
            told.append(f"{fact.id.removeprefix('dataset.')} {fact.train} + {fact.test} images")
            told[-1] += f", {fact.instances_test} cells" if fact.instances_test else ""
    text = "Numbers and sizes of the data sets"
    return {"where": claim[0].where, "text": text, "paper": "; ".join(told)}


def _tell_numbers(claim: Claim) -> str:
    """The paper's numbers as text; most claims are in words only."""
    told, suffix = [], ""
    for name, field in Claim.model_fields.items():
        value = getattr(claim, name)
        if isinstance(value, dict):
            value = ", ".join(f"{number:g} on {role}" for role, number in value.items())
        elif isinstance(value, tuple):
            value, suffix = ", ".join(f"{number:g}" for number in value), " (elegans, bv2, mito)"
        if value is not None and field.title is not None:
            told.append(f"{field.title}{value}")
    return f"{'; '.join(told)}{suffix}" if told else "in words"
