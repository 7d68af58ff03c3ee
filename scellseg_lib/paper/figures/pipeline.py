"""The pipeline and what contrastive fine-tuning does to styles, drawn from its objects (Fig. 1)."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from scellseg_lib.model import Model
from scellseg_lib.network import count_parameters
from scellseg_lib.paper.styles import stack_styles
from scellseg_lib.plots import PREDICTED, TRUE, colour_flows, contours
from scellseg_lib.samples import Sample, normalise
from scellseg_lib.segmentation import Cells

ROLES = {"shot": ("#D55E00", "o"), "query": ("#0072B2", "^"), "contrast": ("0.6", "s")}


def draw_pipeline(model: Model, shots: Sequence[Sample], found: Cells, query: Sample) -> Figure:
    """Draw the way from annotated images to masks: a shot, its flows, a query, its flows, masks."""
    shot = shots[0]
    targets = model.representation.targets(shot.masks)
    n_parameters = count_parameters(model.network) / 1e6
    levels = ", ".join(map(str, model.network.levels))
    figure = plt.figure(figsize=(10, 2.5), layout="constrained")
    figure.get_layout_engine().set(wspace=0.12)  # type: ignore[union-attr,call-arg]
    grid = figure.subplots(1, 5)
    labelled, unlabelled = normalise(shot.image)[0], normalise(query.image)[0]
    learnt, predicted = colour_flows(targets[:2]), colour_flows(found.flows)
    images = (labelled, learnt, unlabelled, predicted, unlabelled)
    titles = (
        f"{len(shots)} shots: images and masks\n(n = {shot.masks.max()} cells in this one)",
        "what is learnt from them:\nflows to each cell's centre (Eq. 1)",
        "query: an image without masks,\nwhose style guides too (Eq. 2)",
        f"{model.card.architecture}, {n_parameters:.2f} M parameters\n(levels {levels})",
        f"masks: pixels that flow together\n(n = {found.masks.max()} cells)",
    )
    for letter, axes, image, title in zip("abcde", grid, images, titles, strict=True):
        axes.imshow(image, vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_title(f"{letter}   {title}", fontsize=7)
    draw_outlines(grid[0], shot.masks, TRUE, "-")
    draw_outlines(grid[4], found.masks, PREDICTED, ":")
    for left, right in ((0, 1), (2, 3), (3, 4)):
        start, end = grid[left].transAxes, grid[right].transAxes
        look = {"arrowstyle": "->", "color": "black"}
        grid[left].annotate("", (0, 0.5), (1, 0.5), xycoords=end, textcoords=start, arrowprops=look)
    return figure


def draw_outlines(
    axes: Axes, masks: np.ndarray, colour: str, style: str, width: float = 0.8
) -> None:
    """Draw the outlines of cells over an image."""
    lines = LineCollection(contours(masks), colors=colour, linestyles=style, linewidths=width)
    axes.add_collection(lines, autolim=False)


def draw_style_plane(axes: Sequence[Axes], styles: pd.DataFrame) -> None:
    """Draw style embeddings of shots, queries and contrasts, in the plane of largest variance.

    The frame is as for `styles.compare_distances`; a panel each ``when``, in the first one's plane.
    """
    from sklearn.decomposition import PCA  # takes a second

    parts = [part for _, part in styles.groupby("when", sort=False)]
    plane = PCA(2).fit(stack_styles(parts[0]))
    for panel, part in zip(axes, parts, strict=True):
        points = plane.transform(stack_styles(part))
        for role, (colour, marker) in reversed(ROLES.items()):
            x, y = points[(part["role"] == role).to_numpy()].T
            label = f"{role} (n = {len(x)} images)"
            panel.scatter(x, y, s=12, color=colour, marker=marker, linewidths=0, label=label)
        panel.set(xlabel="first component (no unit)", ylabel="second component (no unit)")
        panel.set_title(str(part["when"].iloc[0]), fontsize=8)
    axes[0].legend(fontsize=6)
