"""Segmentation: pooled tiles, odd sizes, flips, thresholds without the network, and warnings."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from scellseg_lib.datasets import synthetic
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.device import Precision
from scellseg_lib.errors import ImageError
from scellseg_lib.metrics import average_precision
from scellseg_lib.model import Model, new_model
from scellseg_lib.network import NetworkOutput
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import (
    FarFromModel,
    Prediction,
    as_sample,
    decode,
    predict,
    segment,
    style_distance,
)
from tests import tiny

FP32 = Precision()


@pytest.fixture(scope="module")
def model() -> Model:
    return new_model("scellseg", tiny.LEVELS)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def discs(scale: float = 1.0, gap: int = 44, n: int = 5) -> np.ndarray:
    """Masks of n x n discs of 30 px times scale."""
    side = round(gap * n * scale)
    y, x = np.mgrid[:side, :side]
    step = gap * scale
    row, column = (y // step).astype(int), (x // step).astype(int)
    middle_y, middle_x = (row + 0.5) * step, (column + 0.5) * step
    inside = (y - middle_y) ** 2 + (x - middle_x) ** 2 < (15 * scale) ** 2
    return np.where(inside, row * n + column + 1, 0).astype(np.int32)


class Oracle(nn.Module):
    """Reads the labels from the image, gives their perfect maps, and counts its calls."""

    def __init__(self, model: Model, labels: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.targets, self.labels = model.representation.targets, labels
        self.stride, self.levels = 8, tiny.LEVELS
        self.calls = 0

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        self.calls += 1
        maps = []
        for plane, _ in images.numpy():
            masks = np.round(plane * self.labels).astype(np.int32)
            map_ = self.targets(masks)
            map_[:2] *= 5
            map_[2] = map_[2] * 12 - 6
            maps.append(map_)
        return NetworkOutput(torch.from_numpy(np.stack(maps)), torch.ones(len(maps), 4) / 2)


def oracle(masks: np.ndarray, **card) -> tuple[Model, np.ndarray]:
    """A model that segments an image without fault, and that image."""
    base = new_model("cellpose", tiny.LEVELS)
    base.card = base.card.model_copy(update=card)
    n = int(masks.max())
    network = Oracle(base, n)
    return Model(network, base.representation, base.card), masks.astype(np.float32)  # type: ignore[arg-type]


# Sizes


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1000), (7, 5), (100, 40), (224, 224), (225, 223), (90, 500)]
)
def test_any_size_gives_maps_and_masks_of_it(model, shape):
    (cells,) = segment(model, [noise(*shape)], diameter=30, precision=FP32)
    assert cells.masks.shape == shape
    assert cells.masks.dtype == np.int32
    assert cells.prediction.maps.shape == (3, *shape)
    assert cells.prediction.shape == shape
    assert np.isfinite(cells.prediction.maps).all()
    assert cells.flows.shape == (2, *shape)
    np.testing.assert_allclose(np.linalg.norm(cells.style), 1, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*next to no contrast")
def test_a_constant_image_is_no_trouble(model):
    (cells,) = segment(model, [np.full((60, 70), 7, np.uint16)], precision=FP32)
    assert cells.masks.shape == (60, 70)
    assert np.isfinite(cells.prediction.maps).all()


def test_no_images_give_no_cells(model):
    assert segment(model, [], precision=FP32) == []


def test_maps_are_of_the_30_px_scale(model):
    (prediction,) = predict(model, [noise(100, 120)], diameter=60, precision=FP32)
    assert prediction.maps.shape == (3, 50, 60)
    assert prediction.diameter == 60


# Pooled tiles


def test_pooled_tiles_give_the_maps_of_one_image_at_a_time(model):
    shapes = [(60, 70), (260, 230), (230, 300), (1, 50), (500, 240), (64, 72), (224, 224)]
    images = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    options = {"diameter": 30, "precision": FP32}
    for batch_size in (1, 3, 8):
        together = list(predict(model, images, batch_size=batch_size, **options))
        assert [p.name for p in together] == [str(i) for i in range(7)]
        for image, pooled in zip(images, together, strict=True):
            (alone,) = predict(model, [image], **options)
            np.testing.assert_allclose(pooled.maps, alone.maps, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(pooled.style, alone.style, rtol=1e-3, atol=1e-5)


def test_batches_are_as_large_as_asked_for():
    made, image = oracle(discs(n=4))
    sizes = []
    made.network.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    # 176 px is one tile an image, so seven images are seven tiles.
    list(predict(made, [image] * 7, batch_size=3, precision=FP32))
    assert sizes == [3, 3, 1]


def test_images_are_given_out_as_soon_as_they_are_done():
    made, image = oracle(discs(n=4))
    taken = []

    class Watched(list):
        def __iter__(self):
            for number, item in enumerate(super().__iter__()):
                taken.append(number)
                yield item

    predictions = predict(made, Watched([image] * 6), batch_size=2, precision=FP32)
    next(predictions)
    assert taken == [0, 1]


def test_what_the_network_sees_comes_back_as_masks():
    masks = discs()
    made, image = oracle(masks)
    for resample in (True, False):
        (cells,) = segment(made, [image], resample=resample, precision=FP32)
        assert average_precision(masks, cells.masks, [0.9])[0] == 1


# Flips


class Field(nn.Module):
    """Gives a field that turns with the image, and a part that does not: the flips cancel it."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.stride, self.levels, self.bias = 8, tiny.LEVELS, bias
        self.calls = 0

    def forward(self, images: torch.Tensor) -> NetworkOutput:
        self.calls += 1
        plane = images[:, 0]
        dy, dx = torch.zeros_like(plane), torch.zeros_like(plane)
        dy[:, 1:-1] = plane[:, 2:] - plane[:, :-2]  # a gradient changes sign when it is flipped
        dx[:, :, 1:-1] = plane[:, :, 2:] - plane[:, :, :-2]
        maps = torch.stack((dy + self.bias, dx + self.bias, plane), dim=1)
        return NetworkOutput(maps, torch.ones(len(images), 4) / 2)


