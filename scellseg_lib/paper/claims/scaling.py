"""Rules for claims on how much pre-training and how many shots it takes (Fig. 4 and 5).

One model is pre-trained on each subset: intervals are of the tuning alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper.claims.base import FIVE, Claim, Judgement, Untested, Verdict, rule, together
from scellseg_lib.paper.claims.evidence import (
    CELLPOSE,
    CFT,
    FT,
    LABELS,
    MATTERS,
    REPEATS,
    SUBSETS,
    TIE,
    Estimate,
    Scale,
    estimate,
    lead,
    listed,
    paired,
    pooled,
)
from scellseg_lib.stats import HyperbolaFit, fit_hyperbola, two_way_anova

STEP = 0.02
"""A mean score falls or rises along the pre-training subsets if by more than this."""
RECOGNISED = 0.1
"""AP at 0.5 from which an untuned model recognises cells."""


# --- pre-training (Fig. 4) -------------------------------------------------------------------


def _along(at: Scale, data: str, method: str, measure: str = "mAP") -> dict[str, Estimate]:
    """Score of a method by pre-training subset."""
    return {
        name: estimate(at.scores(measure, data, method, weights=at.subset(name)))
        for name in SUBSETS
    }


def _rises(along: dict[str, Estimate]) -> bool:
    """Whether the mean rises from Sneuro to Smicro, and falls at no step between."""
    means = np.array([along[name].mean for name in SUBSETS[:4]])
    return bool(means[-1] - means[0] > STEP and (np.diff(means) >= -STEP).all())


def _path(along: dict[str, Estimate]) -> str:
    return ", ".join(f"{number.mean:.3f}" for number in along.values())


@rule("fig4.richness", "fig4_pretraining_scale", FIVE)
def _richness(claim: Claim, at: Scale) -> Judgement:
    """On each set the mAP of Scellseg-CFT rises from Sneuro to Smicro by more than 0.02, and no
    step between them falls by more than 0.02.
    """
    paths = {LABELS[data]: _along(at, data, CFT) for data in at.sets()}
    flat = [f"{name} ({_path(along)})" for name, along in paths.items() if not _rises(along)]
    ours = "; ".join(f"{name}: {listed(along)}" for name, along in paths.items())
    if flat:
        reason = f"the mAP by subset does not rise to Smicro on {', '.join(flat)}"
        return Judgement(Verdict.DISAGREES, ours, reason)
    reason = "; ".join(f"{name} {_path(along)}" for name, along in paths.items())
    return Judgement(Verdict.AGREES, ours, f"the mAP by subset rises to Smicro: {reason}")


@rule("fig4.smicro_equals_sgeneral", "fig4_pretraining_scale", FIVE)
def _equal(claim: Claim, at: Scale) -> Judgement:
    """On each set the mean mAP of Scellseg-CFT after Smicro and after Sgeneral differ by 0.02 at
    most. A larger difference refutes it if its interval excludes 0.
    """
    micro, general = at.subset("Smicro"), at.subset("Sgeneral")
    gaps, ours = {}, {}
    for data in at.sets():
        pair = [at.scores("mAP", data, CFT, weights=weights) for weights in (micro, general)]
        gaps[LABELS[data]] = paired(*pair)
        ours[f"{LABELS[data]} Smicro"], ours[f"{LABELS[data]} Sgeneral"] = map(estimate, pair)
    each = dict(zip(gaps, pooled(list(gaps.values()))[1], strict=True))
    apart = {name: gap for name, gap in each.items() if abs(gap.mean) > STEP}
    sure = {name: gap for name, gap in apart.items() if gap.low > 0 or gap.high < 0}
    if not apart:
        verdict, end = Verdict.AGREES, "nowhere more than 0.02"
    elif sure:
        verdict, end = Verdict.DISAGREES, f"surely not nothing on {', '.join(sure)}"
    else:
        verdict, end = Verdict.UNTESTED, "more than 0.02, which so few states do not settle"
    reason = f"Smicro less Sgeneral in mAP: {listed(apart or each, '+.3f')}, {end}"
    return Judgement(verdict, listed(ours), reason)


@rule("fig4.elegans", "fig4_pretraining_scale", FIVE)
def _elegans(claim: Claim, at: Scale) -> Judgement:
    """The mAP of Scellseg-CFT on elegans after Sneuro and after Sfluor, as a share of that after
    Sgeneral, is within 0.15 of the paper's share (0.02 and 0.79).
    """
    along = _along(at, at.sets("elegans")[0], CFT)
    whole, richest = along["Sgeneral"].mean, claim.sgeneral
    paper = {"Sneuro": claim.sneuro, "Sfluor": claim.sfluor}
    assert isinstance(richest, float)
    if whole < MATTERS:
        raise Untested("even the model of the richest subset recognises nothing")
    said = {name: (along[name].mean / whole, (paper[name] or 0) / richest) for name in paper}
    near = all(abs(ours - theirs) <= 0.15 for ours, theirs in said.values())
    shares = " and ".join(
        f"{n} {ours:.2f} (paper {theirs:.2f})" for n, (ours, theirs) in said.items()
    )
    reason = f"of the mAP after Sgeneral, {shares}, where 0.15 more or less still agrees"
    return Judgement(Verdict.AGREES if near else Verdict.DISAGREES, listed(along), reason)


@rule("fig4.general_elegans", "fig4_pretraining_scale", FIVE)
def _general_elegans(claim: Claim, at: Scale) -> Judgement:
    """The untuned Scellseg has an AP at 0.5 below 0.1 on elegans after Sneuro, Sfluor and Scell,
    and not after Smicro.
    """
    along = _along(at, at.sets("elegans")[0], "Scellseg", "AP@0.5")
    seen = [name for name in SUBSETS[:4] if along[name].mean >= RECOGNISED]
    verdict = Verdict.AGREES if seen == ["Smicro"] else Verdict.DISAGREES
    reason = f"untuned, AP at 0.5 reaches {RECOGNISED} after {', '.join(seen) or 'none of them'}"
    return Judgement(verdict, listed(along), f"{reason} (Sneuro to Sgeneral: {_path(along)})")


@rule("fig4.general_bv2", "fig4_pretraining_scale", FIVE)
def _general_bv2(claim: Claim, at: Scale) -> Judgement:
    """The untuned Scellseg's mAP on bv2 rises as in fig4.richness, and after Smicro is above that
    after Sgeneral by more than a tie (0.005).
    """
    along = _along(at, at.sets("bv2")[0], "Scellseg")
    rises, ahead = _rises(along), along["Smicro"].mean - along["Sgeneral"].mean
    verdict = Verdict.AGREES if rises and ahead > TIE else Verdict.DISAGREES
    reason = f"untuned, the mAP {'rises' if rises else 'does not rise'} to Smicro ({_path(along)})"
    return Judgement(verdict, listed(along), f"{reason}, which is {ahead:+.3f} over Sgeneral")


@rule("fig4.general_mito", "fig4_pretraining_scale", FIVE)
def _general_mito(claim: Claim, at: Scale) -> Judgement:
    """Sfluor and Smicro give the untuned Scellseg its two largest mAP on mito, as the Results have
    it. If only Sfluor, as the best, is among them, the paper is ambiguous: so has its Discussion.
    """
    along = _along(at, at.sets("mito")[0], "Scellseg")
    best, second = sorted(along, key=lambda name: -along[name].mean)[:2]
    reason = f"untuned, mAP is largest after {best} and {second} ({_path(along)})"
    if {best, second} == {"Sfluor", "Smicro"}:
        verdict = Verdict.AGREES
    elif best == "Sfluor":
        verdict, reason = Verdict.AMBIGUOUS, f"{reason}: as the Discussion, not the Results, has it"
    else:
        verdict = Verdict.DISAGREES
    return Judgement(verdict, listed(along), reason)


# --- shots (Fig. 5) --------------------------------------------------------------------------


@rule("fig5.variance", "fig5_shot_scale")
def _variance(claim: Claim, at: Scale) -> Judgement:
    """From the fewest to the most shots the mean mAP of all three methods rises, and their standard
    deviation over the states (pooled over methods) falls to two thirds or less. Sets of fewer than
    three states do not tell; one whose deviation does not fall at all refutes it.
    """
    told, untold = [], []
    for data in at.sets():
        scores = [at.over_shots("mAP", data, method).dropna() for method in (CFT, FT, CELLPOSE)]
        rise = min(one.iloc[:, -1].mean() - one.iloc[:, 0].mean() for one in scores)
        few, most = (np.mean([one.iloc[:, k].var() for one in scores]) ** 0.5 for k in (0, -1))
        low, high = at.shots(data)[0], at.shots(data)[-1]
        said = f"{LABELS[data]} SD {few:.3f} with {low}, {most:.3f} with {high} shots"
        reason = f"on {LABELS[data]} the SD of the mAP goes from {few:.3f} to {most:.3f}"
        if (states := min(map(len, scores))) < 3:
            reason = f"{reason} with {states} states, where fewer than 3 tell no spread"
            untold.append(Judgement(Verdict.UNTESTED, said, reason))
            continue
        if rise <= 0 or most >= few:
            verdict, end = Verdict.DISAGREES, ""
        elif most <= few / 1.5:
            verdict, end = Verdict.AGREES, ""
        else:
            verdict, end = Verdict.UNTESTED, ", which is too little to tell"
        reason = f"{reason} and its mean rises by {rise:.3f} or more{end}"
        told.append(Judgement(verdict, said, reason))
    return together(told or untold)._replace(ours="; ".join(one.ours for one in told + untold))


@rule("fig5.one_to_three", "fig5_shot_scale")
def _one_to_three(claim: Claim, at: Scale) -> Judgement:
    """Of what Scellseg-CFT gains in mAP from one shot to the most (0.02 or more), half or more is
    there with three, on each set that has these numbers of shots.
    """
    ours, short = {}, []
    for data in at.sets():
        if not {1, 3} <= {*at.shots(data)}:
            continue
        scores = at.over_shots("mAP", data, CFT).mean()
        early, whole = scores[3] - scores[1], scores.iloc[-1] - scores[1]
        ours[LABELS[data]] = f"{early:+.3f} of {whole:+.3f}"
        if whole < STEP or early < whole / 2:
            short.append(LABELS[data])
    if not ours:
        raise Untested(f"no data set of {at.profile.name} has both one and three shots")
    end = (
        f"less than half, or of less than {STEP}, on {', '.join(short)}"
        if short
        else "half or more"
    )
    verdict = Verdict.DISAGREES if short else Verdict.AGREES
    return Judgement(verdict, listed(ours), f"from one to three shots comes {listed(ours)}: {end}")


def _points(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of `Scale.over_shots`, one row each: ``shots`` and ``score``."""
    return scores.melt(var_name="shots", value_name="score").dropna()


