"""Cellpose's files give their masks, and nothing that they hold is ever called."""

import copyreg
import os
import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path, PosixPath
from pickle import dumps

import numpy as np
import pytest

from scellseg_lib.errors import ImageError
from scellseg_lib.files.images import read_masks
from scellseg_lib.files.seg_npy import read_seg, write_seg

# Saved by the interface of Cellpose 3.1.1.2, with numpy 2.0.2: of three rectangles drawn by
# arithmetic, the second was deleted there.
BY_CELLPOSE = Path(__file__).parents[1] / "data" / "cellpose_seg.npy"
CELLS = np.zeros((24, 32), np.int32)
CELLS[2:10, 3:12], CELLS[5:18, 16:28] = 1, 2


def save(path: Path, steps: bytes) -> Path:
    """Put a pickle into a file as NumPy does."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(steps)
    return path


def boxed(contents: object, protocol: int = 4) -> bytes:
    box = np.empty((), object)
    box[()] = contents
    return dumps(box, protocol)


def test_a_file_of_cellposes_interface_is_read():
    seg = read_seg(BY_CELLPOSE)
    np.testing.assert_array_equal(seg["masks"], CELLS)
    assert (seg["filename"], seg["ismanual"].tolist()) == ("cells.tif", [False, False])
    assert seg["colors"].shape == (2, 3)
    assert seg["normalize_params"]["percentile"] == [1.0, 99.0]
    ((_, what, (rows, columns)),) = seg["manual_changes"]
    assert what == "removed mask"
    removed = {*zip(rows.tolist(), columns.tolist(), strict=True)}
    assert removed == {*product(range(12, 20), range(4, 10))}


def test_what_is_written_is_read_again(tmp_path):
    path, image = tmp_path / "A_seg.npy", np.full((24, 32, 3), 700, np.uint16)
    write_seg(path, CELLS, img=image, filename="A.tif")
    seg, edge = read_seg(path), read_seg(path)["outlines"]
    np.testing.assert_array_equal(seg["masks"], CELLS)
    np.testing.assert_array_equal(seg["img"], image)
    assert (seg["img"].dtype, seg["filename"], len(seg["ismanual"])) == (np.uint16, "A.tif", 2)
    assert seg["est_diam"] == pytest.approx(np.median(2 * np.sqrt(np.array([72, 156]) / np.pi)))
    assert edge.dtype == np.uint16
    assert (edge[2:10, 3:12] == 1).sum() == 2 * (8 + 9) - 4
    assert not edge[CELLS == 0].any()
    assert [file.name for file in tmp_path.iterdir()] == ["A_seg.npy"]
    steps = path.read_bytes()  # NumPy 1 finds what it needs
    assert b"numpy._core" not in steps
    assert steps.count(b"cnumpy.core.multiarray\n_reconstruct\n") == 1
    for masks in (np.zeros((4, 5), np.int32), np.arange(90_000).reshape(300, 300)):
        write_seg(path, masks)
        np.testing.assert_array_equal(read_seg(path)["masks"], masks)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("core", [b"numpy._core", b"numpy.core"])
def test_plain_values_and_arrays_of_any_numpy(tmp_path, protocol, core):
    masks, shared = np.asfortranarray(CELLS.astype(">u2")), ["a", 1.5]
    contents = {
        "masks": masks,
        "diameter": np.float64(30.5),
        "path": Path("folder") / "A.tif",  # as scripts give it to Cellpose
        "plain": (None, True, False, -1, 255, 70000, -(10**30), 1e300),
        "nested": {"of": [shared, shared, (), {}, ("x",)], "raw": b"\0\xff"},
        "arrays": [np.ones((2, 3), np.float32), masks, np.zeros((0, 3)), CELLS > 0],
        "objects": np.array([None, {"a": 1}], object),
        "words": np.array(["ab", "ç"]),
    }
    steps = boxed(contents, protocol)
    if protocol == 4 and core == b"numpy.core":  # there a name has its length before it
        steps = steps.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    seg = read_seg(save(tmp_path / "a_seg.npy", steps.replace(b"numpy._core", core)))
    np.testing.assert_array_equal(seg["masks"], CELLS)
    assert (float(seg["diameter"]), seg["path"]) == (30.5, ("folder", "A.tif"))
    assert (seg["plain"], seg["nested"]) == (contents["plain"], contents["nested"])
    for found, expected in zip(seg["arrays"], contents["arrays"], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert seg["objects"].tolist() == [None, {"a": 1}]
    assert seg["words"].tolist() == ["ab", "ç"]


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the second in Python 3.13
@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"])
def test_paths_of_any_python(tmp_path, module, name):
    steps = boxed({"masks": CELLS, "filename": PosixPath("folder/A.tif")}, 3)
    steps = steps.replace(b"cpathlib\nPosixPath", f"c{module}\n{name}".encode())
    assert read_seg(save(tmp_path / "a_seg.npy", steps))["filename"] == ("folder", "A.tif")


MASKS = [(CELLS.astype(kind), CELLS) for kind in ("u1", "i2", "<u4", ">i4", "i8")]
MASKS += [(CELLS % 2 > 0, CELLS % 2), (CELLS[None], CELLS)]
MASKS += [(CELLS - 1, CELLS)]  # the first versions had the background at -1


@pytest.mark.parametrize(("masks", "expected"), MASKS)
def test_masks_of_all_versions(tmp_path, masks, expected):
    path = save(tmp_path / "a_seg.npy", boxed({"masks": masks}))
    np.testing.assert_array_equal(read_masks(path), expected)


class Evil:
    """Calls what it is told to as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


