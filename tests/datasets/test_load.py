"""Samples, data sets, folders, and what is done to the pixels."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from scellseg_lib.datasets import manifest, synthetic
from scellseg_lib.datasets.load import (
    find_readable,
    load_dataset,
    load_folder,
    load_pretraining_subset,
)
from scellseg_lib.errors import DatasetError, ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.files.seg_npy import write_seg
from scellseg_lib.samples import Dataset, Sample, normalise, resize, resize_masks

SHAPE = (6, 8)


def sample(
    name: str = "a", split: str = "shot", side: int = 2, shape: tuple[int, int] = SHAPE
) -> Sample:
    """One square cell of `side` px in the corner."""
    masks = np.zeros(shape, np.int32)
    masks[:side, :side] = 1
    style = split.partition("contrast:")[2] or None
    return Sample(name, lambda: np.zeros((2, *shape), np.float32), lambda: masks, split, style)


def dataset(*samples: Sample) -> Dataset:
    return Dataset("some", "Some images", "CC0", samples)


POOL = dataset(*(sample(f"s{i}") for i in range(10)), sample("q", "query"))


def write(folder: Path, *names: str) -> Path:
    """Files of one constant value each: the number of the name in the order given."""
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        readers.write_labels(path, np.full(SHAPE, value))
    return folder


# Samples


def test_files_are_read_once_and_when_needed() -> None:
    reads: list[str] = []

    def reader(what: str, array: np.ndarray) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            reads.append(what)
            return array

        return read

    one = Sample("a", reader("image", np.zeros((2, 3, 4))), reader("masks", np.ones((3, 4), int)))
    assert reads == []
    assert one.masks is one.masks
    assert reads == ["masks"]
    assert one.image.dtype == np.float32
    assert one.masks.dtype == np.int32
    assert one.image is one.image
    assert reads == ["masks", "image"]


@pytest.mark.parametrize("first", ["image", "masks"])
def test_image_and_masks_of_different_sizes(first: str) -> None:
    one = Sample("B05", lambda: np.zeros((2, 6, 8)), lambda: np.zeros((8, 6), np.int32))
    getattr(one, first)
    with pytest.raises(ImageError, match=r"B05: the image is of 6 x 8 px, its masks of 8 x 6 px"):
        _ = one.masks if first == "image" else one.image


@pytest.mark.parametrize("shape", [(6, 8), (3, 6, 8), (2, 6, 8, 1)])
def test_an_image_has_two_planes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"\(2, H, W\)"):
        _ = Sample("a", lambda: np.zeros(shape)).image


def test_diameter_is_the_median_over_cells() -> None:
    masks = np.zeros((20, 20), np.int32)
    masks[0, :4], masks[2:6, :4], masks[10:18, :8] = 1, 2, 4  # areas 4, 16, 64; there is no 3
    one = Sample("a", lambda: np.zeros((2, 20, 20)), lambda: masks)
    assert one.diameter == pytest.approx(2 * np.sqrt(16 / np.pi))


def test_diameter_without_cells_is_nan() -> None:
    assert np.isnan(sample(side=0).diameter)


def test_an_unlabelled_sample_says_so() -> None:
    one = sample("B05")
    assert one.masks.any()
    bare = one.without_masks()
    assert (bare.name, bare.split) == ("B05", "shot")
    for what in ("masks", "diameter"):
        with pytest.raises(DatasetError, match="B05: the image has no masks"):
            getattr(bare, what)


# Data sets


def test_a_slice_is_a_dataset_with_the_same_card() -> None:
    part = POOL[2:4]
    assert isinstance(part, Dataset)
    assert (part.name, part.licence, part.channels) == ("some", "CC0", ("gray", "none"))
    assert [s.name for s in part] == ["s2", "s3"]
    assert POOL[-1].name == "q"
    assert len(POOL) == 11
    with pytest.raises(dataclasses.FrozenInstanceError):
        POOL.name = "other"  # type: ignore[misc]


def test_splits() -> None:
    mixed = dataset(
        sample("a", "pretrain+contrast:x"), sample("b", "pretrain"), sample("c", "query")
    )
    assert [s.name for s in mixed.split("pretrain")] == ["a", "b"]
    assert [s.name for s in mixed.split("contrast:x")] == ["a"]
    assert [s.name for s in mixed.query] == ["c"]
    with pytest.raises(DatasetError, match=r"no images for 'shot'.*contrast:x, pretrain, query"):
        _ = mixed.shot
    with pytest.raises(DatasetError, match="no splits"):
        _ = dataset(sample("a", "")).split("general_test")


def test_styles_keep_their_order() -> None:
    names = ["contrast:z", "contrast:a", "contrast:z", "query"]
    styles = dataset(*(sample(str(i), name) for i, name in enumerate(names))).styles()
    assert {style: [s.name for s in part] for style, part in styles.items()} == {
        "z": ["0", "2"],
        "a": ["1"],
    }
    assert list(styles) == ["z", "a"]
    assert POOL.styles() == {}


@given(st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_shots_are_drawn_without_replacement_and_nested(n: int, seed: int) -> None:
    drawn = [s.name for s in POOL.shots(n, seed)]
    assert len(set(drawn)) == n
    assert "q" not in drawn
    assert drawn == [s.name for s in POOL.shots(10, seed)][:n]


def test_shots_follow_the_documented_generator() -> None:
    order = np.random.default_rng(3).permutation(10)[:4]
    assert [s.name for s in POOL.shots(4, seed=3)] == [f"s{i}" for i in order]
    assert [s.name for s in POOL.shots(10)] != [s.name for s in POOL.shots(10, seed=1)]


@pytest.mark.parametrize("n", [11, 0, -1])
def test_shots_beyond_the_pool(n: int) -> None:
    with pytest.raises(DatasetError, match=f"{n} shots were asked for, the pool .* holds 10"):
        POOL.shots(n)


def test_diameter_of_a_set_leaves_images_without_cells_out() -> None:
    both = dataset(sample(side=2), sample(side=0), sample(side=4))
    assert both.diameter == pytest.approx((4 + 8) / 2 / np.sqrt(np.pi))
    assert np.isnan(dataset(sample(side=0)).diameter)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("plane", [0, 1])
def test_an_image_that_is_no_number_is_refused(bad: float, plane: int) -> None:
    image = np.zeros((2, *SHAPE))
    image[plane, 3, 3] = bad
    with pytest.raises(ImageError, match=r"odd: an image holds NaN or infinity"):
        _ = Sample("odd", lambda: image).image


@pytest.mark.parametrize("masks", [np.full(SHAPE, 1.5), np.full(SHAPE, -1), np.ones((2, *SHAPE))])
@pytest.mark.parametrize("times", [1, np.nan, 3e9])
def test_masks_that_are_no_labels_are_refused(masks: np.ndarray, times: float) -> None:
    with pytest.raises(ImageError, match=r"odd: masks are whole numbers from 0 to"):
        _ = Sample("odd", lambda: np.zeros((2, *SHAPE)), lambda: masks * times).masks


def test_masks_of_whole_floats_are_labels() -> None:
    masks = Sample("a", lambda: np.zeros((2, *SHAPE)), lambda: np.full(SHAPE, 2.0, ">f4")).masks
    assert masks.dtype == np.int32
    assert (masks == 2).all()


def test_a_set_without_masks() -> None:
    bare = POOL.without_masks()
    assert len(bare) == len(POOL)
    assert all(s.read_masks is None for s in bare)
    assert POOL[0].read_masks is not None


# Folders


def test_scellseg_layout(tmp_path: Path) -> None:
    write(
        tmp_path,
        *("shot/w10_img.png", "shot/w10_masks.png", "shot/w9_img.tif", "shot/w9_masks.png"),
        *("query/w11_img.png", "query/w2_img.png", "query/w2_masks.tif", "query/notes_gfp.png"),
    )
    (tmp_path / "shot" / "notes.txt").write_text("not an image")
    found = load_dataset(tmp_path)
    assert [s.name for s in found] == ["w9", "w10", "w2", "w11"]
    assert [s.name for s in found.shot] == ["w9", "w10"]
    assert [s.read_masks is None for s in found.query] == [False, True]
    assert found[0].image[0].max() == 2  # w9_img.tif, the third written
    assert found.name == tmp_path.name
    assert load_dataset(str(tmp_path))[3].name == "w11"


def test_cellpose_layout(tmp_path: Path) -> None:
    write(tmp_path, "a_img.png", "a_masks.png", "b_img.png", "c_img.TIF", "a_flows.tif")
    found = load_folder(tmp_path)
    assert [(s.name, s.split) for s in found] == [("a", "shot"), ("b", "query"), ("c", "query")]


def test_images_of_any_name(tmp_path: Path) -> None:
    write(tmp_path, "well 2.tif", "well 10.ome.tif", "well 2_masks.png", "well 2_flows.tif")
    (tmp_path / ".well 3.png").write_bytes(b"hidden")
    found = load_folder(tmp_path)
    assert [(s.name, s.split) for s in found] == [("well 2", "shot"), ("well 10", "query")]


def test_shots_without_masks_are_listed(tmp_path: Path) -> None:
    write(tmp_path / "shot", "a_img.png", "b_img.png", "b_masks.png", "c_img.png")
    with pytest.raises(DatasetError, match=r"images without masks: a_img\.png, c_img\.png"):
        load_folder(tmp_path)


@pytest.mark.parametrize("part", ["", "shot", "query"])
def test_masks_without_an_image_are_listed(tmp_path: Path, part: str) -> None:
    write(tmp_path / part, "a_img.png", "a_masks.png", "x_masks.png", "y_masks.tif")
    with pytest.raises(DatasetError, match=r"masks without an image: x_masks\.png, y_masks\.tif"):
        load_folder(tmp_path)


@pytest.mark.parametrize("twins", [("a_img.png", "a_img.tif"), ("a_masks.png", "a_masks.tif")])
def test_files_of_the_same_name(tmp_path: Path, twins: tuple[str, str]) -> None:
    write(tmp_path, "a_img.png", "a_masks.png", *twins)
    with pytest.raises(DatasetError, match=f"of the same name: {twins[0]}, {twins[1]}"):
        load_folder(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        load_folder(tmp_path)
    (tmp_path / "shot").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        load_folder(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        load_folder(tmp_path / "absent")


def test_channels_and_axes_reach_the_reader(tmp_path: Path) -> None:
    pages = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "a_img.tif", pages, metadata=None, photometric="minisblack")
    with pytest.raises(ImageError, match="does not say what its pages are"):
        _ = load_folder(tmp_path)[0].image
    found = load_folder(tmp_path, ("green", "red"), axes="CYX")
    assert found.channels == ("green", "red")
    np.testing.assert_array_equal(found[0].image, pages[[1, 0]])


def test_channels_and_page_of_a_folder_by_load_dataset(tmp_path: Path) -> None:
    pages = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)
    tifffile.imwrite(tmp_path / "a_img.tif", pages, metadata=None, photometric="minisblack")
    with pytest.raises(ImageError, match="3 channels that differ, and none is named"):
        _ = load_dataset(tmp_path, axes="CYX")[0].image
    named = load_dataset(str(tmp_path), channels=("2", "0"), axes="CYX")
    np.testing.assert_array_equal(named[0].image, pages[[2, 0]])
    one = load_dataset(tmp_path, page=1)
    assert one.channels == ("gray", "none")
    np.testing.assert_array_equal(one[0].image[0], pages[1])


@pytest.mark.parametrize("options", [{"channels": ("red", "none")}, {"axes": "CYX"}, {"page": 0}])
@pytest.mark.parametrize("name", ["synthetic", "bbbc010_elegans"])
def test_named_sets_say_themselves_which_planes(name: str, options: dict) -> None:
    with pytest.raises(DatasetError, match=rf"{name}.* says itself which planes to read"):
        load_dataset(name, **options)


def test_a_folder_without_annotations_says_how_to_annotate(tmp_path: Path) -> None:
    found = load_folder(write(tmp_path / "plate", "a.png", "b.png"))
    needed = r"none of the 2 images of 'plate' is annotated.*NAME_masks\.png.*1, 2"
    with pytest.raises(DatasetError, match=needed):
        found.shots(1)


# Names


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match=r"'bbbc'.*bbbc010_elegans.*synthetic_worms"):
        load_dataset("bbbc")
    with pytest.raises(DatasetError, match=r"'all'.*one.*general"):
        load_pretraining_subset("all")


def test_a_set_without_files_says_where_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    needed = r"`scellseg data fetch bbbc010_elegans`.*SCELLSEG_DATA"
    with pytest.raises(DatasetError, match=rf"lacks 98 of its files \(.*{needed}"):
        load_dataset("bbbc010_elegans")
    with pytest.raises(DatasetError, match=r"lacks all its files.*data fetch cellpose"):
        load_dataset("cellpose")  # its files are found, not listed


@pytest.fixture
def wrong_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BBBC010 with all its files, all of a wrong size."""
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    entries = manifest.load_manifest("bbbc010_elegans").entries()
    write(tmp_path / "bbbc010_elegans", *(f for e in entries for f in (e.image, e.masks)))


