"""Put synthetic images beside real ones: ``python tests/review_synthetic.py [--all] [FILE]``.

The committed picture shows only real sets whose licence permits it (BBBC010, T98G, DSB2018);
``--all`` shows every set in SCELLSEG_DATA, for one's own review.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scellseg_lib.datasets import synthetic

FREE = {
    "worms": ["bbbc010_elegans/B05_img.png"],
    "phase": ["t98g_phase/012_img.png"],
    "mito": ["raw_samples/dsb2018/stage1_train/45c3bdef*/images/*.png"],
}
OTHERS = {
    "mito": ["hela_phase_nuclei/004_1_img.png"],
    **{style: [f"cellpose_contrast35/{style}_*_img.png"] for style in synthetic.STYLES},
}
NOTES = {"dsb2018": ", nuclei alone"}
TILE = (200, 260)


def picture(planes: np.ndarray) -> np.ndarray:
    """RGB of 8 bits, [H, W, 3]: planes to segment and nuclei in green and red, or grey."""
    low, high = np.percentile(planes, (0.3, 99.7), axis=(-2, -1), keepdims=True)
    scaled = np.clip((planes - low) / np.maximum(high - low, 1), 0, 1)
    if not planes[1].any():
        return (np.stack([scaled[0]] * 3, -1) * 255).astype(np.uint8)
    return (np.stack([scaled[1], scaled[0], 0 * scaled[0]], -1) * 255).astype(np.uint8)


def real(path: Path) -> np.ndarray:
    """Planes float[2, H, W] of a real image: the one to segment, the nuclei or zeros."""
    data = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)
    if data.ndim == 2:
        return np.stack([data, np.zeros_like(data)])
    if np.array_equal(data[..., 1], data[..., 2]):
        return np.stack([data[..., 1], 0 * data[..., 1]])
    return np.stack([data[..., 1], data[..., 2]])  # OpenCV's order is blue, green, red


def tile(planes: np.ndarray, title: str) -> np.ndarray:
    """Middle of an image in a tile of TILE, with its title."""
    height, width = planes.shape[1:]
    scale = max(TILE[0] / height, TILE[1] / width, 0.45)
    rgb = cv2.resize(picture(planes), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    top, left = (rgb.shape[0] - TILE[0]) // 2, (rgb.shape[1] - TILE[1]) // 2
    rgb = np.ascontiguousarray(rgb[top : top + TILE[0], left : left + TILE[1]])
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(rgb, title, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, thick, cv2.LINE_AA)
    return cv2.copyMakeBorder(rgb, 2, 2, 2, 2, cv2.BORDER_CONSTANT)


def beside(data: Path, everything: bool) -> np.ndarray:
    """Every synthetic kind, and to its right the real one where there is one to show."""
    tiles = []
    for kind in synthetic.KINDS:
        tiles.append(tile(synthetic.make_image(kind, 1)[0], f"synthetic {kind}"))
        patterns = (OTHERS if everything else FREE).get(kind, FREE.get(kind, []))
        found = [p for pattern in patterns for p in sorted(data.glob(pattern))]
        if found:
            name = found[0].relative_to(data).as_posix().removeprefix("raw_samples/").split("/")[0]
            tiles.append(tile(real(found[0]), f"real: {name}{NOTES.get(name, '')}"))
    columns = 7
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    target = Path(names[0] if names else "figures/synthetic_beside_real.png")
    sheet = beside(Path(os.environ["SCELLSEG_DATA"]), "--all" in sys.argv)
    # A palette keeps the committed picture small.
    coverage = Image.Quantize.MAXCOVERAGE
    few = Image.fromarray(sheet).quantize(255, coverage, kmeans=1, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