def _fit(at: Scale, data: str, method: str) -> HyperbolaFit | None:
    """Hyperbola through the mAP of all states; None where there is none, or it does not rise."""
    points = _points(at.over_shots("mAP", data, method))
    try:
        fit = fit_hyperbola(points["shots"].to_numpy(), points["score"].to_numpy())
    except ScellsegError:
        return None
    return fit if fit.kd > 0 else None


def _enough(fit: HyperbolaFit) -> Estimate:
    """Shots needed for 95 % of the limit."""
    mean, error = fit.shots_for_95_percent
    half = float(stats.t.ppf(0.975, fit.n_points - 2)) * error
    return Estimate(mean, mean - half, mean + half)


@rule("fig5.plateau", "fig5_shot_scale")
def _plateau(claim: Claim, at: Scale) -> Judgement:
    """The hyperbola through the mAP of Scellseg-CFT reaches 95 % of its limit at 4 to 16 shots, a
    factor of two about eight, on each set. A set whose interval lies outside refutes it.
    """
    low, high, parts = (claim.shots or 0) / 2, (claim.shots or 0) * 2, []
    for data in at.sets():
        fit, name = _fit(at, data, CFT), LABELS[data]
        if fit is None:
            reason = f"on {name} no rising hyperbola fits: the mAP has no plateau to climb to"
            parts.append(Judgement(Verdict.DISAGREES, f"{name} none", reason))
            continue
        shots = _enough(fit)
        if low <= shots.mean <= high:
            verdict, end = Verdict.AGREES, "about eight"
        elif shots.high < low or shots.low > high:
            verdict = Verdict.DISAGREES
            end = f"{'earlier' if shots.high < low else 'later'} than about eight"
        else:
            verdict, end = Verdict.UNTESTED, "too uncertain to tell from about eight"
        reason = f"on {name} 95 % of the limit is there with {shots:.1f} shots, {end}"
        parts.append(Judgement(verdict, f"{name} {shots:.1f}", reason))
    return together(parts)


