"""What the fine-tune panel consists of, and how it looks; what it does is in `finetune_panel`."""

from __future__ import annotations

from html import escape

import ipywidgets
import torch

from scellseg_lib.device import default_device, machine
from scellseg_lib.workbench.drawings import BOX, diameter_disk, loss_curve
from scellseg_lib.workbench.experiment import Survey
from scellseg_lib.workbench.forms import (
    ERROR_COLOUR,
    Message,
    button,
    count,
    duration,
    heading,
    row,
)
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.tuning import Tuning

STRATEGIES = (
    (
        "Contrastive: learns from your drawn cells, and the look of the images to be segmented "
        "(recommended)",
        "contrastive",
    ),
    ("Classic: learns from your drawn cells alone (quicker)", "classic"),
)
CHOOSE = ("Choose the channel ...", None)
ONLY = ("the only one", "")
NO_NUCLEI = ("none", "none")
WIDE, MIDDLE, NARROW = "420px", "200px", "110px"


def devices() -> list[tuple[str, str]]:
    """What can compute here, as (label, name), the fastest first."""
    graphics = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    known = [(f"Graphics card ({machine(device)})", str(device)) for device in graphics]
    if default_device().type == "mps":
        known.append(("Graphics processor (Apple)", "mps"))
    return [*known, ("Processor (CPU)", "cpu")]


class FinetuneForm(ipywidgets.VBox):
    """Fields, buttons and pictures of the fine-tune panel, each an attribute of its name."""

    def __init__(self) -> None:
        text = {"continuous_update": False}
        self.folder = ipywidgets.Text(
            placeholder="folder of your experiment", layout={"width": WIDE}, **text
        ).add_class("scellseg-tune-folder")
        self.check = button("Check", "tune-check", tip="look into the folder again")
        self.shots = ipywidgets.HTML().add_class("scellseg-tune-shots")
        self.cells_channel = ipywidgets.Dropdown(options=[ONLY], value="", layout={"width": MIDDLE})
        self.nuclei_channel = ipywidgets.Dropdown(options=[NO_NUCLEI], layout={"width": MIDDLE})
        self.cells_channel.add_class("scellseg-tune-cells-channel")
        self.nuclei_channel.add_class("scellseg-tune-nuclei-channel")
        self.diameter = ipywidgets.HTML().add_class("scellseg-tune-diameter")
        self.model = ipywidgets.Dropdown(layout={"width": WIDE}).add_class("scellseg-tune-model")
        self.about = ipywidgets.HTML().add_class("scellseg-tune-about")
        self.strategy = ipywidgets.RadioButtons(
            options=STRATEGIES, layout={"width": "auto"}
        ).add_class("scellseg-tune-strategy")
        number = {"min": 1, "layout": {"width": NARROW}, **text}
        self.steps = ipywidgets.BoundedIntText(100, max=1_000_000, **number)
        self.batch = ipywidgets.BoundedIntText(8, max=256, **number)
        self.steps.add_class("scellseg-tune-steps")
        self.batch.add_class("scellseg-tune-batch")
        self.device = ipywidgets.Dropdown(options=devices(), layout={"width": WIDE})
        self.device.add_class("scellseg-tune-device")
        self.name = ipywidgets.Text(layout={"width": WIDE}, **text).add_class("scellseg-tune-name")
        self.overwrite = ipywidgets.Checkbox(
            description="replace the model of that name", indent=False
        ).add_class("scellseg-tune-overwrite")
        self._build_run()
        super().__init__(self._rows())
        self.add_class("scellseg-finetune-panel")

    def _build_run(self) -> None:
        """What is seen before, during and after a run."""
        self.estimate = ipywidgets.HTML().add_class("scellseg-tune-estimate")
        self.start = button(
            "Start", "tune-start", tip="fine-tune with these settings", style="primary"
        )
        self.stop = button(
            "Stop", "tune-stop", tip="what was learnt so far is kept", style="warning"
        )
        self.go_on = button(
            "Go on", "tune-go-on", tip="from where the run was stopped", style="primary"
        )
        self.keep = button("Keep as it is", "tune-keep", tip="save the model as it was at the stop")
        self.discard = button("Discard", "tune-discard", tip="forget the stopped run")
        self.progress = ipywidgets.IntProgress(layout={"width": WIDE}).add_class(
            "scellseg-tune-progress"
        )
        self.time = ipywidgets.HTML().add_class("scellseg-tune-time")
        self.curve = ipywidgets.HTML().add_class("scellseg-tune-curve")
        self.message = Message()

    def _rows(self) -> list[ipywidgets.Widget]:
        per_step = ipywidgets.HTML("pieces of images per step")
        return [
            heading("Your annotated images"),
            row("Folder", self.folder, self.check),
            self.shots,
            row("Channel of the cells", self.cells_channel),
            row("Channel of the nuclei", self.nuclei_channel),
            row("Size of the cells", self.diameter),
            heading("How to learn"),
            row("Start from", self.model),
            row("", self.about),
            row("Way of learning", self.strategy),
            row("Steps", self.steps, self.batch, per_step),
            row("Compute with", self.device),
            row("Name of the model", self.name, self.overwrite),
            heading("Fine-tune"),
            self.estimate,
            ipywidgets.HBox([self.start, self.stop, self.go_on, self.keep, self.discard]),
            ipywidgets.HBox([self.progress, self.time]),
            self.message,
            self.curve,
        ]

    @property
    def fields(self) -> list[ipywidgets.Widget]:
        """What is chosen before a run and fixed while there is one."""
        return [
            *(self.folder, self.check, self.cells_channel, self.nuclei_channel, self.model),
            *(self.strategy, self.steps, self.batch, self.device, self.name, self.overwrite),
        ]

    def show_state(self, *, running: bool, tuning: Tuning | None, taken: bool) -> None:
        """Show the buttons that can be used now, and free or fix the fields.

        Parameters
        ----------
        running : bool
        tuning : Tuning or None
            A run that is unfinished.
        taken : bool
            Whether there is a model of the chosen name.
        """
        stopped = tuning is not None and not running
        keepable = tuning is not None and tuning.kept is not None and stopped
        shown = {
            self.start: not running and not stopped,
            self.stop: running,
            self.go_on: stopped,
            self.keep: keepable,
            self.discard: stopped,
            self.progress: running,
            self.time: running,
            self.overwrite: taken and not running and not stopped,
        }
        for widget, visible in shown.items():
            widget.layout.display = "" if visible else "none"
        for field in self.fields:
            free = field in (self.folder, self.check) if stopped else not running
            field.disabled = not free

    def show_progress(self, job: Job) -> None:
        """Show how far a job is, and the time left."""
        self.progress.max, self.progress.value = max(job.total, 1), job.done
        text = str(job.facts.get("doing", ""))
        if job.total:
            text += f": {job.done} of {job.total}"
        if job.seconds_left is not None:
            text += f", about {duration(job.seconds_left)} left"
        self.time.value = escape(text)

    def show_curve(self, tuning: Tuning | None) -> None:
        """Draw the losses of a run so far."""
        self.curve.value = loss_curve(list(tuning.log), tuning.settings.steps) if tuning else ""


