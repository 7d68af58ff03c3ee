"""Rules for claims that other tables than trials test: data sets, styles, touching cells."""

from __future__ import annotations

from collections.abc import Sequence

from scellseg_lib.paper.claims.base import Claim, Fact, Judgement, Untested, Verdict, rule
from scellseg_lib.paper.claims.evidence import LABELS, MATTERS, SETS, Evidence, of


@rule("datasets", "edfig3_dataset_statistics", profiles=())
def _datasets(facts: tuple[Fact, ...], evidence: Evidence) -> Judgement:
    """Numbers of images and sizes of the sets at hand are the paper's, mean areas within a factor
    of two. Where only instances differ, by more than 1 %, the paper is ambiguous: it does not say
    which images it kept. Totals follow from the rows, and are not judged apart.
    """
    if evidence.datasets is None:
        raise Untested("there is no table of data sets")
    table = evidence.datasets.set_index("data").to_dict("index")
    names = {role: candidates[0] for role, candidates in SETS.items()} | {"cellpose": "cellpose"}
    areas = next(fact.values for fact in facts if fact.id == "dataset.mean_area_px")
    wrong, other, ours = [], [], []
    for fact in facts:
        role = fact.id.removeprefix("dataset.")
        if fact.train is None or (name := names[role]) not in table:
            continue
        row = table[name]
        ours.append(f"{name} {row['train']} + {row['test']} images, {row['instances_test']} cells")
        if (row["train"], row["test"]) != (fact.train, fact.test):
            wrong.append(f"{name} has {row['train']} + {row['test']} images")
        if fact.shape and {row["height"], row["width"]} != {*fact.shape[:2]}:
            wrong.append(f"{name} is {row['width']} x {row['height']} pixels")
        if role in SETS and areas and not 0.5 <= row["mean_area_px"] / of(areas, name) <= 2:
            wrong.append(f"the mean cell of {name} has {row['mean_area_px']:.0f} pixels")
        n = fact.instances_test
        if n and abs(row["instances_test"] - n) > n / 100:
            other.append(f"{row['instances_test']} cells in {name}, not {n}")
    if not ours:
        raise Untested("none of the paper's own data sets is in the table")
    if wrong:
        verdict, reason = Verdict.DISAGREES, f"against the paper, {', '.join(wrong)}"
    elif other:
        verdict, reason = (
            Verdict.AMBIGUOUS,
            f"there are {', '.join(other)}: the paper does not say ",
        )
        reason += "which images it kept"
    else:
        verdict, reason = Verdict.AGREES, "all numbers of the sets at hand are the paper's"
    if absent := [name for name in names.values() if name not in table]:
        reason += f"; {', '.join(absent)} are not here"
    return Judgement(verdict, "; ".join(ours), reason)


@rule("fig2.tsne", "fig2_transferability", profiles=())
def _tsne(claim: Claim, evidence: Evidence) -> Judgement:
    """In the space of the embeddings, not of the picture: of 90 % of the images most of the five
    nearest neighbours are of the same set, and the mean silhouette is above 0.
    """
    if (found := evidence.purity) is None:
        raise Untested("the purity of the style embeddings has not been measured")
    pure = found.knn_accuracy >= 0.9 and found.silhouette > 0
    ours = f"neighbours agree {found.knn_accuracy:.3f}, silhouette {found.silhouette:.3f}"
    reason = (
        f"neighbours tell the set of {found.knn_accuracy:.0%} of {found.n_images} images "
        f"({found.chance:.0%} by chance), and the silhouette is {found.silhouette:.2f}"
    )
    verdict = Verdict.AGREES if pure else Verdict.DISAGREES
    return Judgement(verdict, ours, reason, _stand_ins(evidence.purity_of))


def _stand_ins(names: Sequence[str]) -> dict[str, str]:
    """Data sets of a table, by label, with what they stand for."""
    roles = {name: candidates[0] for candidates in SETS.values() for name in candidates}
    return {
        LABELS[name]: "" if roles[name] == name else LABELS[roles[name]]
        for name in dict.fromkeys(names)
        if name in roles
    }


@rule("fig3.adjacent", "fig3_examples", profiles=())
def _adjacent(claim: Claim, evidence: Evidence) -> Judgement:
    """On each set the share of touching true cells that are told apart (no prediction covers most
    of both) rises by 0.02 or more from the untuned Scellseg to Scellseg-CFT.
    """
    if (table := evidence.neighbours) is None:
        raise Untested("touching cells have not been counted")
    counts = table.groupby(["data", "strategy"])[["pairs", "separated"]].sum()
    shares = (counts["separated"] / counts["pairs"]).unstack("strategy")
    if not {"direct", "contrastive"} <= {*shares} or shares.isna().any(axis=None):
        raise Untested("touching cells have not been counted before and after tuning")
    rises = (shares["contrastive"] - shares["direct"]).rename(LABELS)
    before, after = shares["direct"], shares["contrastive"]
    ours = "; ".join(f"{LABELS[n]} {before[n]:.3f} to {after[n]:.3f}" for n in shares.index)
    reason = (
        f"the share of touching cells told apart changes least on {rises.idxmin()}, by "
        f"{rises.min():+.3f}, where 0.02 on each set would count"
    )
    verdict = Verdict.AGREES if rises.min() >= 2 * MATTERS else Verdict.DISAGREES
    return Judgement(verdict, ours, reason, _stand_ins(tuple(shares.index)))
