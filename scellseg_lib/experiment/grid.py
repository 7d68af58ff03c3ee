"""Which trials an experiment of the paper consists of; the most telling come first."""

from __future__ import annotations

from collections.abc import Sequence

from scellseg_lib.data import Dataset
from scellseg_lib.experiment.trial import PROTOCOLS, Trial

TUNED = (("scellseg", "classic"), ("scellseg", "contrastive"), ("cellpose", "classic"))
"""Scellseg-FT, Scellseg-CFT and Cellpose-FT."""
CONTRAST = "cellpose_contrast35"
"""The paper's contrast images."""


def few_shot(
    data: Dataset,
    weights: str,
    *,
    n_shots: int = 8,
    states: Sequence[int] = (0, 1, 2),
    levels: tuple[int, ...] = (32, 64, 128, 256),
    protocols: Sequence[str] = tuple(PROTOCOLS),
    precision: str = "fp32",
) -> list[Trial]:
    """Transfer to one data set, directly and tuned on a few shots (Fig. 2c at one number of shots).

    The paper's protocol and the first random state come first. The shots of a state are the same
    for all models, as the paper has them.

    Parameters
    ----------
    data : Dataset
    weights : {"released", "packaged"}
    n_shots : int
    states : sequence of int
        Random states; untuned models take the first, for the diameter of its shots.
    levels : tuple of int
        Widths of the networks.
    protocols : sequence of str
        See `trial.PROTOCOLS`.
    precision : {"fp32", "bf16"}
        Numeric type of the networks; "bf16" where the machine has instructions for it.
    """
    direct = (("scellseg", "direct"), ("cellpose", "direct"))
    return [
        Trial(
            data.name,
            model,
            weights,
            strategy,
            tuple(sample.name for sample in data.shots(n_shots, state)),
            seed=state,
            steps=0 if strategy == "direct" else 100,
            levels=levels,
            protocol=protocol,
            contrast=CONTRAST if strategy == "contrastive" else "",
            precision=precision,
        )
        for protocol in protocols
        for state in states
        for model, strategy in (direct + TUNED if state == states[0] else TUNED)
    ]
