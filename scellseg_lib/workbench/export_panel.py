"""The export panel: cells of a folder for other programs, with measurements."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import ipywidgets
from natsort import natsorted

from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.files import export
from scellseg_lib.files import layout as folders
from scellseg_lib.workbench.forms import Message, count, duration, heading, plain, row
from scellseg_lib.workbench.jobs import Job

WORDS = {
    "tiff": "masks as TIFF",
    "png": "masks as PNG",
    "cellpose": "Cellpose (_seg.npy)",
    "imagej": "ImageJ (ROI Manager)",
    "geojson": "QuPath (GeoJSON)",
    "outlines": "outlines as text",
    "table": "measurements (CSV)",
    "cells": "an image of each cell",
}
"""Formats of `export.FORMATS` in the words of the panel."""
EMPTY = "There is nothing to export yet: segment your images (3), or draw cells in some (1)."
SEGMENTED, ANNOTATED = "segmented images, with your corrections", "annotated images"
FITS = (
    r"Give side=(\d+) or more, or no side: each image is as large as its cell then",
    r"Make the image of a cell \1 px or more a side, or 0",
)
SIDE = "&nbsp;px a side, the same for all cells; 0: as large as each cell is"


class Masked(NamedTuple):
    """An image and the masks that count for it."""

    name: str
    image: Path
    masks: Path


class ExportPanel(ipywidgets.VBox):
    """Export cells, without a line of code.

    Parameters
    ----------
    folder : Path, optional
        Of the experiment.

    Attributes
    ----------
    formats : dict of str to Checkbox
        By the names of `export.FORMATS`.
    job : Job or None
        The latest export.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.path: Path | None = None
        self.job: Job | None = None
        self.what = ipywidgets.Dropdown(
            options=[SEGMENTED, ANNOTATED], layout={"width": "320px"}
        ).add_class("scellseg-export-what")
        self.what.observe(lambda _: self.look(), "value")
        self.formats = {
            name: ipywidgets.Checkbox(
                value=name in ("imagej", "table"),
                description=WORDS[name],
                indent=False,
                layout={"width": "220px"},
            ).add_class(f"scellseg-export-{name}")
            for name in export.FORMATS
        }
        self.channels = ipywidgets.Text(
            placeholder="names of the channels, such as worm, dye", layout={"width": "320px"}
        ).add_class("scellseg-export-channels")
        self.side = ipywidgets.BoundedIntText(max=10_000, layout={"width": "90px"})
        self.side.add_class("scellseg-export-side")
        self.cut_out = ipywidgets.Checkbox(
            description="black out what is not the cell", indent=False
        ).add_class("scellseg-export-cut-out")
        self.overwrite = ipywidgets.Checkbox(
            description="replace what was exported before", indent=False
        ).add_class("scellseg-export-overwrite")
        self.start = ipywidgets.Button(description="Export", button_style="primary")
        self.start.add_class("scellseg-export-start").on_click(lambda _: self.export())
        self.message = Message()
        grid = ipywidgets.Layout(flex_flow="row wrap", flex="1 1 0", max_width="920px")
        formats = row("As", ipywidgets.HBox(list(self.formats.values()), layout=grid))
        formats.layout.align_items = "flex-start"
        super().__init__(
            [
                heading("Which cells, and for what"),
                row("Cells of", self.what),
                formats,
                heading("How"),
                row("Channels", self.channels, _hint("&nbsp;for the table; may be left empty")),
                row("Image of a cell", self.side, _hint(SIDE)),
                row("", self.cut_out),
                row("", self.overwrite),
                row("", self.start),
                row("", self.message),
            ]
        )
        self.add_class("scellseg-export-panel")
        self.go_to(folder)

    def go_to(self, folder: Path | None) -> None:
        """Go to an experiment."""
        self.path = folder
        self.look()

    def look(self) -> None:
        """Say what there is to export."""
        if self._running:
            return
        try:
            found, lost = self.found(), self.without_image()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
            found, lost = [], []
        else:
            text = f"{count(len(found), 'image')}. Files go to {self.output}." if found else EMPTY
            if lost:
                text += f"\nLeft out, as their images are not in the folder: {', '.join(lost)}."
            self.message.tell(text)
        self.start.disabled = not found

    @property
    def output(self) -> Path:
        """Where files go."""
        return (self.path or Path()) / "exported"

    def found(self) -> list[Masked]:
        """Images with their masks, corrected ones before those that a model gave."""
        if self.path is None:
            return []
        if self.what.value == ANNOTATED:
            images = folders.list_images(self.path)
            return [Masked(one.name, one.image, one.masks) for one in images if one.masks]
        masks, images_of = self._segmented(), self._images()
        return [Masked(name, images_of[name], masks[name]) for name in masks if name in images_of]

    def without_image(self) -> list[str]:
        """Names of segmented images that are not in the folder."""
        if self.path is None or self.what.value == ANNOTATED:
            return []
        images = self._images()
        return [name for name in self._segmented() if name not in images]

    def _images(self) -> dict[str, Path]:
        """Images that were segmented, by name; none of the copies that serve to learn."""
        assert self.path is not None
        images = folders.list_images(self.path)
        return {one.name: one.image for one in images if one.image.parent != self.path / "shot"}

    def _segmented(self) -> dict[str, Path]:
        """Masks by name: a correction comes before what the model gave."""
        assert self.path is not None
        places = [self.path / name for name in ("segmented", folders.CORRECTED)]
        files = [file for place in places for file in natsorted(place.rglob("*_masks.tif"), str)]
        return {folders.label_name(file): file for file in files}

    @property
    def _running(self) -> bool:
        return self.job is not None and not self.job.ended

    def export(self) -> Job | None:
        """Write the files, in the background; None where something is missing."""
        if self._running:
            return None
        wanted = [name for name, box in self.formats.items() if box.value]
        try:
            if not wanted:
                raise DatasetError("nothing is chosen", remedy="Tick one of the kinds of files.")
            found = self.found()
        except (ScellsegError, OSError) as error:
            self.message.fail(plain(error))
            return None
        channels = [name.strip() for name in self.channels.value.split(",") if name.strip()]
        options = {
            "channels": channels,
            "side": self.side.value or None,
            "keep_background": not self.cut_out.value,
            "overwrite": self.overwrite.value,
        }

        output = self.output

        def work(job: Job) -> export.Exported:
            every = export.Exported()
            for done, one in enumerate(found):
                job.report(done, len(found))
                part = export.export(one.masks, output, wanted, images=one.image, **options)
                every.written += part.written
                every.already += part.already
                every.failed |= part.failed
            return every

        self.start.disabled = True
        self.job = Job(work, on_change=self._followed)
        return self.job.start()

    def _followed(self, job: Job) -> None:
        if not job.ended:
            left = f", {duration(job.seconds_left)} left" if job.seconds_left else ""
            self.message.tell(f"Exporting: {job.done} of {job.total}{left}.")
            return
        self.start.disabled = False
        if job.error is not None:
            self.message.fail(plain(job.error))
            return
        done = job.result
        text = f"{count(done.written, 'file')} written to {self.output}."
        if done.already:
            text += (
                f" {count(done.already, 'file')} {'was' if done.already == 1 else 'were'} there "
                "already and stayed: tick that they be replaced, if they are to be."
            )
        if done.failed:
            problems = "\n".join(
                self._reworded(problem) for problem in map(str, done.failed.values())
            )
            self.message.fail(f"{text} Not exported:\n{problems}")
        else:
            self.message.tell(text)

    def _reworded(self, problem: str) -> str:
        """Words of the library in those of the panel; paths in the folder are shortened."""
        text = re.sub(*FITS, problem)
        return text.replace(f"{self.path}{os.sep}", "")


def _hint(text: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(f"<span style='color:#595959'>{text}</span>")
