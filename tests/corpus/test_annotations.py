"""Masks and their lists of cells: of one save or of another, of one window or of two."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files.export import export
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.workbench.editor import MaskEditor, MasksChanged
from scellseg_lib.workbench.experiment import Experiment, read_cells
from tests.corpus import expect

LABELS = np.zeros((20, 30), np.int32)
LABELS[2:5, 2:7], LABELS[9:13, 9:15] = 7, 312  # of 15 and 24 px


def kinds(cells) -> dict[int, str]:
    return dict(zip(cells["label"].tolist(), cells["class"].tolist(), strict=True))


RIGHT = {1: "tot", 2: "müde"}
# A list of cells, and what is read: classes by the numbers that the cells get.
LISTS = [
    ("label,area,class,note\n312,24,müde,\n7,15,tot,\n", RIGHT),
    ("label,class\n7,tot\n312,müde\n", RIGHT),
    ("\ufefflabel;area;class;note\r\n7;15;tot;\r\n312;24;müde;\r\n", RIGHT),
    ("label;class;note\n7;tot;\n312;müde;\n".encode("cp1252"), RIGHT),
    ("Label\tClass\n7\ttot\n312\tmüde\n", RIGHT),
    ("label,class\n312,müde\n", {2: "müde"}),  # written by hand
    ("label,class\n1,tot\n2,müde\n", ImageError),  # of masks that were numbered otherwise
    ("label,area,class\n7,24,müde\n312,15,tot\n", ImageError),  # as many, but other cells
    ("label,area,class\n7,15,tot\n", ImageError),
    ("label,class\n7,tot\n7,müde\n", ImageError),
    ("label,class\n-7,tot\n", ImageError),
    ("label,class\n99999999999999999999,tot\n", ImageError),
    ("label,class\n7.5,tot\n", ImageError),
    ("label,area,class\n7,,tot\n312,,müde\n", ImageError),
    ("a,b\n1,2\n", ImageError),
    ("", ImageError),
    (b"\x00\xff", ImageError),
]


@pytest.mark.parametrize(("text", "right"), LISTS)
def test_a_list_is_of_the_cells_that_it_names_or_of_none(tmp_path, text, right):
    masks, table = tmp_path / "A_masks.tif", tmp_path / "A_cells.csv"
    write_labels(masks, LABELS)
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = export(masks, tmp_path / "out", ["table", "geojson"])
    if right is ImageError:
        expect(lambda: read_cells(masks), ImageError, r"A_cells\.csv: .*Move it away")
        assert (done.written, done.failed["A"].where) == (0, table)
        return
    assert kinds(read_cells(masks)) == right
    exported = pd.read_csv(tmp_path / "out/A_measurements.csv", keep_default_na=False)
    assert exported["label_in_file"].tolist() == [7, 312]
    assert kinds(exported) == {1: "", 2: ""} | right


def open_editor(path: Path, labels: np.ndarray = LABELS) -> MaskEditor:
    """Of the masks and the list of cells that are there, or of these labels."""
    known = (read_masks(path), read_cells(path)) if path.exists() else (labels, None)
    return MaskEditor(np.zeros(labels.shape, np.uint8), known[0], cells=known[1], path=path)


@pytest.mark.parametrize("dies", ["masks", "list"])
def test_a_save_that_is_killed_leaves_masks_with_their_own_list(tmp_path, monkeypatch, dies):
    path = tmp_path / "A_masks.tif"
    editor = open_editor(path)
    editor.set_class([7], "dead")
    editor.save()
    editor.delete([1])
    editor.set_class([2], "alive")
    original = Path.replace

    def replace(file: Path, target: Path) -> Path:
        if target == (path if dies == "masks" else tmp_path / "A_cells.csv"):
            raise KeyboardInterrupt
        return original(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        expect(editor.save, KeyboardInterrupt)
    export(path, tmp_path / "out", ["table"])  # reads as the editor will, and changes nothing
    told = pd.read_csv(tmp_path / "out/A_measurements.csv", keep_default_na=False)["class"]
    assert told.tolist() == (["dead", ""] if dies == "masks" else ["alive"])
    again = open_editor(path)
    assert kinds(again.cells) == {1: "alive"}


def test_two_windows_on_one_image_lose_nothing_and_overwrite_nothing_unsaid(tmp_path):
    path = tmp_path / "A_masks.tif"
    one, two = (open_editor(path) for _ in range(2))
    one.set_note([7], "one")
    two.set_note([312], "two")
    two.set_class([312], "dead")
    one.save()
    (left,) = tmp_path.glob(".*.edits*")
    assert len(left.read_text().splitlines()) == 3  # the other window's edits, both of them
    expect(two.save, MasksChanged)
    two.save(replace=True)
    assert read_cells(path)["note"].tolist() == ["", "two"]
    assert not list(tmp_path.glob(".*"))


NAMES = ["../A_masks.tif", "/etc/A_masks.tif", "A\0_masks.tif", "..\\A.tif", "..", ".A.tif"]
NAMES += ["A\n.tif", "\ud800.tif", f"{'A' * 200}.tif"]


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_file_stays_in_the_folder(tmp_path, name):
    (home := tmp_path / "home").mkdir()
    tifffile.imwrite(home / "A.tif", np.ones((20, 30), np.uint8))
    write_labels(tmp_path / "good.tif", LABELS)
    with pytest.raises(ScellsegError, match="no file can be called so"):
        Experiment(home).take(name, (tmp_path / "good.tif").read_bytes())
    assert sorted(file.name for file in tmp_path.rglob("*.tif")) == ["A.tif", "good.tif"]
