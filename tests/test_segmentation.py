"""Segmentation: pooled tiles, odd sizes, flips, thresholds without the network, and warnings."""

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from skimage.draw import disk
from torch import nn

from scellseg_lib import Sample, datasets, device, load_model, metrics, network, segmentation
from scellseg_lib.errors import ImageError, ModelError, OptionError
from scellseg_lib.files.folder import FolderOutcome
from scellseg_lib.model import Model, new_model
from scellseg_lib.representation import Decoding, get
from scellseg_lib.segmentation import FarFromModel, Prediction, decode
from tests import tiny

predict = partial(segmentation.predict, precision=device.Precision())
segment = partial(segmentation.segment, precision=device.Precision())
FLOW = get("flow")
MODEL = new_model("scellseg", tiny.LEVELS)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def discs(scale: float = 1.0) -> np.ndarray:
    """Masks of 4 x 4 discs of 30 px times scale; at scale 1 they are 176 px wide: one tile."""
    masks = np.zeros((round(176 * scale),) * 2, np.int32)
    for i, place in enumerate(np.ndindex(4, 4), start=1):
        masks[disk((np.array(place) + 0.5) * 44 * scale, 15 * scale)] = i
    return masks


class Stub(nn.Module):
    """In place of a network: a function gives its maps; notes the sizes of its batches."""

    def __init__(self, maps: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.anchor, self.maps = nn.Parameter(torch.zeros(1)), maps
        self.stride, self.batches = 8, []

    def forward(self, images: torch.Tensor) -> network.NetworkOutput:
        self.batches.append(len(images))
        return network.NetworkOutput(self.maps(images), torch.ones(len(images), 4) / 2)

    def model(self, name: str = "cellpose", **card) -> Model:
        base = new_model(name, tiny.LEVELS)
        return Model(self, base.representation, base.card.model_copy(update=card))  # type: ignore[arg-type]


def perfect_maps(images: torch.Tensor) -> torch.Tensor:
    labels = np.round(images[:, 0].numpy() * 16).astype(np.int32)
    maps = np.stack([FLOW.targets(masks) for masks in labels])
    return torch.from_numpy(maps * [[[5]], [[5]], [[12]]] - [[[0]], [[0]], [[6]]]).float()


def oracle(masks: np.ndarray, **card) -> tuple[Model, np.ndarray]:
    """A model that segments an image of 16 cells without fault, and that image."""
    return Stub(perfect_maps).model(**card), masks.astype(np.float32)


def field(bias: float, name: str = "cellpose") -> Model:
    """Gives a field that turns with the image, and a part that does not: the flips cancel it."""

    def maps(images: torch.Tensor) -> torch.Tensor:
        dy, dx = np.gradient(images[:, 0], axis=(1, 2))  # changes sign when it is flipped
        gradient = torch.from_numpy(np.stack((dy, dx), axis=1))
        return torch.cat((gradient + bias, images[:, :1]), dim=1)

    return Stub(maps).model(name)


@pytest.mark.filterwarnings("ignore:.*next to no contrast")
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (7, 5), (224, 224), (225, 223)])
def test_any_size_gives_maps_and_masks_of_it(shape):
    (cells,) = segment(MODEL, [noise(*shape)], diameter=30)
    assert (cells.masks.shape, cells.masks.dtype) == (shape, np.int32)
    assert (cells.prediction.maps.shape, cells.prediction.shape) == ((3, *shape), shape)
    assert np.isfinite(cells.prediction.maps).all()
    assert cells.flows.shape == (2, *shape)
    np.testing.assert_allclose(np.linalg.norm(cells.style), 1, rtol=1e-5)


def test_maps_are_of_the_30_px_scale_by_the_models_diameter_or_another():
    assert segment(MODEL, []) == []
    made, image = oracle(discs(2.0), diameter=60.0)
    for given, shape in ({}, (3, 176, 176)), ({"diameter": 30}, (3, *image.shape)):
        (found,) = predict(made, [image], **given)
        assert (found.diameter, found.maps.shape) == (given.get("diameter", 60), shape)