@rule("fig5.final_gain", "fig5_shot_scale")
def _final_gain(claim: Claim, at: Scale) -> Judgement:
    """Always ambiguous, since the text names no baseline: the improvement in mAP, in percent, from
    one shot and from eight to the most is shown.
    """
    ours: dict[int, dict[str, Estimate]] = {1: {}, 8: {}}
    for data in at.sets():
        for method in (CFT, CELLPOSE):
            scores = at.over_shots("mAP", data, method).dropna()
            for n in ours.keys() & {*at.shots(data)}:
                gain = estimate(100 * (scores.iloc[:, -1] / scores[n] - 1))
                ours[n][f"{method} on {LABELS[data]}"] = gain
    numbers = (
        f"from {n} in percent: {listed(gains, '+.1f')}" for n, gains in ours.items() if gains
    )
    ranges = (
        f"{min(gains.values()).mean:+.1f} to {max(gains.values()).mean:+.1f} % from {n} to the most"
        for n, gains in ours.items()
        if gains
    )
    reason = f"the paper names no baseline; ours is {', '.join(ranges)}"
    return Judgement(Verdict.AMBIGUOUS, "; ".join(numbers), reason)


@rule("fig5.significant", "fig5_shot_scale")
def _significant(claim: Claim, at: Scale) -> Judgement:
    """On each set the mean mAP over all numbers of shots is higher for Scellseg-CFT than for
    Cellpose-FT, with Pm < 0.05 (two-way ANOVA, method x shots). Pm < 0.05 the other way refutes it,
    and from the paper's ten states on also a larger Pm.
    """
    parts = []
    for data in at.sets():
        both = {method: at.over_shots("mAP", data, method) for method in (CFT, CELLPOSE)}
        frame = pd.concat([_points(one).assign(method=name) for name, one in both.items()])
        p = two_way_anova(frame, "score", ["method", "shots"])["p"]["method"]
        states = min(len(one.dropna()) for one in both.values())
        ahead = (both[CFT].mean() - both[CELLPOSE].mean()).mean()
        if p < 0.05:
            verdict = Verdict.AGREES if ahead > 0 else Verdict.DISAGREES
        else:
            verdict = Verdict.DISAGREES if states >= REPEATS else Verdict.UNTESTED
        said = f"{LABELS[data]} {ahead:+.3f}, Pm {p:.2g}"
        reason = f"on {LABELS[data]} {CFT} has {ahead:+.3f} mAP over {CELLPOSE}, Pm = {p:.2g}"
        parts.append(Judgement(verdict, said, f"{reason} in {states} states"))
    return together(parts)


