"""From images to masks: network at the 30-px scale, then dynamics (docs/method.md, section 5)."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import length_hint
from typing import Any

import numpy as np
import torch
from pydantic import Field
from skimage import measure

from scellseg_lib.augment import MEAN_DIAMETER
from scellseg_lib.device import Precision, choose_precision, release_memory
from scellseg_lib.errors import ImageError, ModelError, ScellsegWarning
from scellseg_lib.flows import tidy
from scellseg_lib.model import Card, Model
from scellseg_lib.options import Options
from scellseg_lib.progress import progress_bar
from scellseg_lib.representation import Decoding, Representation
from scellseg_lib.representation.flow import FLOW_SCALE
from scellseg_lib.samples import Sample, resize, resize_masks
from scellseg_lib.samples import diameter as diameter_of
from scellseg_lib.tiles import TiledImage, cut_tiles

FLIPS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))  # axes (y, x) that are turned


class SegmentOptions(Options):
    """How images are segmented, beside the model's `Decoding`."""

    diameter: float | None = Field(default=None, ge=1)
    """Of the cells, in pixels of the images. Default: the model's."""
    resample: bool = True
    """Find the cells at the image's own size, with smooth outlines; else at the 30-px scale."""
    flips: bool | None = None
    """Average the maps over four flips: better, four times the work. Default: the model's."""
    batch_size: int = Field(default=8, ge=1)
    """Tiles in a batch; tiles of all images are pooled."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image, before any threshold."""

    name: str
    maps: np.ndarray  # float32[K, h, w], at the 30-px scale
    style: np.ndarray  # float32[S], of unit length
    shape: tuple[int, int]  # of the image, (H, W)
    diameter: float  # of its cells, in pixels, by which it was brought to that scale
    has_flows: bool = True  # whether the first two maps are flows, as Cellpose's and Scellseg's are


@dataclass(frozen=True, eq=False)
class Cells:
    """A segmented image."""

    name: str
    masks: np.ndarray  # int32[H, W]: labels 1 to n, 0 is background
    prediction: Prediction  # kept, so that `decode` with other thresholds needs no network

    @property
    def style(self) -> np.ndarray:
        """Style embedding, float32[S], of unit length."""
        return self.prediction.style

    @property
    def flows(self) -> np.ndarray:
        """Unit flows (dy, dx), float32[2, h, w], at the 30-px scale; ModelError without any."""
        if not self.prediction.has_flows:
            remedy = "Use a Scellseg or a Cellpose, or look at prediction.maps."
            raise ModelError("the model does not write cells as flows", remedy=remedy)
        return self.prediction.maps[:2] / FLOW_SCALE


def segment(
    model: Model,
    images: Sequence[Sample | np.ndarray],
    *,
    diameter: float | None = None,
    resample: bool = True,
    flips: bool | None = None,
    batch_size: int = 8,
    precision: Precision | None = None,
    progress: bool = True,
    **thresholds: float | None,
) -> list[Cells]:
    """Segment images.

    Parameters
    ----------
    model : Model
    images : sequence of Sample or array
        Arrays are float or integer [H, W] or [2, H, W] (to segment, nucleus).
    diameter, resample, flips, batch_size
        See `SegmentOptions`. The paper's protocol is ``resample=False``.
    precision : Precision, optional
        None: what pays on this machine.
    progress : bool
        Show a bar where somebody looks.
    **thresholds
        ``cell_threshold``, ``min_size`` and the others of `Decoding`; None: the model's.

    Returns
    -------
    list of Cells

    Raises
    ------
    ImageError, OptionError
        For an image that cannot be read or is none; for an option that is not allowed.

    Warns
    -----
    FarFromModel, UserWarning
        When `far_from_model` doubts the masks; when an image has next to no contrast.
    """
    decoding = model.card.decoding.change(**thresholds)
    sizes: dict[str, Any] = {"diameter": diameter, "flips": flips, "batch_size": batch_size}
    SegmentOptions(resample=resample)  # the others are checked by `predict`
    predictions, cells = predict(model, images, precision=precision, **sizes), []
    for prediction in progress_bar(predictions, length_hint(images), "segment", shown=progress):
        masks = decode(prediction, model.representation, decoding, resample=resample)
        if doubt := far_from_model(prediction, masks, model.card):
            warnings.warn(doubt, stacklevel=2)
        cells.append(Cells(prediction.name, masks, prediction))
    return cells


def resolve(card: Card, **chosen: Any) -> SegmentOptions:
    """Options that are asked for, the model's where None."""
    return SegmentOptions(diameter=card.diameter, flips=card.flips).change(**chosen)


