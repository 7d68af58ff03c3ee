"""Make the tables on which Fig. 2's and 5's statistics are computed, and ask R about them.

``python tests/data/stats/figures.py``, to be run when trials were added or replaced, writes
fig2.csv and fig5.csv of the committed ones, and R's answers in figures.csv; it needs R with
emmeans. What the trials do not allow yet, such as a curve through one number of shots, is left out.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from scellseg_lib.paper import grid, run
from scellseg_lib.paper.figures import scores
from scellseg_lib.paper.profile import Profile, load_profile
from scellseg_lib.paper.trial import Trial

FOLDER = Path(__file__).parent


def load_trials(experiment: Callable[[Profile], list[Trial]]) -> pd.DataFrame:
    """Scores of what is committed of an experiment, at the figures' cell threshold."""
    profile = load_profile("released")
    frame = run.load_scores(experiment(profile), profile)
    return add_labels(frame[frame["cell_threshold"] == 0.5])


def add_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Names of the methods as in the tables, where classic fine-tuning is not said."""
    named = scores.add_labels(frame)
    return named.assign(label=named["label"].str.removesuffix("-FT"))


def fig2() -> pd.DataFrame:
    """AP of the two models that Fig. 2 compares, in the random states that both have."""
    frame = load_trials(grid.transferability)
    pair = frame[frame["tuned"] & frame["label"].isin(["Scellseg-CFT", "Cellpose"])]
    by = ["data", "label", "seed", "threshold", "key"]
    means = pair.groupby(by, sort=False, as_index=False)["ap"].mean()
    means = means[means.groupby(["data", "seed"])["label"].transform("nunique") == 2]
    means = means[means.groupby("data")["seed"].transform("nunique") > 1]
    return means.rename(columns={"label": "model", "seed": "state"})


def fig5() -> pd.DataFrame:
    """mAP of every method, number of shots and random state."""
    names = {"label": "method", "n_shots": "shots", "seed": "state"}
    table = run.average_scores(load_trials(grid.shot_scale))
    return add_labels(table).rename(columns=names)[["data", *names.values(), "map", "key"]]


def tables() -> dict[str, pd.DataFrame]:
    """File name -> table, each row with the key of its trial."""
    made = {"fig2.csv": fig2().round({"ap": 12}), "fig5.csv": fig5().round({"map": 12})}
    return {name: table.sort_values([*table.columns[:4]]) for name, table in made.items()}


if __name__ == "__main__":
    for name, table in tables().items():
        table.to_csv(FOLDER / name, index=False)
    subprocess.run(["Rscript", "--vanilla", "figures.R"], cwd=FOLDER, check=True)
