"""Inspector: truth against prediction in colours, and thresholds that act while they are moved."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import floor
from typing import Any, Literal

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure

from scellseg_lib import metrics, progress
from scellseg_lib.errors import DatasetError, ScellsegError
from scellseg_lib.metrics import ObjectMatches, Scores
from scellseg_lib.model import Model
from scellseg_lib.plots import ap_curve, render_html
from scellseg_lib.representation import Decoding
from scellseg_lib.samples import Sample
from scellseg_lib.segmentation import Cells, Prediction
from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.forms import Message, button, count, heading, plain
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import (
    IOUS,
    FoundCells,
    InspectedImage,
    Inspection,
    Newest,
    Standing,
    Thresholds,
)

EMPTY = (
    "There is nothing to inspect yet. Segment one or more images first; their cells are then shown "
    "here, beside the true cells where you have drawn them."
)
FIXED = (
    "The thresholds of these cells cannot be moved, since the network was not asked about this "
    "image. Choose it under 3 Segment, with the model that has made its cells, and press Look at "
    "it."
)
ASKING = "The network is asked about this image; then the cells follow the thresholds."
COLOURS = {"TP": "#009E73", "FP": "#E69F00", "FN": "#0072B2"}
"""True and false positives and false negatives in colours of Okabe and Ito, which colour-blind
readers tell apart."""
OPACITY = 120
"""Of found cells, of 255: the image is seen through them."""

Side = Literal["predicted", "true"]


class Inspector(ipywidgets.VBox):
    """Images with the cells found in them, against the true cells where they are known.

    Parameters
    ----------
    entries : sequence of InspectedImage
    on_edit : callable, optional
        Called with the cells that are looked at, at the present thresholds, by the button "Correct
        this image", which is there only with it.
    on_use : callable, optional
        The same by "Segment with these", for its thresholds.

    Attributes
    ----------
    view : ImageView
        The picture.
    iou : ipywidgets.FloatSlider
        Threshold from which on a found cell is right, 0.50 to 0.95.
    thresholds : Thresholds
        Of the step from the network's maps to cells.
    """

    def __init__(
        self,
        entries: Sequence[InspectedImage] = (),
        *,
        on_edit: Callable[[FoundCells], None] | None = None,
        on_use: Callable[[FoundCells], None] | None = None,
    ) -> None:
        self._inspections: list[Inspection] = []
        self._order: list[int] = []
        self._current = 0
        self._looked_at: tuple[Inspection, Prediction | None] | None = None
        self._seen: FoundCells | None = None
        self._filling = False
        self._applying: Job | None = None
        self._comparing: Job | None = None
        self._asking: Job | None = None
        self._refusal = ""
        self._tips: list[str] = []
        self._redraw = Newest(self._draw_or_say)
        self._message = Message()
        super().__init__([heading("Inspect the cells"), self._message, self._make(on_edit, on_use)])
        self.add_class("scellseg-inspector")
        self.view.observe(lambda _: self._tell_selected(), "selected")
        self.view.on_cycle(self._step)
        self.iou.observe(lambda _: self._redraw(), "value")
        self._list.observe(lambda change: self._go(change["new"]), "value")
        self.show(entries)

    def _make(
        self,
        on_edit: Callable[[FoundCells], None] | None,
        on_use: Callable[[FoundCells], None] | None,
    ) -> ipywidgets.HBox:
        """Make all below the message, in three columns."""
        self.view, self.thresholds = ImageView(), Thresholds(self._redraw)
        self.iou = ipywidgets.FloatSlider(
            value=IOUS[0],
            min=IOUS[0],
            max=IOUS[-1],
            step=0.01,
            description="IoU",
            readout_format=".2f",
            tooltip="From which agreement with a true cell on a found cell is right",
            style={"description_width": "110px"},
            layout={"width": "100%"},
        ).add_class("scellseg-iou")
        self._list = ipywidgets.Select(layout={"width": "auto", "height": "380px"})
        self._list.add_class("scellseg-images")
        self._summary, self._told, self._legend, self._curve = (
            ipywidgets.HTML().add_class(f"scellseg-{name}")
            for name in ("summary", "told", "legend", "ap-curve")
        )
        self._previous = button(
            "◀ Previous", "previous", self.previous, tip="Image before in the list"
        )
        self._next = button("Next ▶", "next", self.next, tip="Next image of the list")
        self._correct = button(
            "Correct this image",
            "correct",
            partial(self._give, on_edit),
            tip="Open its cells in the editor",
            style="primary",
        )
        self._apply = button(
            "Apply to all images",
            "apply",
            self.apply_to_all,
            tip="Find the cells of the other images at these thresholds too",
        )
        self._use = button(
            "Segment with these",
            "use",
            partial(self._give, on_use),
            tip="Take the thresholds to step 3, where the cells found with them are written",
        )
        self._correct.layout.display = None if on_edit else "none"
        self._use.layout.display = None if on_use else "none"
        buttons = ipywidgets.HBox([self._previous, self._next, self._correct])
        ends = ipywidgets.HBox([self._apply, self._use])
        moved = [heading("Thresholds"), self.thresholds, ends]
        columns = {
            "0 0 250px": [self._summary, self._list],
            "1 1 420px": [buttons, self.view, self._told],
            "0 0 350px": [self.iou, self._legend, self._curve, *moved],
        }
        boxes = [
            ipywidgets.VBox(parts, layout={"flex": flex, "min_width": "0", "margin": "0 8px 0 0"})
            for flex, parts in columns.items()
        ]
        # What finds no room beside the picture goes below it.
        self._body = ipywidgets.HBox(boxes, layout={"width": "100%", "flex_flow": "row wrap"})
        return self._body

    @classmethod
    def of(
        cls,
        cells: Sequence[Cells],
        samples: Sequence[Sample],
        model: Model,
        *,
        decoding: Decoding | None = None,
        resample: bool = True,
        on_edit: Callable[[FoundCells], None] | None = None,
    ) -> Inspector:
        """Inspect what `segment` has given.

        Parameters
        ----------
        cells : sequence of Cells
        samples : sequence of Sample
            That were segmented, in the same order; the masks of those that have some are the truth.
        model : Model
            That segmented them.
        decoding : Decoding, optional
            Thresholds that were used; None: the model's own.
        resample : bool
            As given to `segment`.
        on_edit : callable, optional
            See the class.

        Raises
        ------
        DatasetError
            If the cells are not those of the samples.
        """
        if [one.name for one in cells] != [sample.name for sample in samples]:
            raise DatasetError(
                f"these {len(cells)} results are not those of these {len(samples)} images",
                remedy="Give the images that were segmented, in the same order.",
            )
        entries = [
            InspectedImage(
                found.name,
                partial(_read_planes, sample),
                None if sample.read_masks is None else partial(getattr, sample, "masks"),
                found.masks,
                found.prediction,
                model.representation,
                decoding or model.card.decoding,
                resample,
            )
            for found, sample in zip(cells, samples, strict=True)
        ]
        return cls(entries, on_edit=on_edit)

    def show(self, entries: Sequence[InspectedImage], first: str = "") -> None:
        """Look at other images, the worst first or that of a name, at their own thresholds.

        Those whose cells are to be read first are put into their order in the background.
        """
        for job in (self._applying, self._comparing, self._asking):
            if job is not None:
                job.cancel()
        self.thresholds.chosen = {}
        self._inspections = [Inspection(entry) for entry in entries]
        standings, names = (
            [one.standing for one in self._inspections],
            [one.name for one in entries],
        )
        self._order = order_worst_first(standings, self.iou.value)
        self._current = names.index(first) if first in names else (self._order or [0])[0]
        self._looked_at = None
        self._redraw()
        if any(standing.is_pending for standing in standings):
            inspections = list(self._inspections)
            self._comparing = Job(partial(self._compare_all, inspections), on_change=self._compared)
            self._comparing.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing runs in the background, at most `timeout` seconds for each part."""
        for job in (self._comparing, self._asking, self._applying):
            if job is not None:
                job.join(timeout)

    @property
    def entry(self) -> FoundCells | None:
        """Cells that are looked at, at the present thresholds; None without any image."""
        if not self._inspections:
            return None
        inspection = self._inspections[self._current]
        return replace(inspection.load(), prediction=inspection.prediction)

    @property
    def names(self) -> list[str]:
        """Names of the images in the order of the list: the worst first."""
        return [self._inspections[index].entry.name for index in self._order]

    def next(self) -> None:
        """Go to the next image of the list; from the last to the first."""
        self._step(1)

    def previous(self) -> None:
        """Go to the image before in the list; from the first to the last."""
        self._step(-1)

    def go_to(self, name: str) -> None:
        """Look at the image of this name, if there is one."""
        for index in self._order:
            if self._inspections[index].entry.name == name:
                self._go(index)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not progress.run_by_machine():
            return super()._repr_mimebundle_(**kwargs)
        words = {"text/plain": f"Inspector: {len(self._inspections)} images"}
        if not self._inspections:
            return words, {}
        return {"image/png": b64encode(self.view.picture()).decode()} | words, {}

    # --- in the background --------------------------------------------------------------------

    def apply_to_all(self) -> Job:
        """Bring the other images to the present thresholds too, in a thread of its own."""
        if self._applying is not None:
            self._applying.cancel()
        wanted = [(one, one.choose_decoding(self.thresholds)) for one in self._inspections]

        def work(job: Job) -> None:
            for done, (inspection, decoding) in enumerate(wanted):
                job.report(done, len(wanted))
                inspection.ask()
                inspection.apply(decoding)
                self._rest(inspection)

        self._applying = Job(work, on_change=self._applied)
        return self._applying.start()

    def _applied(self, job: Job) -> None:
        if self._goes_on(job, self._applying) and job.total:
            self._message.tell(
                f"Applying the thresholds: {job.done} of {count(job.total, 'image')} done."
            )

    def _compare_all(self, inspections: list[Inspection], job: Job) -> None:
        for done, inspection in enumerate(inspections):
            job.report(done, len(inspections))
            inspection.load()
            self._rest(inspection)

    def _compared(self, job: Job) -> None:
        if self._goes_on(job, self._comparing) and job.total:
            self._summary.value = f"Comparing: {job.done} of {count(job.total, 'image')} done."

    def _goes_on(self, job: Job, latest: Job | None) -> bool:
        """Whether the latest job is under way; its end is shown, one of before is passed over."""
        if job is not latest:
            return False  # other images are shown by now
        if job.ended:
            self._redraw()
        if job.error is not None:
            self._message.fail(plain(job.error))
        return not job.ended

    def _ask(self, inspection: Inspection) -> None:
        """Ask the network about an image, so that its thresholds can be moved."""
        before = self._asking

        def work(job: Job) -> None:
            if before is not None:
                before.join()  # two at once are slower than one after the other
            job.report(0, 1)
            inspection.ask()
            self._rest(inspection)

        if before is not None:
            before.cancel()
        self._refusal = ""
        self._asking = Job(work, on_change=self._asked)
        self._asking.start()

    def _asked(self, job: Job) -> None:
        if job is self._asking and job.ended:
            self._refusal = plain(job.error) if job.error is not None else ""
            self._redraw()

    def _rest(self, inspection: Inspection) -> None:
        """Free the memory of an image that nobody looks at."""
        if not self._inspections or inspection is not self._inspections[self._current]:
            inspection.rest()

    # --- what is shown ------------------------------------------------------------------------

    def _go(self, index: int | None) -> None:
        if index is not None and index != self._current and not self._filling:
            self._current = index
            self._redraw()

    def _step(self, by: int) -> None:
        if self._order:
            place = self._order.index(self._current)
            self._go(self._order[(place + by) % len(self._order)])

    def _draw_or_say(self) -> None:
        try:
            self._draw()
        except Exception as error:
            self._message.fail(plain(error))

    def _draw(self) -> None:
        """Show the current image at the present thresholds; `_redraw` alone calls it."""
        self._body.layout.display = None if self._inspections else "none"
        if not self._inspections:
            self._message.tell(EMPTY)
            return
        inspection, iou = self._inspections[self._current], self.iou.value
        found = inspection.apply(inspection.choose_decoding(self.thresholds))
        matched = None
        if found.true is not None and found.standing.scores is not None:
            matched = metrics.match(found.true, found.predicted, iou)
        problem = self._draw_cells(inspection, found, matched) or found.standing.problem
        self._show_thresholds(inspection)
        is_moved = found.decoding != inspection.entry.decoding
        before = inspection.given_scores if is_moved else None
        self._legend.value = explain_colours(matched, found.predicted, iou)
        self._curve.value = draw_curve(found.standing, iou, before)
        self._list_images(inspection, iou)
        self._tell_selected()
        if problem or self._refusal:
            self._message.fail(problem or self._refusal)
        else:
            self._say_where(inspection, found)

    def _draw_cells(
        self, inspection: Inspection, found: FoundCells, matched: ObjectMatches | None
    ) -> str:
        """Bring the picture up to date; return what is wrong with the image, or nothing."""
        problem = ""
        if self._looked_at is None or inspection is not self._looked_at[0]:
            left, self._refusal = self._looked_at, ""
            if left is not None:
                self._rest(left[0])
            self._looked_at = None
            if inspection.is_unasked:
                self._ask(inspection)
        prediction = inspection.prediction
        if self._looked_at is None or self._looked_at[1] is not prediction:
            problem = self._open(inspection, found, None if matched is None else found.true)
        elif found is not self._seen:
            self.view.show_labels(found.predicted)
        self._looked_at, self._seen = (inspection, prediction), found
        if matched is None:
            areas = np.bincount(found.predicted.ravel())[1:]
            self._tips = ["", *(f"cell {i}: {n} pixels" for i, n in enumerate(areas, 1))]
            self.view.colour(None)
            self.view.tell(self._tips)
        else:
            self._tips = describe_cells(matched, "predicted")
            self.view.colour(colour_cells(matched, "predicted"), colour_cells(matched, "true"))
            self.view.tell(self._tips, describe_cells(matched, "true"))
        return problem

    def _open(self, inspection: Inspection, found: FoundCells, true: np.ndarray | None) -> str:
        """Show another image; return what is wrong with it, or nothing."""
        problem, channels = "", inspection.entry.channels
        try:
            image = inspection.read_picture()
        except (ScellsegError, OSError) as error:
            # The cells can be looked at all the same.
            image, channels = np.zeros(found.predicted.shape, np.uint8), ()
            problem = plain(error)
        self.view.show(
            image,
            found.predicted,
            reference=true,
            channels=channels,
            layers=inspection.layers(),
            title=found.name,
        )
        return problem

    def _show_thresholds(self, inspection: Inspection) -> None:
        if inspection.choose_decoding(self.thresholds) is None:
            self.thresholds.load(None, None, FIXED)
        else:
            note = ASKING if inspection.is_unasked else ""
            entry = inspection.entry
            self.thresholds.load(entry.decoding, entry.representation, note)

    def _list_images(self, inspection: Inspection, iou: float) -> None:
        """Bring the list, its order and what acts on it up to date."""
        standings = [one.standing for one in self._inspections]
        stale = [one.is_stale(self.thresholds) for one in self._inspections]
        self._order = order_worst_first(standings, iou)
        options = [
            (describe(standings[i], iou) + (" *" if stale[i] else ""), i) for i in self._order
        ]
        self._filling = True  # the list goes to its first line when it is filled
        if self._list.options != tuple(options):
            self._list.options = options
        self._list.value = self._inspections.index(inspection)
        self._filling = False
        self._summary.value = sum_up(standings, iou, n_stale=sum(stale))
        self._apply.disabled = not any(stale)
        self._use.disabled = not self.thresholds.chosen
        self._previous.disabled = self._next.disabled = len(self._order) < 2

    def _say_where(self, inspection: Inspection, found: FoundCells) -> None:
        place = self._order.index(self._inspections.index(inspection)) + 1
        text = f"{found.name}: image {place} of {len(self._order)}, the worst first."
        if not found.predicted.any():
            text += " No cells were found in it; lower the first threshold to find more."
        self._message.tell(text)

    def _tell_selected(self) -> None:
        label = self.view.selected
        chosen = self._tips[label] if 0 < label < len(self._tips) else ""
        self._told.value = chosen or "Point at a cell to read what became of it."

    def _give(self, take: Callable[[FoundCells], None] | None) -> None:
        if self.entry is not None and take is not None:
            take(self.entry)


