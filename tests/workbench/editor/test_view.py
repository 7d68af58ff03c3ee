"""Pictures of an image as the page gets them, and the still one where no page is."""

import cv2
import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from scellseg_lib.errors import ImageError
from scellseg_lib.workbench.editor import ImageView, view
from scellseg_lib.workbench.editor.view import compose_channels, draw_still, make_layers
from tests.workbench.editor.page import connect, decode_labels

PLANE = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100 + 7


def decode_png(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int32, np.float32, np.float64])
def test_intensities_come_back_from_the_numbers_within_a_step(dtype):
    plane = (PLANE / 100 - 3).astype(dtype)
    (layer,) = make_layers(plane, (), {})
    expected = {"name": "image", "kind": "uint16", "channel": True}
    assert layer.describe() == expected | {"low": layer.low, "high": layer.high}
    back = layer.low + layer.pixels / 65535 * (layer.high - layer.low)
    np.testing.assert_allclose(back, plane.astype(float), atol=(layer.high - layer.low) / 65535)


def test_eight_bits_go_as_they_are_and_what_is_no_number_is_black():
    plane = np.arange(6, dtype=np.uint8).reshape(2, 3)
    (layer,) = make_layers(plane, (), {})
    assert (layer.low, layer.high, layer.describe()["kind"]) == (0, 255, "uint8")
    np.testing.assert_array_equal(layer.pixels, plane)
    (layer,) = make_layers(np.array([[0.5, np.nan], [np.inf, -np.inf]]), (), {})
    assert layer.pixels.tolist() == [[65535, 0], [0, 0]]
    (flat,) = make_layers(np.full((3, 3), 7.0), (), {})
    assert flat.low == flat.high == 7
    assert not flat.pixels.any()


@pytest.mark.parametrize(
    ("n_channels", "names"),
    [(1, ["image"]), (2, ["channel 1", "channel 2"]), (3, ["red", "green", "blue"])],
)
def test_channels_have_names_and_further_pictures_follow_them(n_channels, names):
    image = np.dstack([PLANE + k for k in range(n_channels)])
    colours = np.zeros((3, 4, 3), np.uint8)
    colours[1, 2] = 10, 20, 30
    found = make_layers(image, (), {"flow": colours, "cell probability": PLANE / 1e4})
    assert [layer.name for layer in found] == [*names, "flow", "cell probability"]
    assert [layer.channel for layer in found] == [True] * n_channels + [False] * 2
    assert [layer.low for layer in found[:n_channels]] == [7 + k for k in range(n_channels)]
    assert found[-2].describe()["kind"] == "rgb"
    np.testing.assert_array_equal(found[-2].pixels, colours)
    given = [f"stain {k}" for k in range(n_channels)]
    assert [layer.name for layer in make_layers(image, given, {})] == given
    with pytest.raises(ImageError, match=f"{n_channels} channels, 4 are named"):
        make_layers(image, list("abcd"), {})


@pytest.mark.parametrize(
    ("image", "others", "text"),
    [
        *((np.zeros(shape), {}, "cannot be shown") for shape in (5, (2, 3, 4, 1), (0, 4))),
        (np.array([["a"]]), {}, "cannot be shown"),
        (np.zeros((2, 2)) * 1j, {}, "cannot be shown"),
        (PLANE, {"flow": np.zeros((4, 3))}, "'flow' of"),
        (PLANE, {"flow": np.zeros((3, 4, 3), np.float32)}, "float32"),
        (PLANE, {"flow": np.zeros((3, 4, 4), np.uint8)}, "shape"),
        (PLANE, {"flow": np.zeros((3, 4, 3, 1), np.uint8)}, "shape"),
    ],
)
def test_what_is_no_image_and_no_picture_of_it_is_refused(image, others, text):
    with pytest.raises(ImageError, match=text):
        make_layers(image, (), others)


