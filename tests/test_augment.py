"""Patches: image and masks warped alike, targets computed afterwards, scale and draws as told."""

import numpy as np
import pytest
import torch
from skimage.draw import disk

from scellseg_lib import Sample, augment, errors, representation
from scellseg_lib.augment import CROP_SIDES, PATCH, Source, labelled_batch, prepare
from scellseg_lib.augment import unlabelled_batch as unlabelled

FLOW, QUICK = representation.get("flow"), representation.get("unet2")


def disc_image(diameter: float, side: int = 200, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((side, side), np.int32)
    for i in range(n):
        centre = (side / 4 + side / 2 * (i // 2), side / 4 + side / 2 * (i % 2))
        masks[disk(centre, diameter / 2)] = i + 1
    return np.stack((masks > 0, np.zeros_like(masks))).astype(np.float32) * 1000, masks


def sample(diameter: float, **options) -> Sample:
    image, masks = disc_image(diameter, **options)
    return Sample("discs", lambda: image, lambda: masks)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_each_image_is_normalised_and_brought_to_30_px_by_its_own_masks_or_all_others():
    nothing = Sample("empty", lambda: disc_image(20)[0], lambda: np.zeros((200, 200), np.int32))
    small, empty, large = prepare([sample(20), nothing, sample(40)])
    assert [small.scale, empty.scale, large.scale] == pytest.approx([1.5, 1, 0.75], rel=0.02)
    assert set(np.unique(small.image)) == {0, 1}
    assert not small.image[1].any()
    assert not empty.masks.any()
    with pytest.raises(errors.TrainingError, match="no image has an annotated cell"):
        prepare([nothing])


def test_masks_are_needed_only_where_no_diameter_is_given():
    """That none of a query is looked at: tests/test_finetuning.py."""
    (source,) = prepare([sample(24).without_masks()], diameter=24)
    assert (source.masks, source.scale) == (None, 30 / 24)
    with pytest.raises(errors.DatasetError, match="no masks"):
        prepare([sample(24).without_masks()])


def test_large_cells_are_averaged_down_first():
    (source,) = prepare([sample(100, side=400)])
    assert source.scale == 1
    assert source.image.shape[1:] == source.masks.shape
    assert source.masks.shape[0] == pytest.approx(120, abs=2)
    assert np.sqrt((source.masks > 0).sum() / np.pi) == pytest.approx(30, rel=0.03)  # four discs
    assert set(np.unique(source.masks)) == {0, 1, 2, 3, 4}


def test_batches_have_the_shapes_of_the_paper_and_depend_on_the_numbers_alone():
    sources = prepare([sample(20), sample(30)])
    first, again, other = (labelled_batch(sources, FLOW, rng(seed), 3) for seed in (1, 1, 2))
    assert [part.shape for part in first] == [(3, 2, 224, 224), (3, 3, 224, 224)]
    assert {part.dtype for part in first} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    classes = labelled_batch(sources, representation.get("unet3"), rng(), size=2)[1]
    assert classes.shape == (2, 1, 224, 224)


def test_targets_lie_where_the_image_shows_cells():
    images, targets = labelled_batch(prepare([sample(24), sample(44)]), FLOW, rng(), size=12)
    shown, expected = images[:, 0].numpy() > 0.5, targets[:, 2].numpy() > 0.5
    assert expected.mean() > 0.02
    # Bilinear image, nearest masks: they differ on the outlines only.
    assert (shown & expected).sum() / (shown | expected).sum() > 0.95


def test_targets_are_those_of_the_warped_masks():
    """Vectors are right after a rotation: they point to the middle of the disc that is seen."""
    _, targets = labelled_batch(prepare([sample(40, n=1)]), FLOW, rng(3), size=12)
    cosines = []
    for dy, dx, cell in targets.numpy():
        ys, xs = np.nonzero(cell)
        if len(ys) and min(ys.min(), xs.min(), 223 - ys.max(), 223 - xs.max()) > 0:
            towards = np.stack((ys.mean() - ys, xs.mean() - xs))
            distance = np.hypot(*towards)
            dot = (dy[ys, xs] * towards[0] + dx[ys, xs] * towards[1])[distance > 2]
            cosines.append((dot / distance[distance > 2]).mean())
    assert len(cosines) >= 3
    assert min(cosines) > 0.98


def test_a_cell_cut_by_the_edge_keeps_its_centre():
    _, targets = labelled_batch(prepare([sample(30, side=360)]), FLOW, rng(0), size=40)
    dy, _, cell = targets.numpy()[:, :, 0].swapaxes(0, 1)  # of the first row
    assert ((cell > 0) & (dy < -0.9)).any()  # the flow leaves the patch: the centre is outside


def test_scale_is_drawn_from_075_to_125_and_angles_from_the_whole_circle(monkeypatch):
    (source,) = prepare([sample(30, side=100, n=1)])
    drawn, draw = [], augment._draw_affine
    note = lambda *a, **k: drawn.append(draw(*a, **k)) or drawn[-1]  # noqa: E731
    monkeypatch.setattr(augment, "_draw_affine", note)
    labelled_batch([source], QUICK, rng(), size=80)
    linear = np.array(drawn)[:, :, :2] / source.scale
    determinant = np.linalg.det(linear)
    scale = np.sqrt(np.abs(determinant))
    assert 0.75 <= scale.min() < 0.8
    assert 1.2 < scale.max() <= 1.25
    assert 25 < (determinant < 0).sum() < 55  # flipped with probability 0.5
    angle = np.degrees(np.arctan2(linear[:, 1, 1], -linear[:, 0, 1]))
    assert np.histogram(angle, bins=4, range=(-180, 180))[0].min() >= 8


def test_given_indices_are_taken_and_others_drawn_with_replacement():
    blank = Source(np.zeros((2, 50, 50), np.float32), np.zeros((50, 50), np.int32), 1.0)
    full = Source(np.ones((2, 500, 500), np.float32), np.zeros((500, 500), np.int32), 1.0)
    images, _ = labelled_batch([blank, full], QUICK, rng(), indices=[1, 0, 1])
    assert images.amax(dim=(1, 2, 3)).tolist() == [1, 0, 1]
    drawn, _ = labelled_batch([blank, full], QUICK, rng(), size=16)
    assert 2 < (drawn.amax(dim=(1, 2, 3)) > 0).sum() < 14


def test_translations_reach_the_whole_of_a_large_image_and_keep_to_a_long_one():
    image = np.broadcast_to(np.linspace(0.1, 1, 900, dtype=np.float32), (2, 300, 900))
    source = Source(np.ascontiguousarray(image), np.zeros((300, 900), np.int32), 1.0)
    images, _ = labelled_batch([source], QUICK, rng(), size=60)
    middle = images[:, 0, 112, 112].numpy()  # that of each patch is a place of the image
    assert 0.1 <= middle.min() < 0.3
    assert middle.max() > 0.8
    assert (images[:, 0] > 0).float().mean(dim=(1, 2)).min() > 0.6


@pytest.mark.parametrize("side", CROP_SIDES)
def test_crops_show_their_side_of_the_30_px_scale(side: int):
    sources = prepare([sample(60, side=300, n=1)], diameter=60)  # half the size at the 30-px scale
    patches = unlabelled(sources, rng(), side, size=40)
    assert patches.shape == (40, 2, PATCH, PATCH)
    area = int((patches[:, 0] > 0.5).sum(dim=(1, 2)).max())
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(30 * PATCH / side, rel=0.05)


def test_resized_crops_are_not_flipped_and_clipped_ones_are():
    # An L turns into itself by rotation, never into its mirror image.
    image = np.zeros((2, 60, 60), np.float32)
    image[0, 10:50, 10:14] = 1
    image[0, 46:50, 10:30] = 2
    for clipped in (False, True):
        patches = unlabelled([Source(image, None, 2.0)], rng(), PATCH, size=12, clipped=clipped)
        signs = []
        for patch in patches[:, 0].numpy():
            arms = (np.nonzero(abs(patch - value) < 0.2) for value in (1, 2))
            (ly, lx), (sy, sx) = (np.mean(arm, axis=1) - 111.5 for arm in arms)
            signs.append(ly * sx - lx * sy > 0)
        assert set(signs) == ({True, False} if clipped else {True})


def test_clipped_crops_are_filled_up_with_zeros_or_cut_and_keep_their_scale():
    whole = [Source(np.ones((2, 400, 700), np.float32), None, 2.0)]  # 800 x 1400 px at the scale
    # Turned, 217 px leave corners.
    for side, least, most in ((156, 0.75**2, 1.25**2), (290, 0.85, 1)):
        shares = unlabelled(whole, rng(), side, 60, clipped=True)[:, 0].mean(dim=(1, 2)).numpy()
        full = min((side / PATCH) ** 2, 1)
        assert (shares.min(), shares.max()) == pytest.approx((full * least, full * most), rel=0.1)
