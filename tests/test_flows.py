"""Flows by a plain formula, and back to the masks that they came from."""

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext

import numba
import numpy as np
import pytest
from scipy import ndimage

from scellseg_lib.errors import ScellsegError
from scellseg_lib.flows import flow_errors, flows_to_masks, masks_to_flows, relabel, tidy
from scellseg_lib.metrics import average_precision


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def logit(masks: np.ndarray) -> np.ndarray:
    return np.where(masks > 0, 6, -6).astype(np.float32)


def round_trip(masks: np.ndarray, **settings: float) -> np.ndarray:
    return flows_to_masks(masks_to_flows(masks), logit(masks), **settings)  # type: ignore[arg-type]


def two_discs() -> np.ndarray:
    masks = np.zeros((80, 120), np.int32)
    masks[disc(masks.shape, (40, 40), 18)] = 1
    masks[disc(masks.shape, (40, 76), 17.5)] = 2
    return masks


def by_the_text(cell: np.ndarray, mean: bool) -> np.ndarray:
    """Flows of one cell, bool[H, W], written down plainly (docs/method.md, section 2).

    From the mean they take as many steps as Cellpose, whose boxes are wider by two pixels. They are
    0 where the heat is level, and all 0 where rounding chooses among pixels as near to the mean.
    """
    cell = np.pad(cell, 1)
    ys, xs = np.nonzero(cell)
    middle = np.mean if mean else np.median
    squares = (ys - middle(ys)) ** 2 + (xs - middle(xs)) ** 2
    nearest, tied = np.argmin(squares), (squares < squares.min() + 1e-9).sum() > 1
    heat = np.zeros(cell.shape)
    for _ in range(2 * (np.ptp(ys) + np.ptp(xs) + 2 + 4 * mean)):
        heat[ys[nearest], xs[nearest]] += 1
        rows = heat[:-2] + heat[1:-1] + heat[2:]
        heat[1:-1, 1:-1] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9 * cell[1:-1, 1:-1]
    slope = np.stack([heat[2:, 1:-1] - heat[:-2, 1:-1], heat[1:-1, 2:] - heat[1:-1, :-2]])
    length, heat, cell = np.hypot(*slope), heat[1:-1, 1:-1], cell[1:-1, 1:-1]
    return slope / np.where(cell & (length > 1e-5 * heat) & ~(tied & mean), length, np.inf)


def flows_of_cells(random: np.random.Generator):
    """Cells of any shape and number, some at the edge, some lines and dots; none touch."""
    masks = np.zeros(random.integers(5, 90, 2), np.int32)
    noise = ndimage.gaussian_filter(random.normal(size=masks.shape), random.uniform(0.5, 4))
    parts, n = ndimage.label(noise >= np.quantile(noise, random.uniform(0.3, 0.95)))
    masks, mean = np.append(0, random.permutation(900)[:n] + 1)[parts], random.random() < 0.5
    ours = masks_to_flows(masks, centre="mean" if mean else "median")
    theirs = np.where(masks, 0, ours)
    assert not theirs.any()
    for number, box in enumerate(ndimage.find_objects(masks), 1):
        if box is not None:
            theirs[:, *box] += by_the_text(masks[box] == number, mean)
    return ours * theirs.any(0), theirs


def differing_flows(n: int) -> list[int]:
    """Those of `n` random cases that differ from the plain formula; ``make fuzz`` asks for more."""
    cases = (flows_of_cells(np.random.default_rng(k)) for k in range(n))
    return [k for k, both in enumerate(cases) if not np.allclose(*both, 1e-3, 1e-3)]


def test_flows_of_cells_of_any_shape_are_those_of_the_text():
    assert differing_flows(20) == []


def test_labels_may_be_as_large_as_they_like_and_follow_the_raster_order():
    masks = np.zeros((10, 10), np.int32)
    masks[6:9, 1:4], masks[1:4, 6:9], masks[2:5, 1:4] = 1, 5, 3
    found = relabel(masks)
    assert (found[1, 6], found[2, 1], found[6, 1]) == (1, 2, 3)
    assert masks[1, 6] == 5  # the input is left alone
    masks = two_discs()
    for large in (70_000, 2_000_000_000, 3_000_000_000):
        sparse = np.where(masks == 2, np.int64(large), masks)
        np.testing.assert_array_equal(masks_to_flows(sparse), masks_to_flows(masks))


def test_what_cannot_be_is_an_error():
    with pytest.raises(ScellsegError, match=r"'middle' is unknown.*Use 'median' or 'mean'"):
        masks_to_flows(two_discs(), centre="middle")  # type: ignore[arg-type]
    for shape in ((2, 30, 21), (30, 20), (3, 30, 20)):
        with pytest.raises(ScellsegError, match=r"do not fit a map of shape \(30, 20\)"):
            flows_to_masks(np.zeros(shape, np.float32), np.zeros((30, 20), np.float32))


