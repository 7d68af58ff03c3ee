"""What counts as done: masks of this image, model, settings and numeric type, and no others."""

import errno
import os
from pathlib import Path
from unittest.mock import Mock
from uuid import UUID

import numpy as np
import pytest

from scellseg_lib import Sample, atomic, device, model
from scellseg_lib.errors import DatasetError, MasksMadeOtherwise
from scellseg_lib.files import export, folder, images
from scellseg_lib.files.images import read_pixels, write_labels
from tests.corpus import expect, faults

MODEL = model.new_model("unet2", (4, 8))
READING = {"channels": None, "axes": None, "page": None}


def draw(file: Path, seed: int) -> None:
    write_labels(file, np.random.default_rng(seed).integers(0, 255, (40, 50)))


def segment(home: Path, **options) -> tuple[int, int, list[str]]:
    """Segment; how many were written and done already, and the names of the files that failed."""
    jobs, outcome = folder.plan_jobs(home, home / "out", ".tif", **READING)
    how = {"diameter": 30.0, "reading": READING} | options
    folder.segment_jobs(jobs, MODEL, home / "out", outcome, **how)
    return outcome.written, outcome.already, sorted(Path(name).name for name in outcome.failed)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for seed, name in enumerate("AB"):
        draw(tmp_path / f"{name}.png", seed)
    assert segment(tmp_path) == (2, 0, [])
    return tmp_path


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def change(file: Path) -> None:
    write_labels(file, np.arange(2000).reshape(40, 50))


MASKS = "out/A_masks.tif"
RECORD = "out/segmented.json"
OTHERS = (0, 1, ["A_masks.tif"])
# What is done to the folder, and what the same command comes to then.
SPOILT = [
    ("nothing", lambda home: None, (0, 2, [])),
    ("image touched", lambda home: os.utime(home / "A.png", ns=(0, 0)), (0, 2, [])),
    ("image replaced", lambda home: draw(home / "A.png", 7), (1, 1, [])),
    ("image damaged", lambda home: cut(home / "A.png"), OTHERS),
    ("masks deleted", lambda home: (home / MASKS).unlink(), (1, 1, [])),
    ("masks empty", lambda home: (home / MASKS).write_bytes(b""), (1, 1, [])),
    ("masks cut off", lambda home: cut(home / MASKS), (1, 1, [])),
    ("masks of others", lambda home: change(home / MASKS), OTHERS),
    ("masks and image", lambda home: [change(home / MASKS), draw(home / "A.png", 7)], OTHERS),
    ("record foreign", lambda home: (home / RECORD).write_text("[1]"), DatasetError),
    ("record deep", lambda home: (home / RECORD).write_text("[" * 100_000), DatasetError),
    ("record lost", lambda home: (home / RECORD).unlink(), MasksMadeOtherwise),
]


@pytest.mark.parametrize(("name", "spoil", "right"), SPOILT, ids=[row[0] for row in SPOILT])
def test_done_are_whole_masks_of_the_very_image(home, name, spoil, right):
    spoil(home)
    before = (home / MASKS).read_bytes() if (home / MASKS).exists() else None
    expect(lambda: segment(home), right if isinstance(right, type) else right.__eq__)
    if right is OTHERS:
        assert (home / MASKS).read_bytes() == before  # kept, until they are not wanted
        draw(home / "A.png", 0)
        assert segment(home, overwrite=True) == (2, 0, [])
    if not isinstance(right, type):
        assert segment(home) == (0, 2, [])
        assert read_pixels(home / MASKS).shape == (40, 50)