def _read_planes(sample: Sample) -> np.ndarray:
    """Image of a sample; its second plane is that of the nuclei, or nothing."""
    return np.moveaxis(sample.image, 0, -1) if sample.image[1].any() else sample.image[0]


# --- truth against prediction, in words and colours -------------------------------------------


def order_worst_first(standings: Sequence[Standing], iou: float) -> list[int]:
    """Positions of images in the order of their AP at a threshold, the lowest first.

    Equal ones are ordered by their mean AP, then stay in the order given. Images without true cells
    follow, and last those that cannot be compared.
    """

    def place(index: int) -> tuple[int, float, float]:
        one = standings[index]
        if one.scores is None:
            return (2 if one.problem else 1, 0.0, 0.0)
        return (0, one.ap(iou), one.mean_ap)

    return sorted(range(len(standings)), key=place)


def describe(standing: Standing, iou: float) -> str:
    """Say how an image stands, for a list: AP at the threshold, mean AP, name."""
    if standing.is_pending:
        return f"... · {standing.name}"
    if standing.problem:
        return f"cannot be compared · {standing.name}"
    if standing.scores is None:
        return f"no true cells given · {standing.name}"
    return f"AP {standing.ap(iou):.2f} · mean {standing.mean_ap:.2f} · {standing.name}"


