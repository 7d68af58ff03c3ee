"""The folder that is open: its images with their state, small pictures, and the way to others."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from html import escape
from pathlib import Path
from threading import Thread
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import tifffile
import traitlets

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.errors import ImageError, ScellsegError
from scellseg_lib.files import layout
from scellseg_lib.files.export import read_pixel_size
from scellseg_lib.files.images import read_pixels
from scellseg_lib.workbench import forms
from scellseg_lib.workbench.forms import draw_small

SIDE = 96  # largest side of a small picture, px
N_RECENT = 8  # folders that are remembered


class FolderView(anywidget.AnyWidget):
    """Images of a folder to choose from, and folders to open.

    `images` are (mark, name, file), and `value` is the file of the one that is open. `place` says
    where somebody is, from the folder ``start`` that the page began with; a page that is loaded
    anew gives back what the one before it was told last. What is chosen, opened and given back goes
    to the functions.
    """

    _esm = Path(__file__).parent / "folder.js"
    images: Any = traitlets.List().tag(sync=True)
    value = traitlets.Unicode(None, allow_none=True).tag(sync=True)
    place = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        on_choose: Callable[[str], object],
        on_open: Callable[[str], object],
        on_return: Callable[[dict[str, Any]], object] = lambda place: None,
    ) -> None:
        super().__init__()
        self._wanted: Sequence[str] = ()  # files whose small pictures a page waits for
        self._handlers: dict[str, Callable[[Any], object]] = {
            "choose": on_choose,
            "open": on_open,
            "return": on_return,
            "look": self._tell_folders,
            "pictures": self._send_pictures,
        }
        self.on_msg(lambda _, content, __: self._handlers[content["type"]](content["what"]))

    def _tell_folders(self, named: str) -> None:
        """Tell what folders there are to open: below home, or where others were opened."""
        start = named or self.place.get("folder") or Path.home()
        recent, folder = read_recent(), Path(os.path.normpath(start))
        opened = filter(None, [self.place.get("start"), *recent])
        roots = [Path.home(), *(Path(one).parent for one in opened)]
        is_below = any(folder.is_relative_to(root) for root in roots)
        if not is_below or not os.path.isdir(folder):  # noqa: PTH112  which raises nothing
            folder = Path.home()
        names, n_images = list[str](), 0
        with suppress(OSError):
            names = [one.name for one in folder.iterdir() if os.path.isdir(one)]  # noqa: PTH112
        with suppress(ScellsegError, OSError):
            n_images = len(layout.list_images(folder))
        has_parent = any(folder.parent.is_relative_to(root) for root in roots)
        told: dict[str, Any] = {"folder": str(folder), "recent": recent, "images": n_images}
        told["parent"] = str(folder.parent) if has_parent else ""
        inside = sorted((name for name in names if not name.startswith(".")), key=str.lower)
        self.send({"type": "folders", "folders": [[n, str(folder / n)] for n in inside], **told})

    def _send_pictures(self, files: Sequence[str]) -> None:
        """Send small pictures of images, in a thread; those that were wanted before are not."""
        self._wanted = files

        def work() -> None:
            for file in files:
                if self._wanted is not files:
                    return
                with suppress(ScellsegError, OSError):  # the list says its name
                    small = draw_small(read_pixels(Path(file)), SIDE)
                    self.send({"type": "picture", "file": file}, [small])

        Thread(target=work, daemon=True).start()


class PlaneChoice(ipywidgets.HBox):
    """Choose a plane of a stack or a time series, which becomes an image of its own beside it."""

    def __init__(self, on_take: Callable[[], object]) -> None:
        self.file = Path()
        self.plane = forms.slider("plane", "Plane", None, (1, 2, 1))
        self.picture = ipywidgets.Image(format="jpeg")
        self.button = forms.button("Annotate this plane", "plane-take", on_take, style="primary")
        self.name = ipywidgets.HTML()
        super().__init__([ipywidgets.VBox([self.name, self.plane, self.button]), self.picture])
        self.add_class("scellseg-planes")
        self.plane.observe(lambda _: self._draw(), "value")
        forms.show(False, self)

    def offer(self, file: Path, pages: int) -> None:
        """Offer the planes of a file, and the middle one first."""
        forms.show(pages > 1, self)
        self.name.value = f"{escape(file.name)} holds {pages} planes, of depths, times or channels"
        self.file, self.plane.max, self.plane.value = file, max(pages, 2), (pages + 1) // 2
        self._draw()

    def _draw(self) -> None:
        with suppress(ScellsegError, OSError):  # a damaged plane is said once it is taken
            pixels = read_pixels(self.file, page=self.plane.value - 1)
            self.picture.value = draw_small(pixels, 4 * SIDE)

    def write(self) -> Path:
        """Write the plane as it is; return its file."""
        file = self.file.with_name(f"{self.file.stem}_plane_{self.plane.value}.tif")
        pixels = read_pixels(self.file, page=self.plane.value - 1)
        if file.exists():
            if not np.array_equal(read_pixels(file), pixels):
                what = "another image of this name is here"
                raise ImageError(what, where=file, remedy="Rename it, or move it away.")
            return file
        size, _ = forms.hear(partial(read_pixel_size, self.file))
        how: Any = {"resolution": (1e4 / size,) * 2, "resolutionunit": "CENTIMETER"} if size else {}
        with whole(file) as scratch:
            tifffile.imwrite(scratch, pixels, planarconfig="contig", **how)
        return file


def read_recent() -> list[str]:
    """Folders that were opened last and are there, the last one first."""
    with suppress(OSError, ValueError, TypeError):
        named = json.loads((paths.cache() / "recent.json").read_bytes())
        return [str(one) for one in named if os.path.isdir(one)]  # noqa: PTH112
    return []


def remember(folder: Path) -> None:
    """Put a folder first among those that were opened last."""
    recent = [str(folder), *(one for one in read_recent() if one != str(folder))]
    with suppress(OSError), whole(paths.cache() / "recent.json") as scratch:
        scratch.write_text(json.dumps(recent[:N_RECENT]))
