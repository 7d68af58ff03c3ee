"""The paper's claims against our results: a verdict each, with numbers and a reason.

Each claim of ``data_manifests/paper_claims.yaml`` has one rule, whose docstring says what counts.
The rules were written before the runs that test them. Where a difference is too small for the
number of random states, the claim is not tested at this scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import pandas as pd

from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper.claims import scaling, tables, transfer
from scellseg_lib.paper.claims.base import (
    RULES,
    Claim,
    Fact,
    Judgement,
    PaperClaims,
    Rule,
    Verdict,
    load_claims,
)
from scellseg_lib.paper.claims.evidence import Evidence, Scale, scales

__all__ = [
    "Evidence",
    "Finding",
    "PaperClaims",
    "Verdict",
    "judge",
    "load_claims",
    "scaling",
    "scorecard",
    "tables",
    "transfer",
]

_NAMES = {
    "scellseg_cft": "Scellseg-CFT",
    "cellpose_ft": "Cellpose-FT",
    "sneuro": "Sneuro",
    "sfluor": "Sfluor",
    "smicro": "Smicro",
    "sgeneral": "Sgeneral",
    "minimum": "at least",
    "value": "",
    "values": "",
    "shots": "shots",
}


@dataclass(frozen=True)
class Finding:
    """What became of one claim."""

    id: str
    where: str
    text: str
    paper: str
    """The paper's numbers."""
    ours: str
    """Ours, with 95 % intervals over random states."""
    verdict: Verdict
    stand_in: bool
    """Whether data, subsets or tests are used that are not the paper's."""
    reason: str
    on: str
    """Data used, and what they stand for."""
    profile: str
    """Of the trials."""
    notebook: str


def judge(evidence: Evidence) -> list[Finding]:
    """Judge every claim of the paper.

    Parameters
    ----------
    evidence : Evidence
        Trials, which may be none, and tables, where they are there.

    Returns
    -------
    list of Finding
        In the order of the paper's claims, the facts on data sets first as one group.

    Raises ScellsegError if a claim has no rule or a rule no claim.
    """
    paper = load_claims()
    claims: dict[str, Claim | tuple[Fact, ...]] = {"datasets": paper.datasets}
    claims |= {claim.id: claim for claim in paper.claims}
    if unmatched := sorted(claims.keys() ^ RULES.keys()):
        raise ScellsegError(
            f"{', '.join(unmatched)}: either claim or rule is missing",
            remedy="Each claim of paper_claims.yaml needs one rule in scellseg_lib/claims.",
        )
    trials = scales(evidence.trials)
    return [_finding(name, claim, RULES[name], trials, evidence) for name, claim in claims.items()]


def scorecard(findings: list[Finding]) -> pd.DataFrame:
    """One row a claim, in the paper's order; a verdict on stand-ins says so."""
    rows = []
    for finding in findings:
        suffix = " (on a stand-in)" if finding.stand_in else ""
        rows.append(asdict(finding) | {"verdict": f"{finding.verdict}{suffix}"})
    return pd.DataFrame(rows).drop(columns="stand_in").set_index("id")


def _finding(
    name: str,
    claim: Claim | tuple[Fact, ...],
    rule: Rule,
    trials: Mapping[str, Scale],
    evidence: Evidence,
) -> Finding:
    """Judge by the first profile that has what is needed; else say what is lacking."""
    places: list[Scale | Evidence] = [
        replace(trials[profile], on={}) for profile in rule.profiles if profile in trials
    ]
    lacking = []
    for place in places if rule.profiles else [evidence]:
        try:
            judged = rule.judge(claim, place)
            break
        except ScellsegError as error:  # also of a statistic for which states are too few
            lacking.append(error.what)
    else:
        what = (
            "; ".join(lacking) or f"there are no trials of the profile {' or '.join(rule.profiles)}"
        )
        judged = Judgement(Verdict.UNTESTED, "none", what)
        place = evidence
    on, profile = (place.on, place.profile.name) if isinstance(place, Scale) else (judged.on, "")
    return Finding(
        id=name,
        where=claim.where if isinstance(claim, Claim) else claim[0].where,
        text=claim.text if isinstance(claim, Claim) else "Numbers and sizes of the data sets",
        paper=_numbers(claim) if isinstance(claim, Claim) else _counts(claim),
        ours=judged.ours,
        verdict=judged.verdict,
        stand_in=any(on.values()),
        reason=f"{judged.reason[0].upper()}{judged.reason[1:]}.",
        on="; ".join(f"{one} for {other}" if other else one for one, other in on.items()),
        profile=profile,
        notebook=rule.notebook,
    )


def _numbers(claim: Claim) -> str:
    """The paper's numbers as text; most claims are in words only."""
    found, suffix = [], ""
    for field, name in _NAMES.items():
        value = getattr(claim, field)
        if isinstance(value, dict):
            value = ", ".join(f"{number:g} on {role}" for role, number in value.items())
        elif isinstance(value, tuple):
            value, suffix = ", ".join(f"{number:g}" for number in value), " (elegans, bv2, mito)"
        if value is not None:
            found.append(f"{name} {value}".strip())
    return f"{'; '.join(found)}{suffix}" if found else "in words"


def _counts(facts: tuple[Fact, ...]) -> str:
    return "; ".join(
        f"{fact.id.removeprefix('dataset.')} {fact.train} + {fact.test} images"
        + (f", {fact.instances_test} cells" if fact.instances_test else "")
        for fact in facts
        if fact.train
    )
