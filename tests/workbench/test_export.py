"""The export panel, driven as by a hand but without a browser: the files that come of it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from scellseg_lib.datasets.load import Region
from scellseg_lib.files.export import FORMATS
from scellseg_lib.files.images import write_labels
from scellseg_lib.workbench.experiment import Experiment
from scellseg_lib.workbench.export import ALL, WORDS, ExportPanel
from scellseg_lib.workbench.jobs import Job
from tests.workbench.conftest import LONG, draw, problem, squares


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two segmented images of two channels, of which one is corrected, and an annotated one."""
    home = tmp_path / "worms"
    draw(home / "shot", "a_img", shape=(40, 50, 2))
    draw(home / "query", "b_img", "c_img", shape=(40, 50, 2))
    write_labels(home / "shot" / "a_masks.tif", squares((2, 2), (12, 2), (22, 2)))
    for name in "bc":
        write_labels(home / "segmented" / f"{name}_masks.tif", squares((2, 2)))
    write_labels(home / "corrected" / "c_masks.tif", squares((2, 2), (20, 20)))
    (home / "corrected" / "c_cells.csv").write_text("label,class,note\n1,male,\n2,,curled\n")
    return home


@pytest.fixture
def panel(folder: Path) -> ExportPanel:
    return ExportPanel(folder)


def exported(panel: ExportPanel, *names: str) -> Job:
    """Tick these kinds of files, or leave them as they are; press Export and wait."""
    for name, box in panel.formats.items():
        box.value = name in names if names else box.value
    panel.start.click()
    assert panel.job.join(LONG).state == "done"
    return panel.job


def written(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "exported").iterdir())


def test_all_formats(folder: Path, panel: ExportPanel):
    assert WORDS.keys() == {*FORMATS, ALL}
    for box in panel.formats.values():
        box.value = True
    assert f"22 files in {folder / 'exported'}." in panel.message.text
    result = exported(panel).result[0]
    assert (result.written, result.already, result.failed) == (22, 0, {})
    assert written(folder) == sorted(
        [ALL, *(f"{n}{end}" for n in "abc" for end in FORMATS.values())]
    )
    assert panel.message.text == f"22 files written to {folder / 'exported'}."


def test_the_best_cells_of_each_image_go_out_and_one_table_says_which(folder: Path, panel):
    """Those that were drawn, else corrected, else found by a model."""
    words = "3 images: cells found by a model in 1, corrected in 1, drawn in 1."
    assert words in panel.message.text
    write_labels(folder / "segmented" / "a_masks.tif", squares((30, 30)))
    exported(panel)
    assert written(folder) == ["a_rois.zip", "b_rois.zip", "c_rois.zip", ALL]
    table = pd.read_csv(folder / "exported" / ALL, keep_default_na=False)
    told = table.groupby("image")["cells_are"].agg(["first", "size"])
    assert told.to_dict("list") == {"first": ["drawn", "found", "corrected"], "size": [3, 1, 2]}
    assert table["class"].tolist().count("male") == 1
    (folder / "corrected" / "c_cells.csv").write_text("label,class,note\n1,007,NA\n2,,\n")
    panel.overwrite.value = True
    exported(panel)
    table = pd.read_csv(folder / "exported" / ALL, keep_default_na=False, dtype=str)
    assert table.query("image == 'c'")[["class", "note"]].values.tolist()[0] == ["007", "NA"]
    (folder / "query" / "b_img.tif").unlink()
    panel.look()
    assert panel.message.text.startswith("2 images")
    assert "Left out, as their images are not in the folder: b." in panel.message.text
    for masks, origin in ((squares((5, 5)), "drawn"), (None, "found")):
        if masks is not None:  # drawn beside an image to be segmented, or later its copy in shot/
            write_labels(folder / "query" / "c_masks.tif", masks)
            draw(folder / "shot", "c_img", shape=(40, 50, 2))
            write_labels(folder / "shot" / "c_masks.tif", squares((5, 5), (20, 20)))
            os.utime(folder / "query" / "c_masks.tif", (1, 1))
            assert Experiment(folder).best_cells()[0]["c"][1].parent.name == "shot"
            shutil.rmtree(folder / "shot")
        else:  # of a part alone, what a model has found in all of it counts
            (folder / "corrected" / "c_masks.tif").unlink()
            region = Region(top=0, left=0, height=20, width=20)
            (folder / "query" / "c_region.json").write_text(region.model_dump_json())
        image, _, way = Experiment(folder).best_cells()[0]["c"]
        assert (image.name, way) == ("c_img.tif", origin)