def test_touching_discs_a_cell_around_its_centre_and_a_large_one_come_back():
    masks = two_discs()
    np.testing.assert_array_equal(round_trip(masks), masks)
    # One component: it is the flow that tells them apart.
    np.testing.assert_array_equal(np.unique(masks[40, 23:93]), [1, 2])
    cup = disc((41, 41), (20, 20), 18) & ~disc((41, 41), (20, 20), 12)
    cup[:16] = False  # its median lies in its opening or on its wall
    np.testing.assert_array_equal(round_trip(cup.astype(np.int32), flow_threshold=0), cup)
    large = disc((500, 500), (250, 250), 175).astype(np.int32)
    assert average_precision(large, round_trip(large), [0.95])[0] == 1


def test_a_mask_whose_flow_disagrees_in_the_mean_square_is_dropped():
    masks = two_discs()
    flows = masks_to_flows(masks)
    flows[:, masks == 2] *= 0.2  # points the right way, but is far too short
    np.testing.assert_allclose(flow_errors(masks, flows)[1:], [0, 0.64], atol=0.01)
    for threshold, expected in ((0.4, masks == 1), (0.7, masks), (0, masks)):
        found = flows_to_masks(flows, logit(masks), flow_threshold=threshold)
        np.testing.assert_array_equal(found, expected)
    flows[:, masks == 2] = np.nan  # what is no number does no harm
    np.testing.assert_array_equal(flows_to_masks(flows, logit(masks)), masks == 1)


def test_pixels_under_the_cell_threshold_and_masks_under_the_minimal_size_are_dropped():
    masks = np.zeros((60, 60), np.int32)
    masks[5:10, 5:12] = 1  # 35 px
    masks[20:29, 20:31] = 2  # 99 px
    sizes = {minimum: round_trip(masks, min_size=minimum).max() for minimum in (1, 35, 36, 99, 100)}
    assert sizes == {1: 2, 35: 2, 36: 1, 99: 1, 100: 0}
    for threshold, expected in ((0.0, 2), (5.9, 2), (6, 0)):
        assert round_trip(masks, cell_threshold=threshold).max() == expected


@pytest.mark.parametrize(("radius", "n"), [(32, 1), (40, 0)])
def test_a_mask_over_two_fifths_of_the_image_is_dropped(radius: int, n: int):
    masks = disc((100, 100), (50, 50), radius).astype(np.int32)
    assert (masks.mean() > 0.4) == (n == 0)
    with nullcontext() if n else pytest.warns(UserWarning, match="50% of the image is left out"):
        assert round_trip(masks).max() == n
    np.testing.assert_array_equal(round_trip(masks, max_size_fraction=0.51), masks)


@pytest.mark.parametrize(("side", "gap"), [(3, 1), (3, 4), (2, 3)])
def test_cells_of_a_few_pixels_come_back_if_they_are_asked_for(side: int, gap: int):
    y, x = np.indices((12 * (side + gap),) * 2)
    inside = (y % (side + gap) < side) & (x % (side + gap) < side)
    masks = (inside * (1 + y // (side + gap) * 12 + x // (side + gap))).astype(np.int32)
    np.testing.assert_array_equal(round_trip(masks, min_size=side * side), masks)
    assert not round_trip(masks, min_size=side * side + 1).any()


def test_holes_are_filled_but_neighbours_in_them_stay():
    masks = np.zeros((40, 40), np.int32)
    masks[5:30, 5:30] = 4
    masks[10:14, 10:14] = 0
    masks[20:25, 20:25] = 9
    masks[17, 5:8] = 0  # a bay, open to the outside
    expected = masks.clip(max=1)
    expected[10:14, 10:14], expected[20:25, 20:25] = 1, 2
    np.testing.assert_array_equal(tidy(masks, 1), expected)


def by_threads(n: int, masks: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ways, with so many threads from here on."""
    numba.set_num_threads(n)
    return masks_to_flows(masks), flows_to_masks(noisy, logit(masks))


def test_flows_work_where_nothing_can_be_kept():
    """As where both the installation and the user's home are read-only."""
    code = "from numba.core import caching; caching.CodeLibraryCacheImpl._locator_classes = []\n"
    code += "import scellseg_lib.flows as f, numpy as np; print(f.masks_to_flows(np.eye(3)).shape)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "(2, 3, 3)\n"


def test_torch_keeps_the_threads_that_its_user_chose(monkeypatch):
    """They decide in which order the network adds up: other masks, by the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    code = "import scellseg_lib.flows as f, numpy as np, torch\n"
    code += "f.flows_to_masks(np.ones((2, 9, 9)), np.ones((9, 9))); print(torch.get_num_threads())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing(one_thread, monkeypatch):
    rng = np.random.default_rng(0)
    masks = np.zeros((300, 320), np.int32)
    for number in range(1, 60):
        masks[disc(masks.shape, tuple(rng.uniform(0, 300, 2)), rng.uniform(3, 25))] = number
    noisy = masks_to_flows(masks) + rng.normal(0, 0.3, (2, *masks.shape)).astype(np.float32)
    one = by_threads(1, masks, noisy)
    assert one[1].max() > 20
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")  # in a process of its own, as here it may be one
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        two = pool.submit(by_threads, 2, masks, noisy).result()
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours, theirs)