@pytest.mark.usefixtures("wrong_sizes")
def test_an_image_must_be_of_the_size_in_its_manifest() -> None:
    worms = load_dataset("bbbc010_elegans").without_masks()
    with pytest.raises(ImageError, match=r"6 x 8 px, the manifest of 520 x 696 px"):
        _ = worms[0].image


@pytest.mark.usefixtures("wrong_sizes")
def test_a_name_is_no_folder_unless_given_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_dataset("bbbc010_elegans").licence
    assert not load_dataset(Path("bbbc010_elegans")).licence


@pytest.mark.parametrize("name", ["synthetic", "synthetic_mito"])
def test_synthetic_sets_by_name(name: str) -> None:
    made = load_dataset(name)
    assert len(made.shots(3)) == 3
    assert made.query[0].image.shape[0] == 2


# Real images


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "pool", "query", "channels"),
    [
        ("bbbc010_elegans", 10, 39, ("gray", "none")),
        ("t98g_phase", 10, 13, ("gray", "none")),
        ("hela_phase_nuclei", 12, 20, ("green", "red")),
    ],
)
def test_evaluation_sets(
    real_data: Path, name: str, pool: int, query: int, channels: tuple[str, str]
) -> None:
    found = load_dataset(name)
    assert (len(found.shot), len(found.query), found.channels) == (pool, query, channels)
    with (real_data / "index.csv").open(encoding="utf-8", newline="") as file:
        rows = {r["image"]: r for r in csv.DictReader(file) if r["dataset"] == name}
    for one in (*found.shot[:2], *found.query[:2]):
        row = rows[f"{one.name}_img.png"]
        assert one.image.shape == (2, int(row["height"]), int(row["width"]))
        assert one.masks.max() == int(row["cells"])
        assert one.diameter == pytest.approx(float(row["median_diameter"]), abs=0.051)
        assert (one.image[1].max() > 0) == (channels[1] != "none")


