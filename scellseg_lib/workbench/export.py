"""The export panel: cells of a folder for other programs, with measurements."""

from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ipywidgets
import pandas as pd

from scellseg_lib.atomic import whole
from scellseg_lib.errors import DatasetError
from scellseg_lib.files import layout
from scellseg_lib.files.export import FORMATS, export
from scellseg_lib.files.folder import FolderOutcome
from scellseg_lib.workbench import forms
from scellseg_lib.workbench.experiment import Experiment
from scellseg_lib.workbench.forms import count, plain
from scellseg_lib.workbench.jobs import Job, runs, tell_progress

WORDS = {  # formats of `FORMATS` in the words of the panel
    "tiff": "masks as TIFF",
    "png": "masks as PNG",
    "cellpose": "Cellpose (_seg.npy)",
    "imagej": "ImageJ (ROI Manager)",
    "geojson": "QuPath (GeoJSON)",
    "cells": "an image of each cell",
    "table": "measurements, a table an image",
    "measurements.csv": "measurements of all images (CSV)",
}
EMPTY = "There is nothing to export yet: segment your images (3), or draw cells in some (1)."
ALL = "measurements.csv"
WAYS = {"drawn": "drawn", "corrected": "corrected", "found": "found by a model"}
SIDE = "px a side, the same for all cells; 0: as large as each cell is"


class ExportPanel(ipywidgets.VBox):
    """Export the cells of an experiment, without a line of code."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path: Path | None = None
        self.job: Job | None = None
        self.formats = {
            name: forms.tick(words, f"export-{name}", value=name in (ALL, "imagej"))
            for name, words in WORDS.items()
        }
        for box in self.formats.values():
            box.observe(lambda _: self.look(), "value")
        self.channels = forms.text_field("export-channels", "channel names, such as worm, dye")
        self.pixel = ipywidgets.BoundedFloatText(max=1000, step=0.01)
        self.pixel.add_class("scellseg-export-pixel")
        self.side = ipywidgets.BoundedIntText(max=10_000).add_class("scellseg-export-side")
        self.cut_out = forms.tick("black out what is not the cell", "export-cut-out")
        self.overwrite = forms.tick("replace what was exported before", "export-overwrite")
        self.start = forms.button("Export", "export-start", self.export, style="primary")
        self.message = forms.Message()
        formats = ipywidgets.HBox(list(self.formats.values())).add_class("scellseg-formats")
        parts = [
            forms.heading("All cells, and for what"),
            forms.row("As", formats),
            forms.heading("How"),
            forms.row("Channels", self.channels, forms.note("for the table; may be left empty")),
            forms.row("Pixel size", self.pixel, forms.note("µm; 0: as the images' files say")),
            forms.row("Image of a cell", self.side, forms.note(SIDE)),
            forms.row("", self.cut_out),
            forms.row("", self.overwrite),
            forms.actions([self.start], self.message),
        ]
        super().__init__(parts)
        self.add_class("scellseg-export-panel")
        self.go_to(folder)

    def go_to(self, folder: Path | None) -> None:
        """Go to an experiment."""
        if folder != self.path:  # whose pixels may be of another size
            self.path, self.pixel.value = folder, 0
        self.look()

    def look(self) -> None:
        """Say what there is to export."""
        if runs(self.job):
            return
        self.start.disabled = True
        with self.message.tell_errors():
            found, lost = Experiment(self.path).best_cells() if self.path else ({}, [])
            text, origins = EMPTY, Counter(origin for _, _, origin in found.values())
            if found:
                told = ", ".join(f"{WAYS[way]} in {n}" for way, n in origins.items())
                files = sum(1 if name == ALL else len(found) for name in self._wanted())
                text = f"{count(len(found), 'image')}: cells {told}. "
                text += f"{count(files, 'file')} in {self.output}."
            if lost:
                text += f"\nLeft out, as their images are not in the folder: {', '.join(lost)}."
            self.message.tell(text)
            self.start.disabled = not found

    @property
    def output(self) -> Path:
        """Where files go."""
        return (self.path or Path()) / layout.EXPORTED

    def _wanted(self) -> list[str]:
        return [name for name, box in self.formats.items() if box.value]

    def export(self) -> Job | None:
        """Write the files, in the background; None where something is missing."""
        wanted, found = self._wanted(), dict[str, tuple[Path, Path, str]]()
        with self.message.tell_errors():
            if not wanted:
                raise DatasetError("nothing is chosen", remedy="Tick one of the kinds of files.")
            found = Experiment(self.path).best_cells()[0] if self.path else {}
        if runs(self.job) or not found:
            return None
        output, names = self.output, [one.strip() for one in self.channels.value.split(",")]
        options: dict[str, Any] = {"channels": [*filter(None, names)]}
        options |= {"overwrite": self.overwrite.value, "keep_background": not self.cut_out.value}
        options |= {"side": self.side.value or None, "pixel_size": self.pixel.value or None}

        def work(job: Job) -> tuple[FolderOutcome, list[str]]:
            every, doubts, tables = FolderOutcome(), list[str](), list[pd.DataFrame]()
            each = [name for name in wanted if name != ALL]
            kept = (output / ALL).exists() and not self.overwrite.value
            tabled = ["table"] if ALL in wanted and not kept else list[str]()
            with TemporaryDirectory() as scratch:
                for done, (name, (image, masks, origin)) in enumerate(found.items()):
                    job.report(done, len(found), doing="Exporting")
                    how = options | {"images": image.parent}
                    part, doubt = forms.hear(partial(export, masks, output, each, **how))
                    table = partial(export, masks, Path(scratch), tabled, **how)
                    tabled_part, of_table = forms.hear(table)
                    every.written += part.written
                    every.already += part.already
                    part.failed |= tabled_part.failed
                    every.failed |= part.failed
                    doubts += filter(None, [of_table or doubt])
                    if tabled and not part.failed:
                        file = Path(scratch, f"{name}{FORMATS['table']}")
                        rows = pd.read_csv(file, dtype=str, keep_default_na=False)
                        rows.insert(0, "image", name)
                        tables.append(rows.assign(cells_are=origin))
            every.already += ALL in wanted and kept
            if tables:
                with whole(output / ALL) as file:
                    pd.concat(tables).to_csv(file, index=False)
                every.written += 1
            return every, doubts

        self.start.disabled = True
        self.job = Job(work, on_change=self._on_followed)
        return self.job.start()

    def _on_followed(self, job: Job) -> None:
        if not job.ended:
            self.message.tell(tell_progress(job, "image"))
            return
        self.start.disabled = False
        if job.error is not None:
            self.message.fail(plain(job.error))
            return
        done, doubts = job.result
        text = f"{count(done.written, 'file')} written to {self.output}."
        if done.already:
            kept = count(done.already, "file was", "files were")
            text += f" {kept} there already and kept. To replace them, tick that they be replaced."
        for doubt in doubts[:3]:
            text += f"\nPlease check: {doubt}"
        text += f"\nSo it is with {count(len(doubts) - 3, 'more image')}." if doubts[3:] else ""
        if done.failed:
            problems = [f"{name}: {plain(error)}" for name, error in done.failed.items()]
            self.message.fail("\n".join([f"{text} Not exported:", *problems]))
        else:
            self.message.tell(text)