@rule("fig5.ablation", "fig5_shot_scale")
def _ablation(claim: Claim, at: Scale) -> Judgement:
    """Averaged over the numbers of shots, Scellseg-CFT leads Scellseg-FT in mAP on all sets
    (`lead`), and its mean is ahead at three quarters or more of all numbers of shots.
    """
    pairs, ahead, cells = {}, 0, 0
    for data in at.sets():
        both = [at.over_shots("mAP", data, method) for method in (CFT, FT)]
        gaps = (both[0] - both[1]).mean()
        ahead, cells = ahead + int((gaps > 0).sum()), cells + len(gaps)
        pairs[LABELS[data]] = (both[0].dropna().mean(axis=1), both[1].dropna().mean(axis=1))
    found = lead(pairs, CFT, FT, "mAP over all shots")
    if found.verdict == Verdict.AGREES and ahead < 0.75 * cells:
        found = found._replace(verdict=Verdict.DISAGREES)
    reason = f"{found.reason}; ahead at {ahead} of {cells} numbers of shots"
    return found._replace(reason=reason)


@rule("fig5.mito_rises", "fig5_shot_scale")
def _mito_rises(claim: Claim, at: Scale) -> Judgement:
    """Scellseg-CFT needs twice as many shots on mito as on elegans, or more, for 95 % of the limit
    of its mAP; or on mito the mAP rises without a limit.
    """
    elegans, mito = at.sets("elegans", "mito")
    fits = {LABELS[data]: _fit(at, data, CFT) for data in (elegans, mito)}
    shots = {name: _enough(fit) if fit else None for name, fit in fits.items()}
    ours = "; ".join(f"{name} {n:.1f}" if n else f"{name} no limit" for name, n in shots.items())
    first, second = shots.values()
    scores = at.over_shots("mAP", mito, CFT).mean()
    if first is None:
        verdict, end = Verdict.DISAGREES, "on elegans there is no limit that it comes to"
    elif second is None:
        rises = scores.iloc[-1] - scores.iloc[0] > STEP
        verdict = Verdict.AGREES if rises else Verdict.DISAGREES
        end = f"on {LABELS[mito]} it {'rises' if rises else 'does not rise'} without a limit"
    elif second.mean >= 2 * first.mean:
        verdict, end = Verdict.AGREES, "twice as many or more"
    elif second.high < 2 * first.mean:
        verdict, end = Verdict.DISAGREES, "not twice as many"
    else:
        verdict, end = Verdict.UNTESTED, "too uncertain to tell whether twice as many"
    reason = f"shots for 95 % of the limit: {ours}: {end}"
    return Judgement(verdict, ours, reason)