@pytest.mark.real_data
def test_contrast_styles(real_data: Path) -> None:
    contrast = load_dataset("cellpose_contrast35")
    assert [len(part) for part in contrast.styles().values()] == [5] * 7
    assert len(contrast.split("pretrain")) == 35
    assert len(contrast.split("contrast:Kc167")) == 5
    assert contrast[0].image.max() > 255  # 16 bits


@pytest.mark.real_data
def test_pretraining_subsets_are_nested(real_data: Path) -> None:
    before: set[tuple[str, str]] = set()
    for subset in ("one", "fluor", "cell", "micro", "general"):
        parts = load_pretraining_subset(subset)
        names = {(part.name, s.name) for part in parts for s in part}
        assert before < names
        assert all("general_test" not in s.split for part in parts for s in part)
        before = names


def test_synthetic_subsets_are_nested_and_hold_no_kind_that_is_tested() -> None:
    names = [name for name in manifest.load_subsets() if name.startswith("synthetic")]
    images = [{s.name for part in load_pretraining_subset(n) for s in part} for n in names]
    assert all(less < more for less, more in pairwise(images))
    assert {name.split("_")[0] for name in images[-1]} == {*synthetic.KINDS} - {"worms", "phase"}
    whole = {sample.name for sample in load_dataset("synthetic_pretrain")}
    assert images[-1] < whole