def test_the_picture_is_stretched_from_the_first_to_the_last_percentile():
    plane = np.tile(np.arange(101, dtype=np.uint16), (101, 1))  # percentiles are the values
    picture = compose_channels(make_layers(plane, (), {}))
    assert picture.shape == (101, 101, 3)
    assert (picture == picture[..., :1]).all()
    row = picture[0, :, 0].astype(int)
    assert row[[0, 1, 99, 100]].tolist() == [0, 0, 255, 255]
    np.testing.assert_allclose(row[1:100], (np.arange(1, 100) - 1) / 98 * 255, atol=1.01)
    two = np.zeros((8, 8, 2), np.uint16)
    two[:4, :, 0], two[:, :4, 1] = 9, 9
    picture = compose_channels(make_layers(two, (), {"flow": np.full((8, 8, 3), 99, np.uint8)}))
    assert picture[0, [0, 7]].tolist() == [[255, 255, 0], [255, 0, 0]]
    assert picture[7, 7].tolist() == [0, 0, 0]


def test_the_still_picture_has_outlines_of_the_cells_and_of_the_reference():
    labels, reference = np.zeros((20, 20), np.int32), np.zeros((20, 20), np.int32)
    labels[0:8, 2:5], labels[0:8, 5:8], reference[12:18, 12:18] = 1, 2, 5
    edge = np.zeros((20, 20), bool)  # beside another label, but not at the border of the image
    edge[7, 2:8] = edge[0:8, 2] = edge[0:8, 4:6] = edge[0:8, 7] = True
    picture = np.full((20, 20, 3), 40, np.uint8)
    expected = picture.copy()
    expected[edge] = view.OUTLINE
    expected[find_boundaries(reference, mode="inner")] = view.REFERENCE
    np.testing.assert_array_equal(decode_png(draw_still(picture, labels, reference)), expected)
    assert (picture == 40).all()
    table = np.array([[0, 0, 0, 0], [1, 2, 3, 255], [9, 9, 9, 0]], np.uint8)  # hides the second
    seen = decode_png(draw_still(picture, labels, None, (table, None)))
    assert seen[7, [3, 6]].tolist() == [[1, 2, 3], [40, 40, 40]]
    large = np.zeros((600, 3 * view.STILL_SIDE), np.int32)
    large[300:500, 900:1200] = 70_000
    seen = decode_png(draw_still(np.zeros((*large.shape, 3), np.uint8), large, None))
    assert seen.shape == (200, view.STILL_SIDE, 3)
    rows, columns = np.nonzero((seen == view.OUTLINE).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 166, 300, 399)


def test_a_view_shows_a_reference_colours_and_tips():
    image, labels = np.arange(12 * 16).reshape(12, 16), np.zeros((12, 16), np.int32)
    labels[1:5, 1:5], labels[1:5, 5:11] = 1, 2
    shown = ImageView()
    (page,) = connect(shown)
    assert page.types() == ["empty"]
    shown.show(image, labels, reference=labels[::-1], title="a")
    shown.colour(np.full((6, 4), 7, np.uint8))
    shown.tell(["", "IoU 0.9"], ["", "missed"])
    shown.selected = 2
    (later,) = connect(shown)  # a page that comes later is told all the same
    np.testing.assert_array_equal(decode_labels(later.parts("open")[1], (12, 16)), labels[::-1])
    assert later.told("colours")["given"] == [True, False]
    assert later.parts("colours")[0] == bytes([7] * 24)
    assert later.told("tips")["cells"] == ["", "IoU 0.9"]
    shown.show_labels(labels[::-1])
    np.testing.assert_array_equal(decode_labels(later.parts("labels")[0], (12, 16)), labels[::-1])
    for wrong in ({"labels": labels[1:]}, {"reference": labels[1:]}):
        with pytest.raises(ImageError, match="the sizes must agree"):
            shown.show(image, **wrong)
    with pytest.raises(ImageError, match="the sizes must agree"):
        shown.show_labels(labels[1:])
    shown.show(image)
    assert later.told("colours")["given"] == [False, False]
    assert shown.selected == 0
