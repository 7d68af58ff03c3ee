"""Inspector: truth against prediction in colours, and thresholds that act while they are moved."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import floor

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from scellseg_lib import metrics
from scellseg_lib.metrics import Scores
from scellseg_lib.plots import STYLE, ap_curve
from scellseg_lib.segmentation import Prediction
from scellseg_lib.workbench import forms
from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.forms import button, count, heading, plain
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import IOUS, FoundCells, InspectedImage, Newest, Thresholds

EMPTY = (
    "There is nothing to inspect yet. Segment one or more images first; their cells are then shown "
    "here, beside the true cells where you have drawn them."
)
FIXED = (
    "The thresholds of these cells cannot be moved: choose the model that has made them under "
    "3 Segment, and come back."
)
LEARNT = "that the model has learnt from, or may have, which flatters it"
ASKING = "The network is asked about this image; then the cells follow the thresholds."
COLOURS = {"TP": "#009E73", "FP": "#E69F00", "FN": "#0072B2"}  # Okabe and Ito's: colour-blind safe
OPACITY = {"predicted": 120, "true": 255}
"""Of 255: the image is seen through found cells; of the true ones the outlines are drawn."""
OUTCOMES = {
    ("predicted", "TP"): "cell {}: matches true cell {}, IoU {}, true positive",
    ("predicted", "FP"): "cell {0}: matches no true cell (best IoU {2}), false positive",
    ("true", "TP"): "true cell {}: found as cell {}, IoU {}, true positive",
    ("true", "FN"): "true cell {0}: missed (best IoU {2}), false negative",
}

Give = Callable[[FoundCells], None]


class Inspector(ipywidgets.VBox):
    """Images with the cells found in them, against the true cells where they are known.

    `on_edit` and `on_use` get the cells that are looked at, by buttons that are there with them.
    """

    def __init__(
        self,
        entries: Sequence[InspectedImage] = (),
        *,
        on_edit: Give | None = None,
        on_use: Give | None = None,
    ) -> None:
        self._images: list[InspectedImage] = []
        self._current: InspectedImage | None = None
        self._shown: tuple[InspectedImage, Prediction | None, FoundCells] | None = None
        self._jobs: dict[str, Job] = {}
        self._tips: list[str] = []
        self._filling, self._refusal = False, ""
        self._redraw = Newest(self._draw)
        self._message = forms.Message()
        super().__init__([self._message, self._make(on_edit, on_use)])
        self.add_class("scellseg-inspector")
        self.view.observe(lambda _: self._tell_selected(), "selected")
        self.view.on("cycle", self.step)
        self.iou.observe(lambda _: self._redraw(), "value")
        self._list.observe(lambda change: self._go(change["new"]), "value")
        self.show(entries)

    def _make(self, on_edit: Give | None, on_use: Give | None) -> ipywidgets.HBox:
        """Make all below the message, in three columns."""
        self.view, self.thresholds = ImageView(), Thresholds(self._redraw)
        tip = "From which agreement with a true cell on a found cell is right"
        self.iou = forms.slider("iou", "IoU", tip, (IOUS[0], IOUS[-1], 0.01))
        self._list = ipywidgets.Select(description="Images").add_class("scellseg-images")
        self._summary, self._told, self._legend, self._curve = (
            ipywidgets.HTML().add_class(f"scellseg-{name}")
            for name in ("summary", "told", "legend", "ap-curve")
        )
        self._previous = button("◀ Previous", "previous", partial(self.step, -1))
        self._next = button("Next ▶", "next", partial(self.step, 1))
        correct, use = partial(self._give, on_edit), partial(self._give, on_use)
        tip = "Open its cells in the editor"
        self._correct = button("Correct this image", "correct", correct, tip=tip, style="primary")
        tip = "Find the cells of the other images at these thresholds too"
        self._apply = button("Apply to all images", "apply", self.apply_to_all, tip=tip)
        tip = "Take the thresholds to step 3, where the cells found with them are written"
        self._use = button("Segment with these", "use", use, tip=tip)
        forms.show(on_edit is not None, self._correct)
        forms.show(on_use is not None, self._use)
        buttons = ipywidgets.HBox([self._previous, self._next, self._correct])
        moved = [heading("Thresholds"), self.thresholds, ipywidgets.HBox([self._apply, self._use])]
        columns = [[self._summary, self._list], [buttons, self.view, self._told]]
        columns.append([self.iou, self._legend, self._curve, *moved])
        self._body = ipywidgets.HBox([ipywidgets.VBox(parts) for parts in columns])
        return self._body.add_class("scellseg-inspecting")

    def show(self, entries: Sequence[InspectedImage], first: str = "") -> None:
        """Look at other images, at their own thresholds: first that of a name, else of before."""
        for job in self._jobs.values():
            job.cancel()
        self.thresholds.chosen = {}
        first = first or (self._current.name if self._current else "")
        self._images = [replace(entry) for entry in entries]
        for image in self._images:
            if not callable(image.predicted):
                image.load()
        named = [image for image in self._images if image.name == first]
        self._current = next(iter(named + self._order()), None)
        self._shown = None
        self._redraw()
        if any(one.found.is_pending for one in self._images):
            self._for_each("Comparing", self._images, InspectedImage.load)

    def join(self, timeout: float | None = None) -> None:
        """Wait until nothing runs in the background, at most `timeout` seconds for each part."""
        for job in list(self._jobs.values()):
            job.join(timeout)

    @property
    def entry(self) -> FoundCells | None:
        """Cells that are looked at, at the present thresholds; None without any image."""
        image = self._current
        return replace(image.load(), prediction=image.said) if image else None

    def step(self, by: int) -> None:
        """Go to the next image of the list (1) or the one before (-1), round and round."""
        if self._current:
            order = self._order()
            self._go(order[(order.index(self._current) + by) % len(order)])

    def apply_to_all(self) -> Job:
        """Bring the other images to the present thresholds too, in a thread of its own."""
        wanted = {one: one.choose_decoding(self.thresholds) for one in self._images}

        def apply(image: InspectedImage) -> None:
            image.ask()
            image.apply(wanted[image])

        return self._for_each("Applying the thresholds", self._images, apply)

    def _for_each(
        self, doing: str, images: list[InspectedImage], act: Callable[[InspectedImage], object]
    ) -> Job:
        """Do something to images, one after the other, in the place of what does so already."""
        before = self._jobs.get(doing)
        if before is not None:
            before.cancel()

        def work(job: Job) -> None:
            if before is not None:
                before.join()  # two at once are slower than one after the other
            for done, image in enumerate(images):
                job.report(done, len(images))
                act(image)
                if image is not self._current:  # nobody looks at it
                    image.rest()

        def follow(job: Job) -> None:
            if job is not self._jobs[doing]:
                return  # other images are shown by now
            if job.error is not None:
                self._refusal = plain(job.error)
            if job.ended:
                self._redraw()
            elif job.total > 1:
                self._summary.value = f"{doing}: {job.done} of {job.total} images done."

        self._jobs[doing] = job = Job(work, on_change=follow)
        return job.start()

    def _go(self, image: InspectedImage | None) -> None:
        if image and image is not self._current and not self._filling:
            self._current = image
            self._redraw()

    def _draw(self) -> None:
        """Show the current image at the present thresholds; `_redraw` alone calls it."""
        forms.show(bool(self._images), self._body)
        with self._message.tell_errors():
            if self._current:
                self._draw_image(self._current, self.iou.value)
            else:
                self._message.tell(EMPTY)

    def _draw_image(self, image: InspectedImage, iou: float) -> None:
        found = image.apply(image.choose_decoding(self.thresholds))
        matched = None
        if found.true is not None and found.scores is not None:
            matched = metrics.match(found.true, found.predicted, iou)
        problem = self._draw_cells(image, found, matched) or found.problem
        before = None if found.decoding == image.decoding else image.given_scores
        self._legend.value = explain_colours(matched, found.cells, iou)
        self._curve.value = draw_curve(found, iou, before)
        if image.choose_decoding(self.thresholds) is None:
            self.thresholds.load(None, None, FIXED)
        else:
            note = ASKING if image.is_unasked else ""
            self.thresholds.load(image.decoding, image.representation, note)
        self._list_images()
        self._tell_selected()
        place = self._order().index(image) + 1
        text = f"{found.name}: image {place} of {len(self._images)}, the worst first."
        if not found.predicted.any():
            text += " No cells were found in it; lower the first threshold to find more."
        if problem := problem or self._refusal:
            self._message.fail(problem)
        else:
            self._message.tell(text)

    def _draw_cells(
        self, image: InspectedImage, found: FoundCells, matched: pd.DataFrame | None
    ) -> str:
        """Bring the picture up to date; return what is wrong with the image, or nothing."""
        problem, shown = "", self._shown
        if shown is None or image is not shown[0]:
            self._refusal = ""
            if shown is not None:
                shown[0].rest()
            shown = None
            if image.is_unasked:
                self._for_each("Asking", [image], InspectedImage.ask)
        said = image.said
        if shown is None or said is not shown[1]:
            pixels, problem = image.read_picture()
            true, layers = None if matched is None else found.true, image.layers()
            self.view.show(pixels, found.predicted, reference=true, layers=layers, title=found.name)
        elif found is not shown[2]:
            self.view.show_labels(found.predicted)
        self._shown = image, said, found
        if matched is None:
            areas = np.bincount(found.predicted.ravel())[1:]
            self._tips = ["", *(f"cell {i}: {n} pixels" for i, n in enumerate(areas, 1))]
            self.view.colour(None)
            self.view.tell(self._tips)
        else:
            colours, self._tips = tell_outcomes(matched, "predicted")
            true_colours, true_tips = tell_outcomes(matched, "true")
            self.view.colour(colours, true_colours)
            self.view.tell(self._tips, true_tips)
        return problem

    def _order(self) -> list[InspectedImage]:
        """Images, the worst first."""
        return sorted(self._images, key=lambda one: one.found.rank(self.iou.value))

    def _list_images(self) -> None:
        order, iou = self._order(), self.iou.value
        every = [one.found for one in order]
        stale = [one.is_stale(self.thresholds) for one in order]
        titles = [describe(one, iou) + " *" * old for one, old in zip(every, stale, strict=True)]
        self._filling = True  # the list goes to its first line when it is filled
        self._list.options = tuple(zip(titles, order, strict=True))
        self._list.value = self._current
        self._filling = False
        self._summary.value = sum_up(every, iou, n_stale=sum(stale))
        self._apply.disabled = not any(stale)
        self._use.disabled = not self.thresholds.chosen
        self._previous.disabled = self._next.disabled = len(every) < 2

    def _tell_selected(self) -> None:
        label = self.view.selected
        chosen = self._tips[label] if 0 < label < len(self._tips) else ""
        self._told.value = chosen or "Point at a cell to read what became of it."

    def _give(self, take: Give | None) -> None:
        if self.entry is not None and take is not None:
            take(self.entry)


def describe(found: FoundCells, iou: float) -> str:
    """Say how an image stands, for a list: AP at the threshold, mean AP, name."""
    text = f"AP {found.ap(iou):.2f} · mean {found.mean_ap:.2f}"
    if found.scores is None:
        text = "cannot be compared" if found.problem else f"{count(found.cells, 'cell')} found"
    learnt = " (perhaps learnt from)" if found.learnt and found.scores else ""
    return f"{'...' if found.is_pending else text} · {found.name}{learnt}"


def sum_up(every: Sequence[FoundCells], iou: float, *, n_stale: int = 0) -> str:
    """Say how all images stand, and that some are marked by a star as not up to date, as HTML."""
    text = f"<b>{count(len(every), 'image')}</b>, the worst first; "
    text += f"{count(sum(one.cells for one in every), 'cell')} found"
    for learnt, words in ((False, "with true cells"), (True, LEARNT)):
        scored = [one for one in every if one.scores is not None and one.learnt is learnt]
        if scored:
            ap = np.mean([one.ap(iou) for one in scored])
            mean = np.mean([one.mean_ap for one in scored])
            over = "In the one image" if len(scored) == 1 else f"Over the {len(scored)} images"
            text += f"<br>{over} {words}: AP {ap:.2f} at IoU {iou:.2f}, mean AP {mean:.2f} "
            errors = tell_errors(pd.DataFrame([one.errors for one in scored]))
            text += f"(IoU 0.50 to 0.95)<br>{errors}"
    if n_stale:
        text += f"<br>* {count(n_stale, 'image')} still at the thresholds before"
    return f"<div>{text}</div>"


def tell_errors(errors: pd.DataFrame) -> str:
    """Say by how much what is measured is wrong, from a row of `metrics.MEASURED` an image."""
    told = []
    for name, column in errors.items():
        spread = f" (SD {column.std():.0%})" if column.count() > 1 else ""
        if column.count():
            told.append(f"{str(name).replace('_', ' ')} {column.mean():+z.0%}{spread}")
    return f"Errors of what is measured: {', '.join(told)}" if told else ""


def tell_outcomes(matched: pd.DataFrame, side: str) -> tuple[np.ndarray, list[str]]:
    """Colours, uint8[n + 1, 4], and words for what became of the cells of one side; by label."""
    objects = matched[matched["side"] == side]
    size = int(objects["label"].max()) + 1 if len(objects) else 1
    colours, words = np.zeros((size, 4), np.uint8), [""] * size
    columns = (objects[name] for name in ("label", "outcome", "partner", "iou"))
    for label, outcome, partner, iou in zip(*columns, strict=True):
        colours[label] = [*bytes.fromhex(COLOURS[outcome][1:]), OPACITY[side]]
        # 0.4999 is no 0.50, which a threshold of 0.50 would admit.
        cut_off = f"{floor(iou * 100 + 1e-6) / 100:.2f}"
        words[label] = OUTCOMES[side, outcome].format(label, partner, cut_off)
    return colours, words


def explain_colours(matched: pd.DataFrame | None, n_cells: int, iou: float) -> str:
    """Say what the colours mean and how many cells there are of each, as HTML."""
    if matched is None:
        hint = "No true cells are known of this image: annotate it to see which are right."
        return f"<div><b>{count(n_cells, 'cell')}</b> found. {hint}</div>"
    n = matched["outcome"].value_counts()
    rows = (
        ("TP", "&#9632;", n.get("TP", 0) // 2, "true positive: found, and right"),
        ("FP", "&#9632;", n.get("FP", 0), "false positive: found, but no true cell fits"),
        ("FN", "&#9633;", n.get("FN", 0), "false negative: a true cell that was missed"),
    )
    table = "".join(
        f'<tr><td style="color:{COLOURS[outcome]};font-size:18px">{square}</td>'
        f'<td style="text-align:right"><b>{number}</b></td><td>{meaning}</td></tr>'
        for outcome, square, number, meaning in rows
    )
    rule = f"A found cell is right when its IoU with a true cell is {iou:.2f} or more. IoU: the "
    rule += "pixels that both share, divided by the pixels of either."
    return f"<div><table>{table}</table>{rule}</div>"


def draw_curve(found: FoundCells, iou: float, before: Scores | None = None) -> str:
    """Draw AP against the IoU threshold, and how it was at the model's own thresholds, as HTML."""
    if found.scores is None:
        return ""
    curves = {"": found.scores}
    if before is not None:
        curves = {"at these thresholds": found.scores, "at the model's own": before}
    frame = pd.concat(
        pd.DataFrame({"image": "", "label": name, "threshold": IOUS, "ap": scores.ap})
        for name, scores in curves.items()
    )
    with plt.style.context(STYLE):
        figure = Figure(figsize=(3.3, 3.2))
        axes = figure.add_axes((0.15, 0.3, 0.82, 0.67))
    ap_curve(frame, axes, marked=iou)
    words = f"Average precision by IoU threshold; {found.ap(iou):.2f} at {iou:.2f}"
    return forms.render_html(figure, words)