def test_the_papers_subsets_are_splits_of_cellpose(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "cellpose"
    folder.mkdir()
    for number in (10, 88, 89, 400):
        for kind in ("img", "masks"):
            (folder / f"train_{number:03d}_{kind}.png").touch()
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    counts = {
        name: len(load_pretraining_subset(name)[0]) for name in ("Sneuro", "Sfluor", "Smicro")
    }
    assert counts == {"Sneuro": 2, "Sfluor": 3, "Smicro": 4}


def test_masks_that_cellpose_has_saved_count_where_there_are_no_others(tmp_path: Path) -> None:
    folder = write(tmp_path / "plate", "a.png", "b.png", "a_cp_masks.png")
    assert {s.name: s.split for s in load_folder(folder)} == {"a": "shot", "b": "query"}
    write(folder, "b_masks.png")
    assert {s.name: s.split for s in load_folder(folder)} == {"a": "query", "b": "shot"}


def test_masks_in_cellposes_own_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "plate", "a.png", "b.ome.tif", "c.png")
    masks = np.zeros((4, 5), np.int32)
    masks[1, 1], masks[2:, 3:] = 1, 2
    for name in ("a_seg.npy", "b.ome_seg.npy", ".c_seg.npy"):
        write_seg(folder / name, masks)
    found = {s.name: s for s in load_folder(folder)}
    assert {name: s.split for name, s in found.items()} == {"a": "shot", "b": "shot", "c": "query"}
    np.testing.assert_array_equal(readers.read_masks(folder / "b.ome_seg.npy"), masks)
    assert found["a"].read_masks is not None
    np.testing.assert_array_equal(found["a"].read_masks(), masks)
    write(folder, "c_cp_masks.png")  # masks saved on purpose: its own files may be a mere proposal
    write_seg(folder / "a.ome_seg.npy", masks)  # a second of its name, but none of them counts
    splits = {s.name: s.split for s in load_folder(folder)}
    assert splits == {"a": "query", "b": "query", "c": "shot"}


