"""What more annotated cells would add: the learning curve of a folder, in the fine-tune panel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import ipywidgets
import torch
from matplotlib.figure import Figure

from scellseg_lib.files import layout
from scellseg_lib.learning_curve import count_cells, cross_validate, draw_curve, expect
from scellseg_lib.workbench import experiment, forms
from scellseg_lib.workbench.jobs import Job, runs

if TYPE_CHECKING:  # which shows this panel
    from scellseg_lib.workbench.finetune import FinetuneRun

ASK = "What would more cells add?"
TIP = "learn from some annotated images and test on the others, by the quick recipe: some minutes"
NOTHING = "Draw the cells of three images or more: some are learnt from, the others tested on."
QUICK = "This is by the quick recipe: where the curve is flat, see if the best one learns more."


class CurvePanel(ipywidgets.VBox):
    """A button, and what comes of it: a sentence, and a curve of scores on images held out.

    `choose` gives the run that is chosen in the fine-tune panel, or None.
    """

    def __init__(self, choose: Callable[[], FinetuneRun | None]) -> None:
        self.job: Job | None = None
        self._choose = choose
        self.button = forms.button(ASK, "curve", self.press, TIP)
        self.message, self.curve = forms.Message(), ipywidgets.HTML()
        super().__init__([forms.row("", self.button), self.message, self.curve])

    def press(self) -> None:
        """Begin, or stop: each score is kept in the folder, so that it goes on where it was."""
        if self.job is not None and runs(self.job):
            self.job.cancel()
        elif (run := self._choose()) is None or len(run.shots) < 3:
            self.message.fail(NOTHING)
        else:
            self.job = Job(partial(_learn_and_test, run), on_change=self._follow)
            self.job.start()

    def _follow(self, job: Job) -> None:
        self.button.description = ASK if job.ended else "Stop"
        if job.error is not None:
            self.message.fail(forms.plain(job.error))
        elif job.state == "done":
            said, self.curve.value = job.result
            self.message.tell(f"{said}\n{QUICK}")
        elif job.ended:
            self.message.tell("Stopped. The scores so far are kept: press the button to go on.")
        else:
            left = f", about {forms.duration(job.seconds_left)} left" if job.seconds_left else ""
            self.message.tell(f"Learning and testing: {job.done} of {job.total} scores{left}")


def _learn_and_test(run: FinetuneRun, job: Job) -> tuple[str, str]:
    """What more cells are expected to add, in words and as a picture."""
    shots, start = run.read_images(job)[0], experiment.load_start(run.start, run.folder)
    start.network.to(torch.device(run.device))
    how = {"recipe": "quick", "n_folds": 3, "report": job.report}
    frame = cross_validate(start, shots, run.folder / layout.CURVE, **how)  # type: ignore[arg-type]
    cells = count_cells(shots)
    expected, figure = expect(frame, cells), Figure(figsize=(5.8, 4.2), layout="constrained")
    draw_curve(axes := figure.subplots(), frame, expected, sum(cells))
    axes.legend(loc="lower right", fontsize=7)
    said = f"{run.folder.name}, {len(shots)} images with {sum(cells)} cells: {expected.sentence}"
    return said, forms.render_html(figure, said)
