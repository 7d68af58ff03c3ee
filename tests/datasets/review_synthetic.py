"""Put synthetic images beside real ones, in `figures/synthetic_beside_real.png`.

``python -m tests.datasets.review_synthetic`` needs the real images (SCELLSEG_DATA). Only sets whose
licence permits it are shown (BBBC010, T98G, DSB2018).
"""

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scellseg_lib.datasets import synthetic
from scellseg_lib.files.images import read_image

REAL = {
    "worms": ("bbbc010_elegans/B05_img.png", "bbbc010_elegans"),
    "phase": ("t98g_phase/012_img.png", "t98g_phase"),
    "mito": ("raw_samples/dsb2018/stage1_train/45c3bdef*/images/*.png", "dsb2018, nuclei alone"),
}
"""Files, and what is written on them, by the kind that they are shown beside."""
TILE = (200, 260)
COLUMNS = 7


def draw_tile(planes: np.ndarray, title: str) -> np.ndarray:
    """Middle of an image, nuclei in red and the other plane in green, or grey, with its title."""
    low, high = np.percentile(planes, (0.3, 99.7), axis=(-2, -1), keepdims=True)
    first, nuclei = np.clip((planes - low) / np.maximum(high - low, 1), 0, 1)
    colours = (nuclei, first, 0 * first) if planes[1].any() else (first,) * 3
    rgb = (np.stack(colours, -1) * 255).astype(np.uint8)
    scale = max(TILE[0] / rgb.shape[0], TILE[1] / rgb.shape[1], 0.45)
    rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (rgb.shape[0] - TILE[0]) // 2, (rgb.shape[1] - TILE[1]) // 2
    rgb = np.ascontiguousarray(rgb[top : top + TILE[0], left : left + TILE[1]])
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(rgb, title, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, thick, cv2.LINE_AA)
    return cv2.copyMakeBorder(rgb, 2, 2, 2, 2, cv2.BORDER_CONSTANT)


if __name__ == "__main__":
    tiles = []
    for kind in synthetic.KINDS:
        tiles.append(draw_tile(synthetic.make_image(kind, 1)[0], f"synthetic {kind}"))
        if kind in REAL:
            pattern, title = REAL[kind]
            (file,) = Path(os.environ["SCELLSEG_DATA"]).glob(pattern)
            tiles.append(draw_tile(read_image(file), f"real: {title}"))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    # A palette keeps the committed picture small.
    few = Image.fromarray(np.vstack(rows)).quantize(
        255, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE
    )
    few.save("figures/synthetic_beside_real.png", optimize=True)