def shots_table(found: Survey) -> str:
    """Table of the annotated images, with those that are left out and why."""
    cell = "style='padding:1px 14px 1px 0;text-align:{}'"
    left, right = cell.format("left"), cell.format("right")
    rows = [
        f"<tr><td {left}>{escape(shot.name)}</td>"
        + (
            f"<td></td><td></td><td {left}><span style='color:{ERROR_COLOUR}'>&#9888; left out: "
            f"{escape(shot.problem)}</span></td></tr>"
            if shot.problem
            else f"<td {right}>{shot.cells}</td><td {right}>{shot.diameter:.0f} px</td></tr>"
        )
        for shot in found.shots
    ]
    cells = sum(shot.cells for shot in found.usable)
    summary = (
        f"<b>{count(len(found.usable), 'annotated image')}</b> with {count(cells, 'cell')}; "
        f"{count(len(found.queries), 'image')} to be segmented."
    )
    if not rows:
        return summary
    head = f"<th {left}>Image</th><th {right}>Cells</th><th {right}>Diameter</th>"
    return (
        f"{summary}<div style='max-height:220px;overflow:auto;line-height:1.4'>"
        f"<table style='width:auto'><tr>{head}</tr>{''.join(rows)}</table></div>"
    )


def diameter_picture(found: Survey, channels: tuple[str, str] | None) -> str:
    """Diameter of the cells in words and as a disk beside a piece of an image.

    Raises
    ------
    ScellsegError
        If the image cannot be read, or has no such channel.
    """
    crop = found.crop(channels)
    shown = crop.shape[0] / found.diameter
    note = "" if shown > 2 else " (they are nearly as large as the image)"
    return (
        f"<div style='min-height:{BOX}px'>{diameter_disk(crop, found.diameter)}</div>"
        f"On average your drawn cells are as large as a disk {found.diameter:.0f} px wide{note}; "
        "the new model remembers it."
    )
