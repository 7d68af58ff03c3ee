"""Cellpose's files give their masks, and nothing that they hold is ever called."""

from __future__ import annotations

import copyreg
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from pickle import dumps
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scellseg_lib.errors import ImageError
from scellseg_lib.files import images as readers
from scellseg_lib.files import seg_npy
from scellseg_lib.files.seg_npy import read_seg, write_seg

# Saved by the interface of Cellpose 3.1.1.2, with numpy 2.0.2: of three rectangles drawn by
# arithmetic, the second was deleted there.
BY_CELLPOSE = Path(__file__).parents[1] / "data" / "cellpose_seg.npy"


def cells() -> np.ndarray:
    masks = np.zeros((24, 32), np.int32)
    masks[2:10, 3:12] = 1
    masks[5:18, 16:28] = 2
    return masks


def save(path: Path, steps: bytes) -> Path:
    """Put a pickle into a file as NumPy does."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(steps)
    return path


def saved(path: Path, contents: object, protocol: int = 4) -> Path:
    box = np.empty((), object)
    box[()] = contents
    return save(path, dumps(box, protocol))


def test_a_file_of_cellposes_interface_is_read() -> None:
    seg = read_seg(BY_CELLPOSE)
    np.testing.assert_array_equal(seg["masks"], cells())
    assert seg["filename"] == "cells.tif"
    assert seg["ismanual"].tolist() == [False, False]
    assert seg["colors"].shape == (2, 3)
    assert seg["normalize_params"]["percentile"] == [1.0, 99.0]
    ((_, what, (rows, columns)),) = seg["manual_changes"]
    assert what == "removed mask"
    assert {*zip(rows.tolist(), columns.tolist(), strict=True)} == {
        (y, x) for y in range(12, 20) for x in range(4, 10)
    }


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path, image = tmp_path / "A_seg.npy", np.full((24, 32, 3), 700, np.uint16)
    write_seg(path, cells(), img=image, filename="A.tif")
    seg = read_seg(path)
    np.testing.assert_array_equal(seg["masks"], cells())
    np.testing.assert_array_equal(seg["img"], image)
    assert seg["img"].dtype == np.uint16
    assert seg["filename"] == "A.tif"
    assert len(seg["ismanual"]) == 2
    # Equal areas lie on both sides of the median of 72 and 156 px.
    assert seg["est_diam"] == pytest.approx(2 * np.sqrt(np.sqrt(72 * 156) / np.pi), rel=0.05)
    edge = seg["outlines"]
    assert edge.dtype == np.uint16
    assert (edge[2:10, 3:12] == 1).sum() == 2 * (8 + 9) - 4
    assert not edge[cells() == 0].any()
    assert [file.name for file in tmp_path.iterdir()] == ["A_seg.npy"]


def test_no_cells_and_many(tmp_path: Path) -> None:
    write_seg(tmp_path / "a_seg.npy", np.zeros((4, 5), np.int32))
    assert not read_seg(tmp_path / "a_seg.npy")["masks"].any()
    many = np.arange(300 * 300).reshape(300, 300)
    write_seg(tmp_path / "a_seg.npy", many)
    seg = read_seg(tmp_path / "a_seg.npy")
    assert seg["outlines"].dtype == np.uint32
    np.testing.assert_array_equal(seg["masks"], many)


def test_numpy_1_finds_what_it_needs(tmp_path: Path) -> None:
    write_seg(tmp_path / "a_seg.npy", cells())
    steps = (tmp_path / "a_seg.npy").read_bytes()
    assert b"numpy._core" not in steps
    assert steps.count(b"cnumpy.core.multiarray\n_reconstruct\n") == 1


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_plain_values_and_arrays_of_any_numpy(tmp_path: Path, protocol: int, core: bytes) -> None:
    masks = np.asfortranarray(cells().astype(">u2"))
    shared = ["a", 1.5]
    contents = {
        "masks": masks,
        "diameter": np.float64(30.5),
        "none": None,
        "path": Path("folder") / "A.tif",  # as scripts give it to Cellpose
        "numbers": (True, False, -1, 255, 70000, -(10**30), 1e300),
        "nested": {"of": [shared, shared, (), {}, ("x",)], "raw": b"\0\xff"},
        "flows": [np.ones((2, 3), np.float32), [], masks],
        "objects": np.array([None, {"a": 1}], object),
        "words": np.array(["ab", "ç"]),
        "empty": np.zeros((0, 3)),
        "bools": cells() > 0,
    }
    box = np.empty((), object)
    box[()] = contents
    steps = dumps(box, protocol)
    if core == b"numpy.core":
        if protocol == 4:  # there a name has its length before it
            longer, shorter = b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray"
            steps = steps.replace(longer, shorter)
        else:
            steps = steps.replace(b"numpy._core", core)
    seg = read_seg(save(tmp_path / "a_seg.npy", steps))
    np.testing.assert_array_equal(seg["masks"], cells())
    assert float(seg["diameter"]) == 30.5
    assert seg["none"] is None
    assert seg["path"] == ("folder", "A.tif")
    for key in ("numbers", "nested"):
        assert seg[key] == contents[key]
    np.testing.assert_array_equal(seg["flows"][0], np.ones((2, 3)))
    np.testing.assert_array_equal(seg["flows"][2], masks)
    assert seg["objects"].tolist() == [None, {"a": 1}]
    assert seg["words"].tolist() == ["ab", "ç"]
    assert seg["empty"].shape == (0, 3)
    np.testing.assert_array_equal(seg["bools"], cells() > 0)


@pytest.mark.parametrize("kind", ["u1", "i2", "<u4", ">i4", "i8", "b1"])
def test_masks_of_any_integers(tmp_path: Path, kind: str) -> None:
    masks = cells() % 2 if kind == "b1" else cells()
    path = saved(tmp_path / "a_seg.npy", {"masks": masks.astype(kind)})
    np.testing.assert_array_equal(readers.read_masks(path), masks)


def test_one_plane_is_flat_and_a_stack_is_refused(tmp_path: Path) -> None:
    one = saved(tmp_path / "a_seg.npy", {"masks": cells()[None]})
    np.testing.assert_array_equal(readers.read_masks(one), cells())
    stack = saved(tmp_path / "b_seg.npy", {"masks": np.stack([cells()] * 3)})
    with pytest.raises(ImageError, match=r"b_seg.npy: .*of the shape \(3, 24, 32\).*a stack"):
        readers.read_masks(stack)


def test_the_first_versions_had_the_background_at_minus_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a_seg.npy", {"masks": cells() - 1})
    np.testing.assert_array_equal(read_seg(path)["masks"], cells())


class Evil:
    """Calls what it is told to as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Plain:
    """An object that would be made without a call."""


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [False, True])
def test_nothing_in_a_file_is_called(tmp_path: Path, protocol: int, inside: bool) -> None:
    mark = tmp_path / "called"
    evil = Evil(os.system, f"touch {mark}")
    contents = {"masks": cells(), "extra": np.array([evil], object) if inside else evil}
    path = saved(tmp_path / "a_seg.npy", contents, protocol)
    with pytest.raises(
        ImageError, match=r"a_seg.npy.*If you trust its origin, open it in Cellpose"
    ):
        readers.read_masks(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (Evil(os.system, "true"), f"{os.name if os.name == 'nt' else 'posix'} system"),
        (Evil(eval, "1"), "builtins eval"),
        (Evil(np.load, "a.npy"), "numpy load"),
        (Evil(np.frombuffer, b""), "numpy frombuffer"),
        (Plain(), "a step NEWOBJ"),
        (np.random.default_rng(0), "random"),
        ({1, 2}, "EMPTY_SET"),
        ({3: "a key that is no text"}, "str"),
        ({((1,),): 2}, "str"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, extra: Any, said: str) -> None:
    path = saved(tmp_path / "a_seg.npy", {"masks": cells(), "extra": extra})
    with pytest.raises(ImageError, match=f"a_seg.npy.*{said}"):
        read_seg(path)


@pytest.mark.parametrize(
    "steps",
    [
        b"cos\nsystem\n(S'touch called'\ntR.",
        b"(S'touch called'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch called'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch called\x85R.",
        b"\x80\x04]\x8c\x06system\x93.",  # a module that is a list
        b"\x80\x02\x82\x01)R.",  # by number
        b"Pposix\n.",  # by a name of one's own
        b"cnumpy\nndarray\n(K\x05tR.",
        b"cnumpy\ndtype\n(X\x02\0\0\0u2tR}X\x05\0\0\0buildNsb.",  # to change what is built
        b"cnumpy\ndtype\n}X\x01\0\0\0aK\x01sb.",
        b"0.",
        b"t.",
        b"h\x07.",
        b".",
    ],
)
def test_odd_steps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("os", "system", 1)
    try:
        with pytest.raises(ImageError):
            read_seg(save(tmp_path / "a_seg.npy", steps))
    finally:
        copyreg.remove_extension("os", "system", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a_seg.npy"]


def lying(shape: tuple[int, ...], raw: bytes | None, kind: bytes = b"u2") -> bytes:
    """Steps of an array that says it is of another shape than its bytes."""
    sizes = b"".join(b"\x8a\x08" + size.to_bytes(8, "little", signed=True) for size in shape)
    what = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    kinds = b"cnumpy\ndtype\nX\x02\0\0\0" + kind + b"\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ"
    kinds += b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    held = b"N" if raw is None else b"B" + len(raw).to_bytes(4, "little") + raw
    return what + b"(K\x01(" + sizes + b"t" + kinds + b"\x89" + held + b"tb"


def in_a_file(array: bytes) -> bytes:
    """Steps of NumPy's box of one object, a dictionary with this array as its masks."""
    box = lying((), b"", b"O8").removesuffix(b"B\0\0\0\0tb")
    return b"\x80\x03" + box + b"](}X\x05\0\0\0masks" + array + b"setb."


def test_arrays_are_of_the_bytes_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.npy"
    honest = read_seg(save(path, in_a_file(lying((2, 3), bytes(12)))))
    assert honest["masks"].shape == (2, 3)
    with pytest.raises(ImageError):
        read_seg(save(path, in_a_file(lying((2, 3), None))))
    for shape in ((2, 4), (10**6, 10**6), (2**62, 2**62), (-1, 3), (-2, -3)):
        with pytest.raises(ImageError):
            read_seg(save(path, in_a_file(lying(shape, bytes(12)))))
    for kind in (b"O8", b"U9", b"V4", b"c8", b"M8", b"??"):
        with pytest.raises(ImageError):  # numbers are not taken for places in memory
            read_seg(save(path, in_a_file(lying((1, 1), bytes(64), kind))))


@pytest.mark.parametrize(
    "steps",
    [
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",  # bytes of a terabyte
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.",  # and text
        b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.",
        b"\x80\x04Nr\xff\xff\xff\xff.",  # the last place of a memo
        b"\x80\x04\x8b\xff\xff\xff\x7f1.",  # a number of two milliard bytes
        b"\x80\x03" + b"]" * 100_000 + b".",
        in_a_file(lying((10**4, 10**4), None)),
    ],
)
def test_no_file_grows_far_beyond_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: bytes
) -> None:
    monkeypatch.setattr(seg_npy, "STEPS", 10_000)
    path = save(tmp_path / "a_seg.npy", steps)
    tracemalloc.start()
    with pytest.raises(ImageError):
        read_seg(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000


def test_what_is_shared_is_not_multiplied(tmp_path: Path) -> None:
    one: list[object] = ["a"]
    for _ in range(60):  # 2 to the power of 60 leaves, would one walk them all
        one = [one, one]
    assert len(read_seg(saved(tmp_path / "a_seg.npy", {"masks": cells(), "x": one}))["x"]) == 2


def test_a_file_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a_seg.npy"
    write_seg(path, cells())
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ImageError):
            readers.read_masks(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_damage_is_an_error_or_other_values(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(BY_CELLPOSE.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    (tmp_path / "a_seg.npy").write_bytes(whole)
    try:
        masks = read_seg(tmp_path / "a_seg.npy")["masks"]
    except ImageError:
        return
    assert masks.dtype == np.int64


@pytest.mark.parametrize(
    "contents",
    [
        {"outlines": np.zeros((2, 2), int)},
        {"masks": [[0, 1]]},
        {"masks": np.zeros((2, 2))},
        {"masks": np.zeros((2, 2), complex)},
        {"masks": np.array([["a"]])},
        {"masks": np.array([[1, None]], object)},
        {"masks": np.zeros((0, 2), int)},
        [1, 2],
        "text",
        None,
    ],
)
def test_other_contents_are_refused(tmp_path: Path, contents: object) -> None:
    with pytest.raises(ImageError, match=r"a_seg.npy"):
        readers.read_masks(saved(tmp_path / "a_seg.npy", contents))


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a_seg.npy", cells())
    with pytest.raises(ImageError, match="not as Cellpose saves it"):
        readers.read_masks(tmp_path / "a_seg.npy")
    with pytest.raises(ImageError, match="No such file"):
        read_seg(tmp_path / "absent_seg.npy")
    (tmp_path / "a_seg.npy").write_bytes(b"")
    with pytest.raises(ImageError, match="empty"):
        readers.read_masks(tmp_path / "a_seg.npy")
