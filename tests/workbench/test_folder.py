"""The list of images: small pictures, folders to open, and the way back after a reload."""

from pathlib import Path
from threading import enumerate as threads

import cv2
import numpy as np
import pytest
import tifffile

from scellseg_lib.files.export import read_pixel_size
from scellseg_lib.files.images import read_pixels
from scellseg_lib.workbench import folder as folders
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.app import INSPECT, Workbench
from scellseg_lib.workbench.folder import FolderView, read_recent, remember
from tests.workbench.conftest import draw, is_shown, problem, until


class Listening(FolderView):
    """The list, and what it has told the page."""

    def __init__(self) -> None:
        self.told: list[tuple[dict, list]] = []
        self.chosen: list[str] = []
        super().__init__(self.chosen.append, self.chosen.append)

    def send(self, content, buffers=None) -> None:
        self.told.append((content, buffers or []))

    def hear(self, kind: str, what: object) -> None:
        self._handle_custom_msg({"type": kind, "what": what}, [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    draw(tmp_path / "home" / "worms", "a", "b")
    for name in (
        "worms/deep",
        "Zebra",
        "ant",
        ".hidden",
        "../elsewhere/other",
        "../elsewhere/mine",
    ):
        (tmp_path / "home" / name).mkdir(parents=True)
    return tmp_path / "home"


def test_folders_are_offered_below_home_and_beside_those_that_were_opened(home: Path):
    view, elsewhere = Listening(), home.parent / "elsewhere"
    view.hear("look", "")
    told = view.told[-1][0]
    assert (told["folder"], told["parent"], told["images"]) == (str(home), "", 0)
    assert told["folders"] == [[n, str(home / n)] for n in ("ant", "worms", "Zebra")]
    view.hear("look", str(home / "worms"))
    told = view.told[-1][0]
    assert (told["images"], told["parent"]) == (2, str(home))
    assert told["folders"] == [["deep", str(home / "worms" / "deep")]]
    for named in (home.parent, elsewhere, home / "none", home / "worms" / "a.tif"):
        view.hear("look", str(named))
        assert view.told[-1][0]["folder"] == str(home)
    remember(elsewhere / "mine")
    view.hear("look", str(elsewhere / "mine"))
    told = view.told[-1][0]
    assert (told["folder"], told["parent"]) == (str(elsewhere / "mine"), str(elsewhere))
    view.hear("look", str(elsewhere))
    assert [name for name, _ in view.told[-1][0]["folders"]] == ["mine", "other"]
    assert view.told[-1][0]["parent"] == ""


def test_folders_that_were_opened_last_come_first_and_are_there(home: Path, temporary_cache: Path):
    assert read_recent() == []
    every = [home / str(k) for k in range(10)]
    for one in every:
        one.mkdir()
        remember(one)
    remember(every[5])
    every[9].rmdir()
    expected = [every[k] for k in (5, 8, 7, 6, 4, 3, 2)]
    assert read_recent() == [str(one) for one in expected]
    for damage in ("", "{", "7", '{"a": 1}', "[7]"):
        (temporary_cache / "recent.json").write_text(damage)
        assert read_recent() == []
    remember(home)
    assert read_recent() == [str(home)]


def test_small_pictures_of_what_is_seen_and_of_no_damaged_image(tmp_path: Path):
    draw(tmp_path, "grey", "rgb", shape=(300, 200))
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((200, 500, 3), np.uint8), photometric="rgb")
    (tmp_path / "bad.tif").write_text("no image")
    wanted, view = [str(tmp_path / f"{n}.tif") for n in ("bad", "grey", "rgb")], Listening()
    view.hear("pictures", wanted)
    until(lambda: len(view.told) == 2)
    assert [content["file"] for content, _ in view.told] == wanted[1:]
    small = [cv2.imdecode(np.frombuffer(parts[0], np.uint8), 1) for _, parts in view.told]
    assert [one.shape for one in small] == [(75, 50, 3), (34, 84, 3)]
    assert small[0].std() > 30  # its contrast is stretched


def test_small_pictures_that_are_out_of_sight_are_not_made(tmp_path: Path, monkeypatch):
    draw(tmp_path, "a", "b", "c")
    view, made = Listening(), list[str]()

    def scroll(file: Path) -> np.ndarray:
        made.append(file.name)
        view._wanted = []
        return np.zeros((3, 4), np.uint8)

    monkeypatch.setattr(folders, "read_pixels", scroll)
    view.hear("pictures", [str(tmp_path / f"{n}.tif") for n in "abc"])
    until(lambda: len(view.told) == 1)
    for thread in [one for one in threads() if "work" in one.name]:
        thread.join()
    assert made == ["a.tif"]


def test_a_page_that_is_loaded_anew_comes_back_to_folder_image_and_panel(home: Path):
    worms, other = home / "worms", home.parent / "elsewhere" / "other"
    draw(other, "c", "d", "e")
    before = Workbench(worms)
    before.annotate.folder.value = str(other)
    before.annotate.list._handle_custom_msg({"type": "choose", "what": str(other / "d.tif")}, [])
    before.tabs.selected_index = INSPECT
    place = before.annotate.list.place
    assert place == {
        **{"start": str(worms), "folder": str(other)},
        **{"image": str(other / "d.tif"), "tab": INSPECT},
    }
    again = Workbench(worms)
    assert again.annotate.list.place["start"] == place["start"]  # or the page keeps it to itself
    again.annotate.list._handle_custom_msg({"type": "return", "what": place}, [])
    assert again.annotate.current is not None
    assert (again.annotate.current.name, again.tabs.selected_index) == ("d", INSPECT)
    assert again.annotate.list.place == place
    gone = place | {"folder": str(home / "gone"), "image": "gone"}
    third = Workbench(worms)
    third.annotate.list._handle_custom_msg({"type": "return", "what": gone}, [])
    assert (third.annotate.path, third.tabs.selected_index) == (worms, 0)


def test_a_plane_of_a_stack_is_chosen_and_becomes_an_image_of_its_own(tmp_path: Path):
    """Byte for byte; the stack stays, and what is drawn is of that plane."""
    stack = np.random.default_rng(0).integers(1, 4000, (5, 40, 50)).astype(np.uint16)
    how = {"resolution": (4, 4), "metadata": {"axes": "ZYX", "unit": "um"}, "imagej": True}
    tifffile.imwrite(tmp_path / "z.tif", stack, **how)
    panel = AnnotatePanel(tmp_path)
    assert panel.current is None
    assert "Choose one of its planes in step 1" in problem(panel)
    assert is_shown(panel.planes)
    assert (panel.planes.plane.value, panel.planes.plane.max) == (3, 5)
    third = panel.planes.picture.value
    panel.planes.plane.value = 5
    assert panel.planes.picture.value != third
    for _ in range(2):  # once more: it is there
        panel.planes.button.click()
        assert panel.current is not None
        assert (panel.current.name, is_shown(panel.planes)) == ("z_plane_5", False)
        np.testing.assert_array_equal(read_pixels(tmp_path / "z_plane_5.tif"), stack[4])
        panel.list._handle_custom_msg({"type": "choose", "what": str(tmp_path / "z.tif")}, [])
        assert (panel.current.name, is_shown(panel.planes)) == ("z_plane_5", True)
        panel.planes.plane.value = 5
    assert read_pixel_size(tmp_path / "z_plane_5.tif") == pytest.approx(0.25)  # um, as the stack
    draw(tmp_path, "z_plane_4")
    panel.planes.plane.value = 4
    panel.planes.button.click()
    assert "another image of this name is here" in problem(panel)
    (tmp_path / "z.tif").unlink()
    panel.planes.plane.value = 4
    panel.planes.button.click()
    assert "z.tif: the file cannot be read (No such file or directory)" in problem(panel)