@pytest.mark.parametrize(
    "other", [{"diameter": 20.0}, {"flips": True}, {"min_size": 3}, {"reading": {"page": 0}}]
)
def test_masks_of_other_settings_or_numeric_type_are_not_done(home, monkeypatch, other):
    expect(lambda: segment(home, **other), MasksMadeOtherwise)
    assert segment(home, overwrite=True, **other) == (2, 0, [])
    there = folder.choose_precision(device.default_device()).dtype
    asked = {"fp32": "bf16", "bf16": "fp32"}[there]
    if "flips" not in other:
        with monkeypatch.context() as patch:
            patch.setattr(MODEL.card, "flips", True)  # the model's own setting counts as asked for
            expect(lambda: segment(home, **other), MasksMadeOtherwise, "flips False there, True")
    monkeypatch.setattr(folder, "choose_precision", lambda _: device.Precision(asked))
    words = f"dtype {there} there, {asked} asked for"
    expect(lambda: segment(home, **other), MasksMadeOtherwise, words)


def test_a_second_run_at_once_is_refused_and_changes_nothing(home):
    draw(home / "A.png", 7)
    again = Mock(side_effect=lambda: expect(lambda: segment(home, diameter=20.0), folder.InUse))
    assert segment(home, callback=again) == (1, 1, [])
    assert again.called
    assert segment(home) == (0, 2, [])


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_on_the_way_leaves_nothing_half_done(home, monkeypatch, written):
    """Before or after the masks are there; the line of their hashes may be cut off, too."""
    for name in "AB":
        draw(home / f"{name}.png", 7)

    def die(*arguments) -> None:
        if written:
            write_labels(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "write_labels", die)
    expect(lambda: segment(home), KeyboardInterrupt)
    monkeypatch.undo()
    with (home / "out/.hashes").open("a") as file:
        file.write("\n" + "0" * 64)
    assert segment(home) == ((1, 1, []) if written else (2, 0, []))
    assert segment(home) == (0, 2, [])
    assert not list(home.rglob("*.lock"))


def test_an_image_without_a_file_is_read_once(tmp_path):
    image = Sample("A", read := Mock(return_value=np.ones((2, 40, 50), np.float32)))
    jobs, how = [folder.ImageJob(image, tmp_path / "A_masks.tif")], {"diameter": 30.0}
    folder.segment_jobs(jobs, MODEL, tmp_path, folder.FolderOutcome(), reading=READING, **how)
    assert read.call_count == 1


# What lies beside masks A and B, which image is named, how many tables come, and what has failed.
MEASURED = [
    (("A.png", "B.png"), "", (2, [])),
    (("A.png", "A.tif", "B.png"), "", (1, ["A"])),  # no guess which of the two it is
    (("A.png", "B.png"), "A.png", (1, ["B"])),  # B is not measured on A
    (("A.png",), "", (1, ["B"])),
]


@pytest.mark.parametrize(("there", "named", "right"), MEASURED)
def test_masks_are_measured_on_their_own_image_or_on_none(tmp_path, there, named, right):
    for name in there:
        draw(tmp_path / name, 1)
    for name in "AB":
        write_labels(tmp_path / "in" / f"{name}_masks.tif", np.eye(40, 50, dtype=int))

    done = export.export(tmp_path / "in", tmp_path / "out", ["table"], images=tmp_path / named)
    assert (done.written, list(done.failed)) == right


def test_a_scratch_file_is_nobodys_and_an_error_names_the_file(tmp_path, monkeypatch):
    file, other = tmp_path / f"{'a' * 240}.txt", tmp_path / "other.txt"
    other.write_text("kept")
    monkeypatch.setattr(atomic, "uuid4", lambda: UUID(int=0))
    (tmp_path / f".{'0' * 12}.txt").symlink_to(other)
    with pytest.raises(FileExistsError) as caught, atomic.whole(file):
        pass
    assert (other.read_text(), caught.value.filename) == ("kept", str(file))
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"a\.txt") as full, atomic.whole(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == [other]  # nothing half written
    with atomic.whole(file) as scratch:
        scratch.write_text("new")
    assert file.read_text() == "new"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(faults.WRITERS))
def test_kills_full_disks_and_forbidden_folders(name):
    assert {(lost, wrong) for _, lost, wrong in faults.try_one(name, 2, 1).values()} == {(0, 0)}