def sum_up(standings: Sequence[Standing], iou: float, *, n_stale: int = 0) -> str:
    """Say how all images stand, and that some are marked by a star as not up to date, as HTML."""
    text = f"<b>{count(len(standings), 'image')}</b>, the worst first"
    scored = [standing for standing in standings if standing.scores is not None]
    if scored:
        ap = np.mean([standing.ap(iou) for standing in scored])
        mean = np.mean([standing.mean_ap for standing in scored])
        over = "In the one image" if len(scored) == 1 else f"Over the {len(scored)} images"
        text += (
            f"<br>{over} with true cells: AP {ap:.2f} at IoU {iou:.2f}, "
            f"mean AP {mean:.2f} (IoU 0.50 to 0.95)"
        )
    if n_stale:
        text += f"<br>* {count(n_stale, 'image')} still at the thresholds before"
    return f'<div style="line-height:1.4">{text}</div>'


def _of_side(matched: ObjectMatches, side: Side) -> pd.DataFrame:
    return matched.objects[matched.objects["side"] == side]


def colour_cells(matched: ObjectMatches, side: Side) -> np.ndarray:
    """Colour each cell of one side by what became of it.

    Found cells are to be filled, green (true positive) or orange (false positive); true cells to be
    outlined, green where they were found and blue where they were missed.

    Returns
    -------
    uint8[n + 1, 4]
        Red, green, blue and opacity by label, up to the highest; labels that no cell has, and the
        background, are not seen.
    """
    objects = _of_side(matched, side)
    labels = objects["label"].to_numpy(np.int64)
    table = np.zeros((labels.max(initial=0) + 1, 4), np.uint8)
    if len(labels):
        table[labels] = 255 * to_rgba_array(list(objects["outcome"].map(COLOURS))) + 0.5
        table[labels, 3] = OPACITY if side == "predicted" else 255
    return table


