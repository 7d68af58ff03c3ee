"""What styles a model has seen: a few centres of the training images' embeddings, in its card."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist

from scellseg_lib.model import Model
from scellseg_lib.progress import progress_bar
from scellseg_lib.samples import Sample
from scellseg_lib.tiles import cut_tiles

MAX_CENTRES = 16


@torch.inference_mode()
def embed(model: Model, sample: Sample, diameter: float) -> np.ndarray:
    """Style of an image with cells of a diameter, by the downsampling pass alone: float32[S]."""
    model.network.eval()
    tiled = cut_tiles(model, sample, diameter)
    tiles = np.stack([tiled.tile(index) for index in range(tiled.missing)])
    batches = torch.from_numpy(tiles).split(8)
    styles = torch.cat([model.network.embed(batch.to(model.device)) for batch in batches])
    style = styles.float().sum(dim=0).cpu().numpy()
    return style / max(float(np.linalg.norm(style)), 1e-8)


def remember_styles(model: Model, samples: Sequence[Sample]) -> None:
    """Store centres and radius of the styles of labelled training images in the card.

    Of 16 or fewer each is a centre, the radius twice the largest distance to the nearest other.
    """
    labelled = [sample for sample in samples if not np.isnan(sample.diameter)]
    shown = progress_bar(labelled, len(labelled), "styles")
    styles = np.stack([embed(model, sample, sample.diameter) for sample in shown])
    centres, radius = styles.astype(np.float64), 0.0
    if len(styles) > MAX_CENTRES:
        n_centres = min(MAX_CENTRES, len(styles) // 4)
        centres, _ = kmeans2(centres, n_centres, seed=0, minit="++")
        radius = cdist(styles, centres).min(axis=1).max()
    elif len(styles) > 1:
        radius = 2 * np.sort(cdist(styles, styles), axis=1)[:, 1].max()  # the first is to itself
    model.card.styles = np.round(centres, 4).tolist()
    model.card.style_radius = float(radius)