@rule("fig5.limits", "fig5_shot_scale")
def _limits(claim: Claim, at: Scale) -> Judgement:
    """On each set the limits (Bmax) of Scellseg-CFT and Cellpose-FT differ, the 95 % interval of
    their difference excluding 0. One that lies within 0.01 about 0 refutes it.
    """
    parts = []
    for data in at.sets():
        fits = [_fit(at, data, method) for method in (CFT, CELLPOSE)]
        if None in fits:
            said = f"on {LABELS[data]} not both methods rise to a limit"
            parts.append(Judgement(Verdict.UNTESTED, f"{LABELS[data]} none", said))
            continue
        one, two = (fit for fit in fits if fit)
        error = float(np.hypot(one.standard_errors[0], two.standard_errors[0]))
        half = float(stats.t.ppf(0.975, one.n_points + two.n_points - 4)) * error
        gap = Estimate(one.bmax - two.bmax, one.bmax - two.bmax - half, one.bmax - two.bmax + half)
        if gap.low > 0 or gap.high < 0:
            verdict, end = Verdict.AGREES, "different"
        elif gap.low > -MATTERS and gap.high < MATTERS:
            verdict, end = Verdict.DISAGREES, "the same"
        else:
            verdict, end = Verdict.UNTESTED, "too uncertain to tell apart"
        said = f"{LABELS[data]} {one.bmax:.3f} and {two.bmax:.3f}, {gap:+.3f}"
        reason = f"on {LABELS[data]} the limits of {CFT} and {CELLPOSE} are {gap:+.3f} apart, {end}"
        parts.append(Judgement(verdict, said, reason))
    return together(parts)