def describe_cells(matched: ObjectMatches, side: Side) -> list[str]:
    """Say of each cell of one side, by label, what became of it; index 0 is empty."""
    words = {
        ("predicted", "TP"): "cell {}: matches true cell {}, IoU {}, true positive",
        ("predicted", "FP"): "cell {0}: matches no true cell (best IoU {2}), false positive",
        ("true", "TP"): "true cell {}: found as cell {}, IoU {}, true positive",
        ("true", "FN"): "true cell {0}: missed (best IoU {2}), false negative",
    }
    objects = _of_side(matched, side)
    texts = [""] * (int(objects["label"].max()) + 1 if len(objects) else 1)
    for label, outcome, partner, iou in zip(
        *(objects[name] for name in ("label", "outcome", "partner", "iou")), strict=True
    ):
        texts[label] = words[side, outcome].format(label, partner, cut_off(iou))
    return texts


def cut_off(iou: float) -> str:
    """IoU with two decimals, cut off: 0.4999 is no 0.50, which a threshold of 0.50 would admit."""
    return f"{floor(iou * 100 + 1e-6) / 100:.2f}"


def explain_colours(matched: ObjectMatches | None, masks: np.ndarray, iou: float) -> str:
    """Say what the colours mean and how many cells there are of each, as HTML.

    Without true cells, `matched` is None and the found cells, int[H, W], are counted.
    """
    if matched is None:
        n_cells = int(np.count_nonzero(np.bincount(masks.ravel())[1:]))
        return (
            f'<div style="line-height:1.4"><b>{count(n_cells, "cell")}</b> found. No true '
            "cells are known of this image: annotate it to see which are right.</div>"
        )
    rows = (
        ("TP", "filled, outlined", matched.tp, "true positive: found, and right"),
        ("FP", "filled", matched.fp, "false positive: found, but no true cell fits"),
        ("FN", "outlined", matched.fn, "false negative: a true cell that was missed"),
    )
    body = ""
    for outcome, look, number, meaning in rows:
        colour = COLOURS[outcome]
        fill = f"{colour}78" if "filled" in look else "transparent"
        border = colour if "outlined" in look else "transparent"
        body += (
            f'<tr><td><span title="{look}" style="display:inline-block;width:14px;height:14px;'
            f"box-sizing:border-box;border-radius:4px;background:{fill};border:3px solid {border}"
            f'"></span></td><td style="text-align:right"><b>{number}</b></td>'
            f"<td>{meaning}</td></tr>"
        )
    return (
        f'<table style="line-height:1.4">{body}</table><div style="line-height:1.4">A found cell '
        f"is right when its IoU with a true cell is {iou:.2f} or more. IoU: the pixels that both "
        "share, divided by the pixels of either.</div>"
    )


def draw_curve(standing: Standing, iou: float, before: Scores | None = None) -> str:
    """Draw AP against the IoU threshold, the present one marked, as HTML; nothing without scores.

    `before` are scores of the model's own settings, drawn too.
    """
    if standing.scores is None:
        return ""
    label = "now" if before else ""
    curves = {label: standing.scores} | (
        {"before the thresholds were moved": before} if before else {}
    )
    frame = pd.concat(
        pd.DataFrame({"image": "", "label": name, "threshold": IOUS, "ap": one.ap})
        for name, one in curves.items()
    )
    figure = Figure(figsize=(3.2, 2.9), layout="constrained")
    ap_curve(frame, figure.subplots(), marked=iou)
    words = f"Average precision by IoU threshold; {standing.ap(iou):.2f} at {iou:.2f}"
    return render_html(figure, words)
