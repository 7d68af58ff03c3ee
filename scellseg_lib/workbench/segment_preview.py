"""One image with the settings as they are: the network runs once, thresholds act at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from scellseg_lib.files import images as readers
from scellseg_lib.model import Model
from scellseg_lib.segmentation import Prediction, decode
from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.folder_run import reworded
from scellseg_lib.workbench.forms import Message, count, plain, row
from scellseg_lib.workbench.jobs import Job
from scellseg_lib.workbench.session import (
    Newest,
    SegmentationSettings,
    network_pictures,
    predict_one,
)

Chosen = tuple[Model, SegmentationSettings]


@dataclass(frozen=True, eq=False)
class _Tried:
    """An image that the network has seen."""

    image: Path
    model: Model
    settings: SegmentationSettings
    prediction: Prediction
    pixels: np.ndarray

    def serves(self, image: Path | None, model: Model, settings: SegmentationSettings) -> bool:
        """Whether the network would say the same again."""
        same = (self.image, self.settings.seen) == (image, settings.seen)
        return same and self.model is model


WHERE = "Say above where your images are; then try the settings on one."


class SegmentPreview(ipywidgets.VBox):
    """Try settings on one image.

    Parameters
    ----------
    chosen : callable
        Gives the model and the settings; None while there is no model.
    on_fail : callable
        Called with an image that cannot be segmented, and why.

    Attributes
    ----------
    view : ImageView
        The image with its cells.
    job : Job or None
        Latest run of the network.
    """

    def __init__(
        self, chosen: Callable[[], Chosen | None], on_fail: Callable[[Path, BaseException], None]
    ) -> None:
        self._chosen, self._on_fail = chosen, on_fail
        self._tried: _Tried | None = None
        self._drawn: Prediction | None = None
        self.job: Job | None = None
        self.image = ipywidgets.Dropdown(layout=ipywidgets.Layout(width="320px"))
        self.image.add_class("scellseg-preview-image")
        self.button = ipywidgets.Button(description="Try", disabled=True, icon="eye")
        self.button.add_class("scellseg-preview-try")
        self.button.on_click(lambda _: self.try_image())
        self.message = Message()
        self.view = ImageView(height=420)
        self.view.layout.display = "none"
        self._redraw = Newest(self._draw)
        self.image.observe(lambda _: self.follow(), "value")
        super().__init__([row("Image", self.image, self.button), self.message, self.view])
        self.add_class("scellseg-preview")

    def offer(self, images: Sequence[tuple[str, Path]]) -> None:
        """Offer images by name; the one chosen before stays if it is among them."""
        before = self.image.value
        self.image.options = images
        if images:
            paths = [image for _, image in images]
            self.image.value = before if before in paths else paths[0]
        self.button.disabled = not images
        if not images:
            self.message.tell(WHERE)
        elif self.message.text in ("", WHERE):
            self.message.tell("Choose an image and press Try.")

    def try_image(self) -> Job | None:
        """Let the network see the chosen image, in a thread of its own."""
        chosen, image = self._chosen(), self.image.value
        if chosen is None or image is None:
            return None
        model, settings = chosen

        def work(job: Job) -> _Tried:
            job.report(0, 1, image=image)
            pixels = readers.read_pixels(image)
            return _Tried(image, model, settings, predict_one(model, image, settings), pixels)

        self.job = Job(work, on_change=self._followed)
        return self.job.start()

    def follow(self) -> None:
        """Bring the cells to the thresholds as they are now."""
        if self._tried is not None and not self._running:
            self._redraw()

    @property
    def _running(self) -> bool:
        return self.job is not None and not self.job.ended

    def _followed(self, job: Job) -> None:
        if job is not self.job:
            return  # another was begun meanwhile
        self.button.disabled = not job.ended
        if not job.ended:
            self.message.tell("The network looks at the image. This can take a few seconds.")
        elif job.state == "failed":
            assert job.error is not None
            self.message.fail(reworded(plain(job.error)))
            self._on_fail(job.facts["image"], job.error)
        else:
            self._tried = job.result
            self._redraw()

    def _draw(self) -> None:
        chosen, tried = self._chosen(), self._tried
        if chosen is None or tried is None:
            return
        model, settings = chosen
        if not tried.serves(self.image.value, model, settings):
            self.message.tell("What you have changed needs a new look: press Try again.")
            return
        prediction, representation = tried.prediction, model.representation
        masks = decode(prediction, representation, settings.decoding, resample=settings.resample)
        if prediction is self._drawn:
            self.view.show_labels(masks)
        else:
            layers: dict[str, Any] = network_pictures(prediction, representation)
            self.view.show(tried.pixels, masks, layers=layers, title=tried.image.name)
            self._drawn = prediction
        self.view.layout.display = None
        n_cells = count(int(np.count_nonzero(np.unique(masks))), "cell")
        hint = "" if masks.any() else " Lower the cell probability, or check the diameter."
        self.message.tell(f"{n_cells} found.{hint} Move a threshold: the cells follow.")
