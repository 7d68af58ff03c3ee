"""Style embeddings of many images, their picture by t-SNE, and numbers for what it shows (Fig. 2b).

The other functions take the frame of `embed_styles`. A t-SNE alone proves nothing: it draws
clusters also where there are none. scikit-learn is imported where it is used: it takes a second.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from scellseg_lib.errors import ScellsegError
from scellseg_lib.model import Model
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Dataset
from scellseg_lib.style import embed

N_NEIGHBOURS = 5


class Purity(NamedTuple):
    """How well styles tell data sets apart."""

    silhouette: float  # -1 to 1: how much nearer a set's own images are than the next set's
    knn_accuracy: float  # share of images whose set is that of most of their 5 nearest neighbours
    chance: float  # the same share if one always said the largest set
    n_images: int


def embed_styles(model: Model, datasets: Sequence[Dataset]) -> pd.DataFrame:
    """Style of every image that has cells, scaled by their own diameter.

    One row an image: ``data``, ``image``, ``diameter`` and ``s0``, ``s1`` .., the embedding.
    """
    pairs = [(data.name, one) for data in datasets for one in data if not np.isnan(one.diameter)]
    rows = []
    for name, sample in progress_bar(pairs, len(pairs), "styles"):
        row = {"data": name, "image": sample.name, "diameter": sample.diameter}
        style = embed(model, sample, sample.diameter).tolist()
        rows.append(row | {f"s{k}": value for k, value in enumerate(style)})
    return pd.DataFrame(rows)


def stack_styles(frame: pd.DataFrame) -> np.ndarray:
    """Embeddings, float64[n, S]."""
    return frame.filter(regex=r"^s\d+$").to_numpy(np.float64)


def lay_out(frame: pd.DataFrame, *, perplexity: float = 30.0, seed: int = 0) -> pd.DataFrame:
    """Lay the images out in the plane by t-SNE; neighbours stay neighbours, distances mean nothing.

    There must be more images than ``perplexity``, about how many neighbours count.
    """
    from sklearn.manifold import TSNE

    # Started from the principal components, so that far groups keep something of their places.
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    x, y = tsne.fit_transform(stack_styles(frame)).T
    return frame[["data", "image"]].assign(x=x, y=y)


def measure_purity(frame: pd.DataFrame) -> Purity:
    """Measure in the embedding's own space how well styles tell the data sets apart."""
    from sklearn.metrics import silhouette_score
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    counts = frame["data"].value_counts()
    if len(counts) < 2 or counts.min() <= N_NEIGHBOURS:
        what = f"purity is not defined for sets of {counts.to_dict()} images"
        remedy = f"Give two data sets or more, of more than {N_NEIGHBOURS} images each."
        raise ScellsegError(what, remedy=remedy)
    styles, names = stack_styles(frame), frame["data"].to_numpy()
    neighbours = KNeighborsClassifier(N_NEIGHBOURS)
    right = cross_val_score(neighbours, styles, names, cv=LeaveOneOut()).mean()
    silhouette, chance = silhouette_score(styles, names), counts.max() / len(frame)
    return Purity(float(silhouette), float(right), float(chance), len(frame))


def compare_distances(frame: pd.DataFrame) -> pd.DataFrame:
    """Measure how far shots' styles are from queries' and contrasts': the two terms of Eq. 2.

    The frame has columns ``role`` ("shot", "query", "contrast") and ``when`` too. One row for each
    ``when``: means over all pairs of the mean squared difference, and their ``ratio``.
    """
    rows = []
    for when, part in frame.groupby("when", sort=False):
        styles = {role: stack_styles(group) for role, group in part.groupby("role")}
        near, far = (
            float(((styles["shot"][:, None] - styles[other][None]) ** 2).mean())
            for other in ("query", "contrast")
        )
        rows.append((when, near, far, near / far))
    return pd.DataFrame(rows, columns=["when", "shot_query", "shot_contrast", "ratio"])