class Plain:
    """An object that would be made without a call."""


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


SHAPES = ((2, 4), (10**6, 10**6), (2**62, 2**62), (-1, 3), (-2, -3))  # of 12 bytes
LIES = [lying((2, 3), None), *(lying(shape, bytes(12)) for shape in SHAPES)]
LIES += [lying((1, 1), bytes(8), b"O8").replace(b"B\x08\0\0\0" + bytes(8), b"]")]
LIES += [lying((1, 1), bytes(64), k) for k in (b"O8", b"U9", b"V4", b"c8", b"M8", b"??")]
BOMBS = [
    b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",  # bytes of a terabyte
    b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc.",  # and text
    b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",  # and bytes that can be changed
    b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.",
    b"\x80\x04Nr\xff\xff\xff\xff.",  # the last place of a memo
    b"\x80\x04\x8b\xff\xff\xff\x7f1.",  # a number of two milliard bytes
    b"\x80\x03" + b"]" * 100_000 + b".",
    b"\x80\x03}" + b")" + b"\x85" * 9_000 + b"Ns.",  # a key that takes all of the stack
    in_a_file(lying((10**4, 10**4), None)),
]
EVIL = Evil(os.system, "touch called")
EXTRA = [
    *((Evil(*call), f"it asks for '{said}'") for call, said in (
        ((os.system, "true"), "(posix|nt) system"), ((eval, "1"), "builtins eval"),
        ((np.load, "a.npy"), "numpy load"), ((np.frombuffer, b""), "numpy frombuffer"))),
    (Plain(), "a step NEWOBJ"),
    (np.random.default_rng(0), "it asks for 'numpy.random"),
    ({1, 2}, "a step EMPTY_SET"),
    *((keys, "it is foreign") for keys in ({3: "no text"}, {((1,),): 2}, {(1,): 2, "more": 3})),
]  # fmt: skip
OTHERS = [{"outlines": CELLS}, [1, 2], "text", None]
OTHERS += [{"masks": [[0, 1]]}, {"masks": np.stack([CELLS] * 3)}]  # a stack
OTHERS += [{"masks": np.zeros((2, 2), kind)} for kind in (float, complex, "U1", object, "u8")]
OTHERS += [{"masks": np.zeros((0, 2), int)}]
# What a file holds, and what is said.
REFUSED = [
    *((boxed({"masks": CELLS, "extra": one}, protocol), "trust its origin, open it in Cellpose")
      for protocol in range(6) for one in (EVIL, np.array([EVIL], object))),
    *((boxed({"masks": CELLS, "extra": extra}), said) for extra, said in EXTRA),
    *((in_a_file(lie), "") for lie in LIES),
    *((steps, "") for steps in (
        *BOMBS,
        b"cos\nsystem\n(S'touch called'\ntR.",
        b"(S'touch called'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch called'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch called\x85R.",
        b"\x80\x04]\x8c\x06system\x93.",  # a module that is a list
        b"\x80\x02\x82\x01)R.",  # by number
        b"Pposix\n.",  # by a name of one's own
        b"cnumpy.core.os\nsystem\n(X\x0c\0\0\0touch calledtR.",
        b"cnumpy\nndarray\n(K\x05tR.",
        b"cnumpy\nndarray\n}X\x01\0\0\0aK\x01sb.",
        b"cnumpy\ndtype\n(X\x02\0\0\0u2tR}X\x05\0\0\0buildNsb.",  # to change what is built
        b"cnumpy\ndtype\n}X\x01\0\0\0aK\x01sb.",
        b"cnumpy\ndtype\nN}X\x0c\0\0\0__defaults__)s\x86b.",  # to change what builds
        b"cpathlib\nPosixPath\nN}X\x0c\0\0\0__defaults__)s\x86b.",
        b"cnumpy.core.multiarray\n_reconstruct\nX\x01\0\0\0a\x85RX\x01\0\0\0bX\x01\0\0\0cs.",
        b"0.",
        b"t.",
        b"h\x07.",
        b".",
    )),
]  # fmt: skip
ASKED = [(read_seg, *row) for row in REFUSED] + [(read_masks, boxed(one), "") for one in OTHERS]


@pytest.mark.parametrize(("read", "steps", "said"), ASKED, ids=lambda _: "")
def test_what_is_refused_is_named_and_not_called(tmp_path, monkeypatch, read, steps, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("scellseg_lib.files.seg_npy.STEPS", 10_000)
    path = save(tmp_path / "a_seg.npy", steps)
    copyreg.add_extension("os", "system", 1)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=rf"a_seg\.npy.*{said}"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000  # not far beyond the file's size
    finally:
        tracemalloc.stop()
        copyreg.remove_extension("os", "system", 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a_seg.npy"]


def test_what_is_shared_is_not_multiplied_and_arrays_are_of_the_bytes_that_are_there(tmp_path):
    one: list[object] = ["a"]
    for _ in range(60):  # 2 to the power of 60 leaves, would one walk them all
        one = [one, one]
    assert len(read_seg(save(tmp_path / "a_seg.npy", boxed({"masks": CELLS, "x": one})))["x"]) == 2
    steps = in_a_file(lying((2, 3), bytes(12)))  # is no lie
    assert read_seg(save(tmp_path / "b_seg.npy", steps))["masks"].shape == (2, 3)


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "a_seg.npy", CELLS)
    with pytest.raises(ImageError, match="not as Cellpose saves it"):
        read_masks(tmp_path / "a_seg.npy")
    with pytest.raises(ImageError, match="No such file"):
        read_seg(tmp_path / "absent_seg.npy")