def predict(
    model: Model,
    images: Sequence[Sample | np.ndarray],
    *,
    diameter: float | None = None,
    flips: bool | None = None,
    batch_size: int = 8,
    precision: Precision | None = None,
) -> Iterator[Prediction]:
    """Yield what the network says of each image once it is known; takes and raises as `segment`."""
    if isinstance(images, np.ndarray | Sample):
        raise ImageError("one image was given", remedy="Give a list of images: [image].")
    options = resolve(model.card, diameter=diameter, batch_size=batch_size, flips=flips)
    scaled_by = options.diameter or model.card.diameter
    turns = FLIPS if options.flips else FLIPS[:1]
    precision = precision or choose_precision(model.device)
    precision.place(model.network, model.device).eval()
    waiting: list[tuple[str, Any, TiledImage]] = []

    def cut() -> Iterator[tuple[TiledImage, int]]:
        for number, image in enumerate(images):
            if not isinstance(image, Sample):
                image = Sample(str(number), partial(_as_planes, image))
            tiled = cut_tiles(model, image, scaled_by)
            waiting.append((image.name, image.image.shape[1:], tiled))
            del image  # whose pixels are needed no more
            yield from ((tiled, index) for index in range(tiled.missing))

    for _, alike in groupby(cut(), lambda tile: tile[0].sides):
        while part := list(islice(alike, options.batch_size)):
            batch = torch.from_numpy(np.stack([tiled.tile(index) for tiled, index in part]))
            maps, styles = _forward(model, batch, turns, precision)
            for (tiled, index), tile_maps, style in zip(part, maps, styles, strict=True):
                tiled.add(index, tile_maps, style)
            while waiting and not waiting[0][2].missing:
                name, shape, tiled = waiting.pop(0)
                said = tiled.maps(), tiled.style(), shape, scaled_by
                if not np.isfinite(said[0]).all():
                    what = f"the network's answer to the image {name} is no number"
                    raise ModelError(what, remedy="Load another model: this one is damaged.")
                yield Prediction(name, *said, model.representation.has_flows)
                del said
    release_memory()


def decode(
    prediction: Prediction,
    representation: Representation,
    decoding: Decoding,
    *,
    resample: bool = True,
    one_piece: bool = True,
) -> np.ndarray:
    """Turn maps into masks of the image's size, int32[H, W]; needs no network.

    Sizes and steps of ``decoding`` are of the 30-px scale. ``resample`` resizes the maps first,
    where the representation allows, and decodes them with steps and sizes to match. Pieces of a
    mask that lie apart become cells of their own, or go if they are too small for one; unless
    ``one_piece`` is False, as in the paper's code.
    """
    scale = prediction.diameter / MEAN_DIAMETER
    n_steps, min_size = round(decoding.n_steps * scale), round(decoding.min_size * scale**2)
    if resample and representation.resamples:
        decoding = decoding.model_copy(update={"n_steps": n_steps, "min_size": min_size})
        masks = representation.masks(resize(prediction.maps, prediction.shape), decoding)
    else:
        masks = resize_masks(representation.masks(prediction.maps, decoding), prediction.shape)
    pieces = measure.label(masks, connectivity=2)
    return tidy(pieces, min_size) if one_piece and pieces.max() > masks.max() else masks


def _as_planes(image: np.ndarray) -> np.ndarray:
    """Two planes of an array [H, W] or [2, H, W]; a sample says itself if it is no image."""
    planes = np.asarray(image)
    return np.stack((planes, np.zeros_like(planes))) if planes.ndim == 2 else planes


@torch.inference_mode()
def _forward(
    model: Model, tiles: torch.Tensor, turns: Sequence[tuple[int, ...]], precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (B, K, h, w) and styles (B, S), means over the flips; flipped vectors turn back."""
    sums: tuple[Any, Any] = (0, 0)
    for axes in turns:
        image_axes = [axis + 2 for axis in axes]
        with precision.autocast(model.device):
            output = model.network(torch.flip(tiles, image_axes).to(model.device))
        maps = torch.flip(output.maps.float(), image_axes)
        for axis in axes if model.representation.vector else ():
            maps[:, axis] = -maps[:, axis]
        sums = sums[0] + maps, sums[1] + output.style.float()
    maps, styles = ((total / len(turns)).cpu().numpy() for total in sums)
    return maps, styles


def style_distance(style: np.ndarray, card: Card) -> float:
    """Distance of a style to the nearest training style, in their radii; 0 where there is none."""
    if not card.styles or card.style_radius <= 0:  # as of weights of others
        return 0.0
    gaps = np.linalg.norm(np.array(card.styles) - style, axis=1)
    return float(gaps.min() / card.style_radius)


class FarFromModel(ScellsegWarning):
    """An image's scale or style is far from what the model has seen; ``where`` is its name."""

    diameter: float | None = None  # the masks' median, in pixels, where the scale is far
    style_distance: float | None = None  # that of `style_distance`, where the style is far


def far_from_model(prediction: Prediction, masks: np.ndarray, card: Card) -> FarFromModel | None:
    """Doubt five masks or more of half or twice the diameter given, and styles far from usual."""
    given, areas = prediction.diameter, np.bincount(masks.ravel())[1:]
    found = diameter_of(areas) if np.count_nonzero(areas) >= 5 else given
    distance = style_distance(prediction.style, card)
    doubts, facts = list[tuple[str, str]](), dict[str, Any]()
    if not 0.5 <= found / given <= 2:
        what = f"the masks' median diameter is {found:.0f} px, the image was scaled for"
        doubts.append((f"{what} {given:.0f} px", "Give {diameter}."))
        facts |= {"diameter": found, "options": {"diameter": round(found)}}
    if distance > 1:
        what = f"its style is {distance:.1f} times as far from the training images as these usually"
        doubts.append((f"{what} are from each other", "Fine-tune on a few images like it."))
        facts["style_distance"] = distance
    if not doubts:
        return None
    whats, remedies = zip(*doubts, strict=True)
    where, remedy = prediction.name, " ".join(remedies)
    return FarFromModel(", and ".join(whats), remedy=remedy, where=where, **facts)