def test_pooled_tiles_give_the_maps_of_one_image_at_a_time():
    shapes = [(60, 70), (260, 230), (1, 50), (64, 72), (224, 224)]
    images = [noise(*shape, seed=i) for i, shape in enumerate(shapes)]
    single = [next(predict(MODEL, [image], diameter=30)) for image in images]
    for batch_size in (3, 8):
        together = list(predict(MODEL, images, batch_size=batch_size, diameter=30))
        assert [p.name for p in together] == [str(i) for i in range(5)]
        for pooled, alone in zip(together, single, strict=True):
            np.testing.assert_allclose(pooled.maps, alone.maps, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(pooled.style, alone.style, rtol=1e-3, atol=1e-5)


def test_batches_are_as_large_as_asked_for_and_answers_given_as_soon_as_they_are_known():
    made, image = oracle(discs())
    read = Mock(return_value=np.stack((image, 0 * image)))
    images = [Sample(name, read) for name in "0123"]
    told = [(answer.name, read.call_count) for answer in predict(made, images, batch_size=3)]
    assert made.network.batches == [3, 1]
    assert told == [("0", 3), ("1", 3), ("2", 3), ("3", 4)]


@pytest.mark.parametrize("shape", [(64, 48), (300, 250)])
def test_flips_turn_vectors_back(shape):
    image, exact, biased = noise(*shape), field(0), field(0.7)
    (plain,) = predict(exact, [image])
    assert np.abs(plain.maps[:2]).mean() > 0.1
    for turning in (exact, biased):
        (turned,) = predict(turning, [image], flips=True)
        np.testing.assert_allclose(turned.maps, plain.maps, atol=1e-5)
        np.testing.assert_allclose(turned.style, plain.style, rtol=1e-6)
    biased.card.flips = True  # the model's own, unless something else is asked for
    assert (next(predict(biased, [image])).maps == turned.maps).all()
    assert (segment(biased, [image])[0].prediction.maps == turned.maps).all()
    assert (next(predict(biased, [image], flips=False)).maps != turned.maps).any()
    assert sum(biased.network.batches) == sum(exact.network.batches) * 13 / 5
    (classes,) = predict(field(0.7, "unet3"), [image], flips=True)
    np.testing.assert_allclose(classes.maps[:2], 0.7, atol=1e-5)  # no vectors: they keep their sign


@pytest.mark.parametrize("resample", [True, False])
def test_what_the_network_sees_comes_back_as_masks_and_other_thresholds_need_no_network(resample):
    masks = discs()
    made, image = oracle(masks)
    (cells,) = segment(made, [image], resample=resample)
    assert metrics.average_precision(masks, cells.masks, [0.9])[0] == 1
    for threshold, n in ((0.0, 16), (7.0, 0)):
        decoding = Decoding(cell_threshold=threshold)
        assert decode(cells.prediction, made.representation, decoding, resample=resample).max() == n
    assert made.network.batches == [1]


def test_settings_of_the_call_go_before_the_models():
    made, image = oracle(discs(), decoding=Decoding(min_size=800, cell_threshold=7.0))
    for changed, n in (
        ({}, 0),
        ({"min_size": 0}, 0),
        ({"cell_threshold": 0.0}, 0),
        ({"min_size": np.int64(0), "cell_threshold": np.float64(0)}, 16),  # NumPy's numbers, too
    ):
        assert segment(made, [image], **changed)[0].masks.max() == n


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_resampling_decodes_at_the_images_own_size(scale: float):
    masks, small = discs(scale), discs()
    maps = FLOW.targets(small)
    maps[:2] *= 5
    y, x = np.mgrid[: small.shape[0], : small.shape[1]]
    maps[2] = 15.5 - np.hypot((y + 0.5) % 44 - 22, (x + 0.5) % 44 - 22)  # slopes at the outline
    prediction = Prediction("p", maps, np.ones(1), masks.shape, 30 * scale)
    made = {r: decode(prediction, FLOW, Decoding(), resample=r) for r in (True, False)}
    for found in made.values():
        assert found.shape == masks.shape
        assert metrics.average_precision(masks, found, [0.8])[0] == 1
    if scale > 1:
        # Blocks of 2 x 2 px without it, none with it.
        for resample, found in made.items():
            blocks = found.reshape(small.shape[0], 2, small.shape[1], 2)
            assert (blocks == blocks[:, :1, :, :1]).all() is np.bool_(not resample)


def test_steps_and_sizes_follow_the_scale_where_it_resamples():
    masks = Mock(side_effect=lambda output, _: np.zeros(output.shape[1:], np.int32))
    prediction = Prediction("p", np.zeros((3, 50, 60), np.float32), np.ones(1), (100, 120), 60)
    for suited, resample in ((True, True), (True, False), (False, True)):
        chosen = SimpleNamespace(resamples=suited, masks=masks)
        assert decode(prediction, chosen, Decoding(), resample=resample).shape == (100, 120)
    each = [call.args for call in masks.call_args_list]
    seen = [(output.shape, decoding.n_steps, decoding.min_size) for output, decoding in each]
    assert seen == [((3, 100, 120), 400, 140), ((3, 50, 60), 200, 35), ((3, 50, 60), 200, 35)]


@pytest.mark.parametrize("resample", [True, False])
def test_a_cell_is_one_piece_and_a_stray_pixel_none(resample: bool):
    """Unless they are wanted as the paper's code has them."""
    found = np.zeros((40, 40), np.int32)
    found[5:15, 5:15] = found[30, 30] = 1
    found[5:15, 15:25] = found[25:35, 5:15] = 2
    expected = found.copy()
    expected[30, 30], expected[25:35, 5:15] = 0, 3
    prediction = Prediction("p", np.zeros((3, 40, 40), np.float32), np.ones(1), (40, 40), 30)
    chosen = SimpleNamespace(resamples=True, masks=lambda *_: found)
    again = partial(decode, prediction, chosen, Decoding(), resample=resample)
    cut, whole = (again(one_piece=one) for one in (False, True))
    np.testing.assert_array_equal(cut, found)
    np.testing.assert_array_equal(whole, expected)


FAR, NEAR = [[-0.5] * 4, [0.5, -0.5, 0.5, -0.5]], [[-0.5] * 4, [0.5, 0.5, 0.5, 0.4]]
SCALE = "0: the masks' median diameter is 30 px, the image was scaled for 70 px. Give diameter=30."
STYLE = "0: its style is 14.1 times as far from the training images as these usually "
STYLE += "are from each other"


def test_another_scale_or_style_is_warned_of():
    """The image shows discs of 30 px."""
    for card, words in (
        ({"diameter": 70.0}, SCALE),
        ({"diameter": 45.0}, None),
        ({"styles": FAR, "style_radius": 0.1}, STYLE),
        ({"styles": NEAR, "style_radius": 0.1}, None),
        ({"styles": FAR, "style_radius": 2.0}, None),
        ({}, None),  # a model that has stored none
    ):
        made, image = oracle(discs(), **card)
        with warnings.catch_warnings(record=True, action="always") as caught:
            segment(made, [image], min_size=1)
        said = [str(warning.message) for warning in caught if warning.category is FarFromModel]
        assert len(said) == (words is not None)
        assert not words or said[0].startswith(words)


def test_a_packaged_model_knows_what_it_has_not_seen():
    model = load_model("scellseg", levels=(16, 32, 64, 128))
    stripes = np.tile(np.sin(np.arange(200) / 2), (200, 1)).astype(np.float32)
    with pytest.warns(FarFromModel, match="times as far from the training images"):
        segment(model, [stripes])
    with warnings.catch_warnings(action="error", category=FarFromModel):
        segment(model, [datasets.synthetic.make_image("phase", 3, (200, 200))[0]])


def test_arrays_and_samples_are_the_same_images_and_integers_are_normalised_as_floats():
    image, nuclei = noise(50, 60), noise(50, 60, seed=1)
    planes = np.stack((image, np.zeros_like(image)))
    whole = np.random.default_rng(0).integers(0, 60000, (50, 60), np.uint16)
    given = [image, planes, Sample("named", lambda: planes), np.stack((image, nuclei))]
    found = list(predict(MODEL, [*given, whole, whole.astype(np.float64) / 3]))
    assert [p.name for p in found] == ["0", "1", "named", "3", "4", "5"]
    for one, other in ((0, 1), (0, 2), (4, 5)):
        np.testing.assert_allclose(found[one].maps, found[other].maps, rtol=1e-2, atol=1e-3)
    assert np.abs(found[0].maps - found[3].maps).max() > 2e-3  # the nuclei are heeded


def test_next_to_no_contrast_is_warned_of_and_taken_as_nothing():
    plane = np.full((60, 70), 5, np.float32)
    plane[:, 35:] += 4e-6
    flat = Sample("flat", lambda: np.stack((plane, noise(60, 70))))
    with pytest.warns(UserWarning, match="next to no contrast, treated as empty") as caught:
        found, _, nothing = segment(MODEL, [flat, noise(60, 70), np.zeros((60, 70), np.uint16)])
    assert [str(one.message).partition(":")[0] for one in caught] == ["flat", "2"]
    np.testing.assert_allclose(found.prediction.maps, nothing.prediction.maps, atol=1e-6)


def test_what_is_no_image_and_an_answer_that_is_no_number_is_an_error():
    """What the image itself cannot be: tests/test_samples.py."""
    with pytest.raises(ModelError, match="the image 0 is no number"):
        segment(field(np.nan), [noise(40, 40)], progress=False)
    odd = (noise(3, 40, 50), noise(5), noise(0, 50), np.full((30, 30), np.inf), "a", [[1], [2, 3]])
    for image in odd:
        words = r"image 1: (an image has the shape|it holds NaN|the image cannot be read)"
        with pytest.raises(ImageError, match=words):
            segment(MODEL, [noise(30, 30), image])
    words = r"1: it has 2621 megapixels once its cells of 1\.2 px .* limit is 400"
    with pytest.raises(ImageError, match=words):
        segment(MODEL, [noise(30, 30), np.zeros((2048, 2048), np.float32)], diameter=1.2)
    for single in (noise(30, 30), tiny.worms(1)[0]):
        with pytest.raises(ImageError, match=r"one image was given.*\[image\]"):
            segment(MODEL, single)  # type: ignore[arg-type]
    numbers = ("diameter", "cell_threshold", "flow_threshold", "min_size", "batch_size")
    for setting in (*numbers, "resample", "flips"):
        with pytest.raises(OptionError, match=rf"{setting}='odd' is not allowed\. Input should"):
            segment(MODEL, [noise(30, 30)], **{setting: "odd"})


def test_an_image_that_is_far_in_size_and_style_counts_as_both():
    both = FarFromModel("both", diameter=60.0, style_distance=3.0)
    style = FarFromModel("style", style_distance=2.0)
    told = [one.what for one in FolderOutcome(doubts=[both, style]).sum_up_doubts()]
    assert told == ["2 images in all are unlike the training images", "both"]
    assert FolderOutcome(doubts=[both]).sum_up_doubts() == [both]