@pytest.mark.parametrize("shape", [(64, 48), (300, 250)])
def test_flips_turn_vectors_back(shape):
    base = new_model("cellpose", tiny.LEVELS)
    image = noise(*shape)
    exact = Model(Field(0), base.representation, base.card)  # type: ignore[arg-type]
    biased = Model(Field(0.7), base.representation, base.card)  # type: ignore[arg-type]
    (plain,) = predict(exact, [image], precision=FP32)
    (turned,) = predict(exact, [image], flips=True, precision=FP32)
    (cancelled,) = predict(biased, [image], flips=True, precision=FP32)
    np.testing.assert_allclose(turned.maps, plain.maps, atol=1e-5)
    np.testing.assert_allclose(cancelled.maps, plain.maps, atol=1e-5)
    assert np.abs(plain.maps[:2]).mean() > 0.1
    np.testing.assert_allclose(turned.style, plain.style, rtol=1e-6)
    assert biased.network.calls == 4 * exact.network.calls / 5


def test_maps_of_classes_keep_their_sign():
    base = new_model("unet3", tiny.LEVELS)
    constant = Model(Field(0.7), base.representation, base.card)  # type: ignore[arg-type]
    (turned,) = predict(constant, [np.zeros((64, 64), np.float32)], flips=True, precision=FP32)
    np.testing.assert_allclose(turned.maps[:2], 0.7, rtol=1e-6)


# Decoding


def test_other_thresholds_need_no_network():
    masks = discs()
    made, image = oracle(masks)
    (cells,) = segment(made, [image], precision=FP32)
    calls = made.network.calls
    assert calls == 1
    for threshold, n in ((0.0, 25), (7.0, 0)):
        decoding = Decoding(cell_threshold=threshold)
        assert decode(cells.prediction, made.representation, decoding).max() == n
    assert made.network.calls == calls