def test_images_of_cells_have_the_size_asked_for_and_can_be_cut_out(folder: Path, panel):
    panel.side.value, panel.cut_out.value = 4, True
    exported(panel, "cells", "png")
    assert "c: 2 of 2 cells do not fit into 4 x 4 px" in problem(panel)
    assert "Make the image of a cell 8 px or more a side, or 0." in problem(panel)
    assert written(folder) == ["a_masks.png", "b_masks.png", "c_masks.png"]
    panel.side.value = 12
    exported(panel)
    crop = tifffile.imread(folder / "exported" / "c_cells" / "c_cells_00002.tif")
    assert crop.shape == (12, 12, 2)
    assert np.count_nonzero(crop[..., 0]) == 64


def test_a_table_has_classes_notes_and_channels_and_stays_unless_asked(folder, panel: ExportPanel):
    panel.channels.value = "worm, dye"
    exported(panel, "table")
    table = pd.read_csv(folder / "exported" / "c_measurements.csv", keep_default_na=False)
    assert table[["class", "note"]].values.tolist() == [["male", ""], ["", "curled"]]
    assert {"intensity_mean_worm", "intensity_mean_dye"} < set(table)
    file = folder / "exported" / "b_measurements.csv"
    file.write_text("mine")
    exported(panel)
    assert file.read_text() == "mine"
    assert "3 files were there already and kept" in panel.message.text
    panel.overwrite.value = True
    exported(panel)
    assert file.read_text().startswith("label,area_px,length_px,width_px")


def test_the_size_of_a_pixel_is_that_of_the_files_or_the_one_typed(folder: Path, panel):
    image = tifffile.imread(folder / "query" / "b_img.tif")
    for name, per_micrometre in (("b", (4, 4)), ("c", (2, 4))):
        how = {"resolution": per_micrometre, "metadata": {"unit": "um", "axes": "CYX"}}
        file = folder / "query" / f"{name}_img.tif"
        tifffile.imwrite(file, np.moveaxis(image, 2, 0).copy(), imagej=True, **how)
    exported(panel, ALL)
    table = pd.read_csv(folder / "exported" / ALL)
    known = table.groupby("image")["pixel_size_um"].first()
    assert known.dropna().to_dict() == {"b": 0.25}  # a says none, the pixels of c are not square
    assert table.loc[table["image"] == "b", "area_um2"].tolist() == [64 / 16]
    assert (
        "Please check: c_img.tif: its pixels, 0.5 x 0.25 µm, are no squares" in panel.message.text
    )
    panel.pixel.value, panel.overwrite.value = 0.5, True
    exported(panel)
    table = pd.read_csv(folder / "exported" / ALL)
    assert (table["area_um2"] == 64 / 4).all()
    assert "Please check" not in panel.message.text
    panel.go_to(folder)
    assert panel.pixel.value == 0.5
    panel.go_to(folder / "nowhere")
    assert panel.pixel.value == 0  # it was that of other images


def test_what_cannot_be_exported_is_said_and_does_not_stop_the_others(folder: Path):
    (folder / "segmented" / "b_masks.tif").write_bytes(b"II*\0")
    draw(folder / "query", "c_img2", "d_img")
    (folder / "query" / "c_img2.tif").replace(folder / "query" / "c_img.tiff")  # which is c?
    write_labels(folder / "segmented" / "d_masks.tif", squares((2, 2), (20, 20)) > 0)
    panel = ExportPanel(folder)
    assert exported(panel).result[0].written == 3
    assert written(folder) == ["a_rois.zip", "d_rois.zip", ALL]
    assert "Please check: d_masks.tif: 1 of 1 labels lie in pieces" in problem(panel)
    assert "Not exported:\nb: b_masks.tif" in problem(panel)
    assert "files of the same name: c_img.tif, c_img.tiff" in problem(panel)
    for box in panel.formats.values():
        box.value = False
    panel.start.click()
    assert problem(panel) == "nothing is chosen. Tick one of the kinds of files."
    panel.go_to(folder / "nowhere")
    assert "there is no such folder" in problem(panel)
    assert panel.start.disabled
