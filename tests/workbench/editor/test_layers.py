"""Pictures of an image as the page gets them, and the still one where no page is."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor.layers import (
    OUTLINE,
    REFERENCE,
    STILL_SIDE,
    composed,
    edges,
    layers_of,
    still,
)

PLANE = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100 + 7


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_intensities_come_back_from_the_numbers_within_a_step(dtype):
    plane = (PLANE / 100 - 3).astype(dtype)
    (layer,) = layers_of(plane, (), {})
    described = layer.described()
    assert described | {"low": 0, "high": 0} == {
        "name": "image",
        "kind": "uint16",
        "channel": True,
        "low": 0,
        "high": 0,
    }
    back = layer.low + layer.pixels / 65535 * (layer.high - layer.low)
    np.testing.assert_allclose(back, plane.astype(float), atol=(layer.high - layer.low) / 65535)


def test_eight_bits_go_as_they_are():
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (layer,) = layers_of(plane, (), {})
    assert (layer.low, layer.high, layer.described()["kind"]) == (0, 255, "uint8")
    np.testing.assert_array_equal(layer.pixels, plane)


def test_what_is_no_number_is_black_and_a_flat_image_is_flat():
    plane = np.array([[0.5, np.nan], [np.inf, -np.inf]])
    (layer,) = layers_of(plane, (), {})
    assert layer.pixels.tolist() == [[65535, 0], [0, 0]]
    (flat,) = layers_of(np.full((3, 3), 7.0), (), {})
    assert flat.low == flat.high == 7
    assert not flat.pixels.any()


@pytest.mark.parametrize(
    ("n_channels", "names"),
    [(1, ["image"]), (2, ["channel 1", "channel 2"]), (3, ["red", "green", "blue"])],
)
def test_channels_have_names(n_channels, names):
    image = np.dstack([PLANE + k for k in range(n_channels)])
    found = layers_of(image, (), {})
    assert [layer.name for layer in found] == names
    assert [layer.low for layer in found] == [7 + k for k in range(n_channels)]
    given = [f"stain {k}" for k in range(n_channels)]
    assert [layer.name for layer in layers_of(image, given, {})] == given


def test_further_pictures_follow_the_channels_and_are_none():
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[1, 2] = 10, 20, 30
    found = layers_of(PLANE, ("DAPI",), {"flow": colours, "cell probability": PLANE / 1e4})
    assert [(layer.name, layer.channel) for layer in found] == [
        ("DAPI", True),
        ("flow", False),
        ("cell probability", False),
    ]
    assert found[1].described()["kind"] == "rgb"
    np.testing.assert_array_equal(found[1].pixels, colours)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros(5),
        np.zeros((2, 3, 4, 1)),
        np.zeros((0, 4)),
        np.array([["a"]]),
        np.zeros((2, 2)) * 1j,
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ImageError, match="cannot be shown"):
        layers_of(image, (), {})


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ImageError, match="1 channels, 2 are named"):
        layers_of(PLANE, ("DAPI", "GFP"), {})


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 3)), "the image of"),
        (np.zeros((3, 4, 3), np.float32), "float32"),
        (np.zeros((3, 4, 4), np.uint8), "shape"),
        (np.zeros((3, 4, 3, 1), np.uint8), "shape"),
    ],
)
def test_a_further_picture_of_another_form_is_refused_and_never_wrapped_round(picture, message):
    with pytest.raises(ImageError, match=message):
        layers_of(PLANE, (), {"flow": picture})


def test_the_picture_is_stretched_from_the_first_to_the_last_percentile():
    plane = np.tile(np.arange(101, dtype=np.uint16), (101, 1))  # percentiles are the values
    picture = composed(layers_of(plane, (), {}))
    assert picture.shape == (101, 101, 3)
    assert (picture[..., 0] == picture[..., 1]).all()
    row = picture[0, :, 0].astype(int)
    assert row[[0, 1, 99, 100]].tolist() == [0, 0, 255, 255]
    np.testing.assert_allclose(row[1:100], (np.arange(1, 100) - 1) / 98 * 255, atol=1.01)


def test_two_channels_are_red_and_green():
    image = np.zeros((8, 8, 2), np.uint16)
    image[:4, :, 0], image[:, :4, 1] = 9, 9
    picture = composed(layers_of(image, (), {"flow": np.full((8, 8, 3), 99, np.uint8)}))
    assert picture[0, 0].tolist() == [255, 255, 0]
    assert picture[0, 7].tolist() == [255, 0, 0]
    assert picture[7, 7].tolist() == [0, 0, 0]


def test_edges_are_pixels_of_cells_beside_another_label_and_not_those_at_the_border():
    labels = np.zeros((6, 7), np.int32)
    labels[0:4, 0:3], labels[0:4, 3:6] = 1, 2
    expected = np.zeros(labels.shape, bool)
    expected[3, 0:6] = expected[0:4, 2] = expected[0:4, 3] = expected[0:4, 5] = True
    np.testing.assert_array_equal(edges(labels), expected)


def test_the_still_picture_has_outlines_of_the_cells_and_of_the_reference():
    labels, reference = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    labels[2:8, 2:8], reference[12:18, 12:18] = 1, 5
    picture = np.full((20, 20, 3), 40, np.uint8)
    seen = decoded(still(picture, labels, reference))
    expected = picture.copy()
    expected[edges(labels)] = OUTLINE
    expected[edges(reference)] = REFERENCE
    np.testing.assert_array_equal(seen, expected)
    assert (picture == 40).all()


def test_the_still_picture_has_the_colours_given_and_hides_what_is_transparent():
    labels = np.zeros((20, 20), np.int32)
    labels[2:8, 2:8], labels[12:18, 12:18], labels[2:8, 12:18] = 1, 2, 3
    table = np.array([[0, 0, 0, 0], [1, 2, 3, 255], [9, 9, 9, 0]], np.uint8)  # none for the third
    seen = decoded(still(np.full((20, 20, 3), 40, np.uint8), labels, None, (table, None)))
    assert seen[2, 2].tolist() == [1, 2, 3]
    assert seen[12, 12].tolist() == [40, 40, 40]
    assert seen[2, 12].tolist() == [40, 40, 40]


def test_a_large_image_is_seen_small_with_its_cells():
    labels = np.zeros((600, 3 * STILL_SIDE), np.int32)
    labels[300:500, 900:1200] = 70_000
    seen = decoded(still(np.zeros((*labels.shape, 3), np.uint8), labels, None))
    assert seen.shape == (200, STILL_SIDE, 3)
    outlined = (seen == OUTLINE).all(2)
    rows, columns = np.flatnonzero(outlined.any(1)), np.flatnonzero(outlined.any(0))
    assert (rows[0], rows[-1]) == (100, 166)
    assert (columns[0], columns[-1]) == (300, 399)