@pytest.mark.parametrize("part", ["", "shot", "query"])
def test_cellposes_files_are_named_after_the_image(tmp_path: Path, part: str) -> None:
    folder = write(tmp_path / part, "a_img.png")
    write_seg(folder / "a_img_seg.npy", np.ones((4, 5), np.int32))
    assert [(s.name, s.split) for s in load_folder(tmp_path)] == [("a", part or "shot")]
    write_seg(folder / "a_seg.npy", np.ones((4, 5), np.int32))
    with pytest.raises(DatasetError, match=r"same name: a_img_seg\.npy, a_seg\.npy"):
        load_folder(tmp_path)
    (folder / "a_img_seg.npy").rename(folder / "z_seg.npy")
    with pytest.raises(DatasetError, match=r"masks without an image: z_seg\.npy"):
        load_folder(tmp_path)


def test_images_that_cannot_be_read_are_told_apart() -> None:
    def broken() -> np.ndarray:
        raise ImageError("it is cut")

    good = sample("good")
    bad = Sample("bad", broken, lambda: np.zeros(SHAPE, np.int32))
    unlabelled = Sample("torn", good.read_image, broken)
    images = dataset(good, bad, unlabelled)
    kept, wrong = find_readable(images)
    assert [s.name for s in kept] == ["good", "torn"]
    assert wrong == ["it is cut."]
    assert [s.name for s in find_readable(images, masks=True)[0]] == ["good"]
    assert "image" not in vars(kept[0])  # no pixels are kept


# Pixels


def test_normalise_maps_the_percentiles_to_0_and_1_without_clipping() -> None:
    plane = np.arange(101, dtype=np.float32)[None]
    image = np.stack([plane, 1000 - 7 * plane])
    normalised = normalise(image)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[0], (plane - 1) / 98, atol=1e-6)
    np.testing.assert_allclose(normalised[1], 1 - (plane - 1) / 98, atol=1e-5)
    assert normalised.min() < 0
    assert normalised.max() > 1
    assert image[0, 0, 50] == 50


@pytest.mark.parametrize(("height", "kept"), [(0.0, False), (0.9e-3, False), (1.1e-3, True)])
def test_a_plane_of_next_to_no_range_becomes_zeros(height: float, kept: bool) -> None:
    image = np.zeros((2, 4, 4), np.float32)
    image[0, 2:], image[1] = height, 5
    normalised = normalise(image)
    assert normalised[0].any() == kept
    assert not normalised[1].any()


def test_nuclei_alone_are_not_to_be_segmented() -> None:
    image = np.zeros((2, 4, 4), np.float32)
    image[1, 2:] = 9
    assert not normalise(image).any()


def test_resize_is_linear_above_half_and_averages_below() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (2, 8, 8))
    twice = resize(ramp, 2)
    assert twice.shape == (2, 16, 16)
    np.testing.assert_allclose(twice[0, 5, 3:7], [1.25, 1.75, 2.25, 2.75])
    noise = np.random.default_rng(0).random((2, 16, 16), np.float32)
    blocks = noise.reshape(2, 4, 4, 4, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(resize(noise, 0.25), blocks, rtol=1e-5)


def test_resize_to_a_shape() -> None:
    image = np.zeros((2, 10, 15), np.float32)
    small = resize(image, 0.37)
    assert small.shape == (2, 4, 6)
    assert resize(small, (10, 15)).shape == image.shape
    assert resize(image, 1e-6).shape == (2, 1, 1)


def test_masks_are_resized_to_the_nearest_centre() -> None:
    masks = np.arange(9, dtype=np.int32).reshape(3, 3) * 70_000
    assert resize_masks(masks, 1 / 3).tolist() == [[4 * 70_000]]
    twice = resize_masks(masks, 2)
    assert twice.dtype == np.int32
    np.testing.assert_array_equal(twice, masks.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(resize_masks(twice, (3, 3)), masks)
