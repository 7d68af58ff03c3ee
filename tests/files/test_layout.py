"""Where the files of an experiment are found, and where new ones are put."""

import os
from pathlib import Path

import pytest

from scellseg_lib.files import layout
from scellseg_lib.workbench.experiment import Experiment, experiment_of
from scellseg_lib.workbench.finetune import find_free_name


def make(folder: Path, *names: str) -> Path:
    """Empty files: nothing of them is ever read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def relative(folder: Path, *files: Path | None) -> list[str | None]:
    return [None if file is None else file.relative_to(folder).as_posix() for file in files]


# Files by what they are, and the name of their image.
NAMES = [
    ("image", "A", "A.tif"),
    ("img", "A", "A_img.PNG A_img.ome.tif"),
    ("masks", "A", "A_masks.tif"),
    ("cp_masks", "A", "A_cp_masks.png A_img_cp_masks.png A.ome_cp_masks.png"),
    ("seg", "A", "A_seg.npy A_img_seg.npy A.ome_seg.npy"),
    ("cells", "A", "A_cells.csv A_img_cells.csv"),
    ("", "A", "A.csv A.npy A.czi A_flows.tif A.ome_cp_output.png"),
    ("", "A_masks", "A_masks.pdf"),
    ("", "A_region", "A_region.json"),
]


@pytest.mark.parametrize(("kind", "name", "files"), NAMES)
def test_what_a_file_is_by_its_name(kind, name, files):
    for file in files.split():
        assert layout.parse_name(file) == (kind, name)


# Files of a folder; then of each image: its file, its masks, where they are saved, its split.
LISTED = [
    ("A.tif B.tif B_masks.png",
     "A.tif None A_masks.tif query", "B.tif B_masks.png B_masks.png shot"),
    ("A_img.tif A_seg.npy A_cp_masks.tif", "A_img.tif A_cp_masks.tif A_masks.tif shot"),
    ("query/A.png query/A_masks.tif shot/B.png C.png", "shot/B.png None shot/B_masks.tif shot",
     "query/A.png query/A_masks.tif query/A_masks.tif query"),
    ("A.png A.tif", "A.png None A_masks.tif query"),
    ("A.tif A_masks.tif B.tif B_seg.npy C_img.tif C_img_cp_masks.png",
     "A.tif A_masks.tif A_masks.tif shot", "B.tif B_seg.npy B_masks.tif shot",
     "C_img.tif C_img_cp_masks.png C_masks.tif shot"),
    ("A.tif A_img.tif", "A_img.tif None A_masks.tif query"),
    ("A.ome.tif A.ome_cp_masks.png A_cp_output.png A.ome_outlines.png A_flows.tif "
     "A_cp_outlines.txt A_overlay.png A_dP.tif", "A.ome.tif A.ome_cp_masks.png A_masks.tif shot"),
]  # fmt: skip


@pytest.mark.parametrize("case", LISTED)
def test_images_are_listed_with_their_masks(tmp_path, case):
    names, *images = case
    found = layout.list_images(make(tmp_path, *names.split()))
    shown = [[*relative(tmp_path, o.image, o.masks, o.own_masks), o.split] for o in found]
    assert [" ".join(map(str, one)) for one in shown] == images
    for one in found:
        assert experiment_of(one.image) == tmp_path


# Files of a folder, an image; where it goes, and its masks, as an annotated one.
SHOTS = [
    (["shot/A_img.tif", "shot/A_masks.png"], "query/B.png", "shot/B.png", "shot/B_masks.tif"),
    (["shot/A_img.tif", "shot/A_masks.png"], "query/A.tif", "shot/A_img.tif", "shot/A_masks.png"),
    (["shot/B.tif", "shot/B_cp_masks.tif"], "query/B.tif", "shot/B.tif", "shot/B_masks.tif"),
    (["shot/A_img.tif", "shot/A_seg.npy"], "B.tif", "shot/B.tif", "shot/B_masks.tif"),
    (["A.tif", "B.tif", "A_masks.tif"], "B.tif", "B.tif", "B_masks.tif"),
    (["B.tif", "B_seg.npy"], "B.tif", "B.tif", "B_masks.tif"),
    (["query/B.ome.tif"], "query/B.ome.tif", "shot/B.ome.tif", "shot/B_masks.tif"),
    ([], "B_img.tif", "shot/B_img.tif", "shot/B_masks.tif"),
]


@pytest.mark.parametrize(("names", "image", "copy", "masks"), SHOTS)
def test_where_an_image_is_put_among_the_annotated_ones(tmp_path, names, image, copy, masks):
    found = layout.place_shot(make(tmp_path, *names), tmp_path / image)
    assert relative(tmp_path, *found) == [copy, masks]


def test_the_experiment_of_a_file(tmp_path):
    assert experiment_of(tmp_path / "corrected" / "A_masks.tif") == tmp_path
    assert layout.cells_path(tmp_path / "A_cp_masks.ome.tif") == tmp_path / "A_cells.csv"
    assert layout.region_path(tmp_path / "A_img.ome.tif") == tmp_path / "A_region.json"
    own = tmp_path / "corrected" / "A.tif"  # by its microscope, perhaps: nobody knows
    assert experiment_of(own) == own.parent


def test_models_and_their_runs(tmp_path):
    make(tmp_path, "old.safetensors", "new.b.safetensors", ".hidden.safetensors", "c.json")
    os.utime(tmp_path / "old.safetensors", (0, 0))
    found = relative(tmp_path, *Experiment(tmp_path).find_models())
    assert found == ["new.b.safetensors", "old.safetensors"]
    run = (tmp_path / "new.b.safetensors").with_suffix(layout.RUN)
    run.touch()
    assert Experiment(tmp_path).find_models(layout.RUN) == [run]
    assert run.name == "new.b.checkpoint.json"
    names = {name: find_free_name(tmp_path, name) for name in ("a", "c", "old", "new.b")}
    assert names == {"a": "a", "c": "c-2", "old": "old-2", "new.b": "new.b-2"}
