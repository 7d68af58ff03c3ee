"""What more annotated cells would add: the learning curve of a folder, in the fine-tune panel."""

from collections.abc import Callable
from functools import partial
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from scellseg_lib.files import layout
from scellseg_lib.files.folder import alone
from scellseg_lib.finetuning import RECIPES
from scellseg_lib.learning_curve import count_cells, cross_validate, draw_curve, expect
from scellseg_lib.workbench import experiment, forms, jobs

ASK = "What would more cells add?"
TIP = "learn from some annotated images and test on the others, by the quick recipe: some minutes"
NOTHING = "Name your folder, and draw the cells of three images or more, to learn from and test on."
QUICK = "This is by the quick recipe: where the curve is flat, see if the best one learns more."


class CurvePanel(ipywidgets.VBox):
    """A button, and what comes of it: a sentence and a curve. `choose` gives a run, or None."""

    def __init__(self, choose: Callable[[], Any]) -> None:
        self.job: jobs.Job | None = None
        self._choose = choose
        self.button = forms.button(ASK, "curve", self.press, TIP)
        self.message, self.curve = forms.Message(), ipywidgets.HTML()
        super().__init__([forms.row("", self.button), self.message, self.curve])

    def press(self) -> None:
        """Begin, or stop: each score is kept in the folder, so that it goes on where it was."""
        self.curve.value = ""
        if self.job is not None and jobs.runs(self.job):
            self.message.tell("Stopping ...")
            self.job.cancel()
        elif (run := self._choose()) is None or len(run.shots) < 3:
            self.message.fail(NOTHING)
        else:
            work = jobs.apart(partial(_learn_and_test, run))
            self.job = jobs.Job(work, on_change=self._follow)
            self.job.start()

    def _follow(self, job: jobs.Job) -> None:
        self.button.description = ASK if job.ended else "Stop"
        if job.error is not None:
            self.message.fail(forms.plain(job.error))
        elif job.state == "done":
            said, self.curve.value = job.result
            self.message.tell(f"{said}\n{QUICK}")
        elif job.ended:
            self.message.tell("Stopped. The scores so far are kept: press the button to go on.")
        else:
            self.message.tell(jobs.tell_progress(job))


def _learn_and_test(run: Any, job: jobs.Job) -> tuple[str, str]:
    """What more cells are expected to add, in words and as a picture."""
    shots, _ = run.model_copy(update={"options": RECIPES["quick"].options}).read_images(job)
    start, cells = experiment.load_start(run.start, run.folder), count_cells(shots)
    job.report(0, 0, doing="Learning from some images, testing on the others")
    with alone(run.folder / layout.CURVE) as file:
        frame = cross_validate(start, shots, file, recipe="quick", n_folds=3, report=job.report)
    expected, figure = expect(frame, cells), Figure(figsize=(5.8, 4.2), layout="constrained")
    draw_curve(axes := figure.subplots(), frame, expected, sum(cells))
    axes.legend(loc="lower right", fontsize=7)
    most = frame.loc[frame["n_shots"] == frame["n_shots"].max(), "map"]
    said = f"{run.folder}, {len(shots)} images with {sum(cells)} cells: on those that it has not "
    said += f"learnt from the model scores {most.mean():.2f} of 1 (mean AP, SD {most.std():.2f}). "
    said += expected.sentence
    return said, forms.render_html(figure, said)
