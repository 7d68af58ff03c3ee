"""Cellpose's own files: what it saves is read, and nothing in them is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from scellseg_lib import cellpose_files, export, readers
from scellseg_lib.data import load_dataset
from scellseg_lib.errors import ImageError


def masks() -> np.ndarray:
    labels = np.zeros((9, 11), np.int32)
    labels[1:4, 1:5], labels[5:8, 6:10] = 1, 3
    return labels


def saved(path: Path, content: object, protocol: int = 3, numpy_1: bool = False) -> Path:
    """Save as ``np.save`` does, by another protocol, or as NumPy 1 did."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    whole = np.empty((), dtype=object)
    whole[()] = content
    pickled = pickle.dumps(whole, protocol=protocol)
    if numpy_1:
        assert b"numpy._core" in pickled
        pickled = pickled.replace(b"numpy._core", b"numpy.core")
    path.write_bytes(file.getvalue() + pickled)
    return path


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "A_seg.npy"
    cellpose_files.write_seg(file, masks(), "A.png")
    content = cellpose_files.read_seg(file)
    np.testing.assert_array_equal(content["masks"], masks())
    assert content["masks"].dtype == np.uint16
    assert content["filename"] == "A.png"
    assert f"{content['est_diam']:0.1f}" == "3.9"  # two cells of 12 px
    assert not content["outlines"][2, 2:4].any()  # the middle of a cell is no outline
    assert (content["outlines"][1, 1:5] == 1).all()
    assert np.load(file, allow_pickle=True).item().keys() == content.keys()  # as Cellpose does
    assert readers.read_masks(file).max() == 2


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("scalar", [np.float64(30.0), np.int64(30)])
def test_files_of_other_versions_are_read(tmp_path: Path, protocol: int, scalar) -> None:
    content = {"masks": masks().astype(np.uint16), "est_diam": scalar, "flows": [[], [masks()]]}
    found = cellpose_files.read_seg(saved(tmp_path / "A_seg.npy", content, protocol))
    assert found["est_diam"] == 30
    np.testing.assert_array_equal(found["flows"][1][0], masks())


def test_files_of_numpy_1_are_read(tmp_path: Path) -> None:
    file = saved(tmp_path / "A_seg.npy", {"masks": masks()}, numpy_1=True)
    np.testing.assert_array_equal(cellpose_files.read_seg(file)["masks"], masks())


class Harmful:
    """Makes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    content = {"masks": masks(), "filename": Harmful(tmp_path / "touched")}
    file = saved(tmp_path / "A_seg.npy", content)
    with pytest.raises(ImageError, match=r"A_seg\.npy: .*which could run a program.*as PNG"):
        cellpose_files.read_seg(file)
    assert not (tmp_path / "touched").exists()
    np.load(file, allow_pickle=True)
    assert (tmp_path / "touched").exists()  # so that the test would notice


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "A_seg.npy"
    for content in ({"outlines": masks()}, {"masks": masks()[None]}, {"masks": masks() * 0.5}, [1]):
        with pytest.raises(ImageError, match="no masks of one 2D image"):
            cellpose_files.read_seg(saved(file, content))
    np.save(file, masks())
    with pytest.raises(ImageError, match="a plain array"):
        readers.read_masks(file)
    cellpose_files.write_seg(file, masks())
    whole = file.read_bytes()
    for size in (0, 5, 60, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:size])
        with pytest.raises(ImageError, match="Open it in Cellpose"):
            cellpose_files.read_seg(file)
    with pytest.raises(ImageError, match="Check the path"):
        cellpose_files.read_seg(tmp_path / "B_seg.npy")


def test_a_folder_of_cellpose_is_a_data_set(tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((9, 11), 7, np.uint8))
    cellpose_files.write_seg(tmp_path / "A_seg.npy", masks())
    cellpose_files.write_seg(tmp_path / "B_seg.npy", masks())
    readers.write_labels(tmp_path / "B_masks.png", (masks() == 1).astype(np.int32))
    data = load_dataset(tmp_path)
    assert {s.name: s.split for s in data} == {"A": "shot", "B": "shot", "C": "query"}
    assert [s.masks.max() for s in data.shot] == [2, 1]  # masks on their own come first


def test_export_to_cellpose(tmp_path: Path) -> None:
    readers.write_labels(tmp_path / "A_masks.png", masks())
    image, asked = tmp_path / "A.png", (tmp_path / "A_masks.png", tmp_path, ["cellpose"])
    cv2.imwrite(str(image), np.full((9, 11), 7, np.uint8))
    assert export.export(*asked, images=image).written == 1
    assert readers.read_masks(tmp_path / "A_seg.npy").max() == 2
    assert cellpose_files.read_seg(tmp_path / "A_seg.npy")["filename"] == str(image)
    assert export.export(*asked, overwrite=True).written == 1
    assert cellpose_files.read_seg(tmp_path / "A_seg.npy")["filename"] == ""
    readers.write_labels(tmp_path / "A_masks.png", np.zeros((9, 11), np.int32))
    export.export(*asked, overwrite=True)
    assert cellpose_files.read_seg(tmp_path / "A_seg.npy")["est_diam"] == 30


def test_masks_that_cellpose_has_saved_as_png_count_where_there_are_no_others(tmp_path) -> None:
    for name in ("A", "B"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((9, 11), 7, np.uint8))
    readers.write_labels(tmp_path / "A_cp_masks.png", masks())
    assert {s.name: s.split for s in load_dataset(tmp_path)} == {"A": "shot", "B": "query"}
    readers.write_labels(tmp_path / "B_masks.png", masks())
    assert {s.name: s.split for s in load_dataset(tmp_path)} == {"A": "query", "B": "shot"}
