"""Deterministic annotated microscopy-like images, so that everything runs with no download."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np

from scellseg_lib.datasets.synthetic import cells
from scellseg_lib.datasets.synthetic.scene import Scene, Shape
from scellseg_lib.datasets.synthetic.worms import draw_worms
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.samples import Dataset, Sample

# Each kind with the size of its real images.
_MAKERS: dict[str, tuple[Callable[[Scene], cells.Planes], Shape]] = {
    "worms": (draw_worms, (520, 696)),
    "phase": (cells.draw_phase, (520, 704)),
    "mito": (cells.draw_mito, (512, 512)),
    "Kc167": (partial(cells.draw_fluorescence, name="Kc167"), (400, 400)),
    "cytomembrane": (cells.draw_cytomembrane, (512, 512)),
    "macrophagocyte": (partial(cells.draw_fluorescence, name="macrophagocyte"), (384, 512)),
    "neurocyte": (partial(cells.draw_fluorescence, name="neurocyte"), (384, 512)),
    "style1": (cells.draw_style1, (512, 512)),
    "style2": (partial(cells.draw_fluorescence, name="style2"), (384, 512)),
    "style3": (cells.draw_style3, (384, 512)),
}
KINDS = tuple(_MAKERS)
STYLES = KINDS[3:]  # after the paper's contrast images

_FEW_SHOT = {"synthetic": "worms"} | {f"synthetic_{kind}": kind for kind in KINDS[:3]}
NAMES = (*_FEW_SHOT, "synthetic_contrast", "synthetic_pretrain")
# One stream of random numbers per role, so that no image of one split is ever in another.
_STREAMS = {"shot": 1, "query": 2, "contrast": 3, "pretrain": 4}


def make_image(
    kind: str, seed: int | tuple[int, ...], shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Make one annotated image; the same arguments give the same image on every machine.

    The kind is one of ``KINDS``: "worms" (bright field), "phase" (phase contrast), "mito"
    (mitochondria and nuclei), or a contrast style of the paper. The shape is at least 200 px each
    way; by default that of the real images of this kind.

    Returns
    -------
    image : float32[2, H, W]
        Whole 16-bit counts: the plane to segment, then the nuclei or zeros.
    masks : int32[H, W]
        Contiguous labels from 1, 0 is background; every cell is one 4-connected piece.
    """
    if kind not in _MAKERS:
        remedy = f"Use one of {', '.join(KINDS)}."
        raise ImageError(f"there is no synthetic image of kind {kind!r}", remedy=remedy)
    make, usual = _MAKERS[kind]
    shape = shape or usual
    if min(shape) < 200:
        what = f"a synthetic image of {shape[0]} x {shape[1]} px is too small"
        raise ImageError(what, remedy="Ask for at least 200 px each way.")
    rng = np.random.default_rng([KINDS.index(kind), *np.atleast_1d(seed)])
    planes, masks = make(Scene(rng, shape))
    return planes if planes.ndim == 3 else np.stack([planes, np.zeros_like(planes)]), masks


_cached = lru_cache(maxsize=8)(make_image)  # for a sample's image and for its masks


def _make_sample(kind: str, role: str, number: int) -> Sample:
    words = (_STREAMS[role], 0, number)  # 0 stands for nothing, but the images hang on it
    name, make = f"{kind}_{role}_{number:03d}", partial(_cached, kind, words)
    split, style = (f"contrast:{kind}", kind) if role == "contrast" else (role, None)
    return Sample(name, lambda: make()[0].copy(), lambda: make()[1].copy(), split, style)


def make_dataset(
    name: str,
    *,
    n_shot: int = 10,
    n_query: int = 8,
    n_pretrain: int = 200,
    kinds: Sequence[str] = KINDS,
) -> Dataset:
    """Make a synthetic data set; images are made when they are read.

    The name is "synthetic_worms" (or "synthetic"), "synthetic_phase" or "synthetic_mito" (splits
    "shot" and "query"), "synthetic_contrast" (splits "contrast:STYLE", five images of each of the
    seven styles), or "synthetic_pretrain" (split "pretrain", all kinds in turn, of which `kinds`
    are kept).
    """
    if name not in NAMES:
        remedy = f"Use one of {', '.join(NAMES)}."
        raise DatasetError(f"there is no synthetic set {name!r}", remedy=remedy)
    if name == "synthetic_contrast":
        wanted = [(style, "contrast", i) for style in STYLES for i in range(5)]
    elif name == "synthetic_pretrain":
        every = [(KINDS[i % len(KINDS)], "pretrain", i) for i in range(n_pretrain)]
        wanted = [one for one in every if one[0] in kinds]
    else:
        wanted = [(_FEW_SHOT[name], "shot", i) for i in range(n_shot)]
        wanted += [(_FEW_SHOT[name], "query", i) for i in range(n_query)]
    channels = ("gray", "none") if _FEW_SHOT.get(name) in ("worms", "phase") else ("0", "1")
    title = f"Synthetic {name.removeprefix('synthetic_')} images"
    samples = tuple(_make_sample(*one) for one in wanted)
    return Dataset(name, title, "BSD-3-Clause", samples, channels)