@pytest.mark.parametrize(
    ("changed", "n"),
    [({"cell_threshold": 7.0}, 0), ({"min_size": 800}, 0), ({"min_size": 0}, 25)],
)
def test_settings_of_the_call_go_before_the_models(changed, n: int):
    masks = discs()
    made, image = oracle(masks, decoding=Decoding(min_size=10))
    assert segment(made, [image], precision=FP32)[0].masks.max() == 25
    assert segment(made, [image], precision=FP32, **changed)[0].masks.max() == n
    stricter, image = oracle(masks, decoding=Decoding(cell_threshold=7.0))
    assert segment(stricter, [image], precision=FP32)[0].masks.max() == 0


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_resampling_decodes_at_the_images_own_size(scale: float):
    masks = discs(scale)
    small = discs()
    representation = new_model("cellpose", tiny.LEVELS).representation
    maps = representation.targets(small)
    maps[:2] *= 5
    y, x = np.mgrid[: small.shape[0], : small.shape[1]]
    maps[2] = 15.5 - np.hypot((y + 0.5) % 44 - 22, (x + 0.5) % 44 - 22)  # slopes at the outline
    prediction = Prediction("p", maps, np.ones(1), masks.shape, 30 * scale)
    made = {r: decode(prediction, representation, Decoding(), resample=r) for r in (True, False)}
    for found in made.values():
        assert found.shape == masks.shape
        assert average_precision(masks, found, [0.8])[0] == 1
    if scale > 1:
        # Blocks of 2 x 2 px without it; with it outlines are as smooth as the image is fine.
        blocks = made[False].reshape(small.shape[0], 2, small.shape[1], 2)
        assert (blocks == blocks[:, :1, :, :1]).all()
        finer = made[True].reshape(small.shape[0], 2, small.shape[1], 2)
        assert not (finer == finer[:, :1, :, :1]).all()
        iou = {r: (f > 0)[masks > 0].sum() / ((f > 0) | (masks > 0)).sum() for r, f in made.items()}
        assert iou[True] >= iou[False]


def test_steps_and_sizes_follow_the_scale_where_it_resamples():
    seen = []

    class Recorded(type(new_model("cellpose", tiny.LEVELS).representation)):  # type: ignore[misc]
        def masks(self, output, decoding):
            seen.append((output.shape, decoding.n_steps, decoding.min_size))
            return np.zeros(output.shape[1:], np.int32)

    prediction = Prediction("p", np.zeros((3, 50, 60), np.float32), np.ones(1), (100, 120), 60)
    for resample in (True, False):
        assert decode(prediction, Recorded(), Decoding(), resample=resample).shape == (100, 120)
    unsuited = Recorded()
    unsuited.resamples = False
    decode(prediction, unsuited, Decoding(), resample=True)
    assert seen == [((3, 100, 120), 400, 140), ((3, 50, 60), 200, 35), ((3, 50, 60), 200, 35)]


def test_the_default_diameter_is_the_models():
    masks = discs(2.0)
    made, image = oracle(masks, diameter=60.0)
    (cells,) = segment(made, [image], precision=FP32)
    assert cells.prediction.diameter == 60
    assert cells.prediction.maps.shape[1:] == (220, 220)
    (own,) = predict(made, [image], diameter=30, precision=FP32)
    assert own.maps.shape[1:] == image.shape


# Warnings


def counted(diameter: float, **card) -> list[str]:
    """Messages of segmenting 25 discs of 30 px by an oracle at another scale."""
    made, image = oracle(discs(), diameter=diameter, **card)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        segment(made, [image], min_size=1, precision=FP32)
    return [str(w.message) for w in caught if w.category is FarFromModel]


def test_another_scale_is_warned_of_with_the_diameter_to_give():
    (message,) = counted(70.0)
    assert "0: the masks' median diameter is 30 px" in message
    assert "scaled for 70 px. Give diameter=30" in message
    assert counted(45.0) == []
    assert counted(30.0) == []


def test_another_style_is_warned_of():
    far, near = [[-0.5] * 4, [0.5, -0.5, 0.5, -0.5]], [[-0.5] * 4, [0.5, 0.5, 0.5, 0.4]]
    (message,) = counted(30.0, styles=far, style_radius=0.1)
    assert "times as far from those of the training images" in message
    assert counted(30.0, styles=near, style_radius=0.1) == []
    assert counted(30.0, styles=far, style_radius=2.0) == []
    assert counted(30.0) == []  # a model that has stored none


def test_a_packaged_model_knows_what_it_has_not_seen():
    model = load_model("scellseg", levels=(16, 32, 64, 128))
    stripes = np.tile(np.sin(np.arange(200) / 2), (200, 1)).astype(np.float32)
    with pytest.warns(FarFromModel, match=r"times as far from those of the training images"):
        segment(model, [stripes], precision=FP32)
    cells = synthetic.make_image("phase", 3, (300, 300))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FarFromModel)
        segment(model, [cells], precision=FP32)


def test_the_distance_of_styles_is_in_radii_to_the_nearest():
    card = new_model("cellpose", tiny.LEVELS).card.model_copy(
        update={"styles": [[0.0, 1.0], [1.0, 0.0]], "style_radius": 0.5}
    )
    assert style_distance(np.array([1.0, 1.5]), card) == pytest.approx(np.hypot(1, 0.5) / 0.5)
    assert style_distance(np.array([1.0, 0.0]), card) == 0


# What comes in


def test_arrays_and_samples_are_the_same_images(model):
    image = noise(50, 60)
    planes = np.stack((image, np.zeros_like(image)))
    sample = Sample("named", lambda: planes)
    found = list(predict(model, [image, planes, sample], precision=FP32))
    assert [p.name for p in found] == ["0", "1", "named"]
    for other in found[1:]:
        np.testing.assert_allclose(other.maps, found[0].maps, rtol=1e-3, atol=1e-4)


def test_integers_are_normalised_as_floats_are(model):
    image = np.random.default_rng(0).integers(0, 60000, (50, 60), np.uint16)
    whole, real = predict(model, [image, image.astype(np.float64) / 3], precision=FP32)
    np.testing.assert_allclose(whole.maps, real.maps, rtol=1e-2, atol=1e-3)


def test_the_nucleus_plane_is_heeded(model):
    image, nuclei = noise(50, 60), noise(50, 60, seed=1)
    alone, both = predict(model, [image, np.stack((image, nuclei))], precision=FP32)
    assert np.abs(alone.maps - both.maps).max() > 1e-3


@pytest.mark.parametrize("shape", [(3, 40, 50), (40, 50, 2), (5,), (1, 2, 9, 9), (0, 50), ()])
def test_wrong_shapes_are_errors(shape):
    with pytest.raises(ImageError, match=r"image 4: an image of shape .* cannot be segmented"):
        as_sample(np.zeros(shape, np.float32), 4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_an_error(model, value: float):
    image = noise(30, 30)
    image[3, 4] = value
    with pytest.raises(ImageError, match=r"image 1: an image holds NaN or infinity"):
        segment(model, [noise(30, 30), image], precision=FP32)


def test_a_single_image_is_an_error_that_says_so(model):
    for image in (noise(30, 30), tiny.worms(1)[0]):
        with pytest.raises(ImageError, match=r"one image was given.*\[image\]"):
            segment(model, image, precision=FP32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("diameter", value) for value in (0, -3, np.nan, np.inf, "30")),
        *(("cell_threshold", value) for value in ("x", np.nan, [0.5])),
        *(("flow_threshold", value) for value in (-0.1, np.nan)),
        *(("min_size", value) for value in (-1, 2.5)),
        *(("batch_size", value) for value in (0, 1.5, None)),
    ],
)
def test_a_setting_that_is_none_is_an_error(model, name: str, value):
    with pytest.raises(ImageError, match=rf"{name}=.* is not a (whole )?number.*Leave it out"):
        segment(model, [noise(30, 30)], precision=FP32, **{name: value})


def test_settings_of_numpy_are_numbers(model):
    given = {"diameter": np.float32(30), "cell_threshold": np.float64(0), "min_size": np.int64(9)}
    assert len(segment(model, [noise(30, 30)], precision=FP32, batch_size=np.int8(1), **given)) == 1


def test_cells_are_given_out_as_soon_as_they_are_found():
    made, image = oracle(discs(n=4))
    calls = []
    found = segment(
        made, [image] * 4, batch_size=2, precision=FP32,
        callback=lambda cells: calls.append((cells.name, made.network.calls)),
    )  # fmt: skip
    assert calls == [("0", 1), ("1", 1), ("2", 2), ("3", 2)]
    assert [cells.name for cells in found] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("height", [0, 9e-4])
def test_next_to_no_contrast_is_warned_of(model, height: float):
    plane = np.full((60, 70), 5, np.float32)
    plane[:, 35:] += height
    flat = Sample("flat", lambda: np.stack((plane, noise(60, 70))))
    with pytest.warns(UserWarning, match="flat: next to no contrast, treated as empty") as caught:
        found = segment(model, [noise(60, 70), flat], precision=FP32)[1]
    assert len(caught) == 1
    nothing = segment(model, [noise(60, 70), np.zeros((60, 70))], precision=FP32)[1]
    np.testing.assert_array_equal(found.prediction.maps, nothing.prediction.maps)
