"""With which model and how images are segmented, as a form."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from scellseg_lib.errors import ScellsegError
from scellseg_lib.model import Model
from scellseg_lib.network import weights_hash
from scellseg_lib.representation import Decoding
from scellseg_lib.workbench.experiment import OfferedModel, describe_model, offer_models
from scellseg_lib.workbench.forms import Message, plain, row
from scellseg_lib.workbench.session import SegmentationSettings, Thresholds

COLOURS = ("red", "green", "blue")


class SegmentSettings(ipywidgets.VBox):
    """Model, diameter, channels, thresholds and the ways to decode; `refresh` fills it.

    Parameters
    ----------
    on_change : callable
        Called after anything was changed.

    Attributes
    ----------
    loaded : (OfferedModel, Model, str) or None
        The model chosen and the hash of its weights; None where it cannot be loaded.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.loaded: tuple[OfferedModel, Model, str] | None = None
        self._on_change, self._quiet, self._own_channels = on_change, True, True
        self._chosen: OfferedModel | None = None
        wide = ipywidgets.Layout(width="420px")
        self.model = ipywidgets.Dropdown(layout=wide).add_class("scellseg-segment-model")
        self._origin = ipywidgets.HTML(layout=ipywidgets.Layout(width="620px")).add_class(
            "scellseg-segment-origin"
        )
        self.message = Message()
        self.diameter = ipywidgets.BoundedFloatText(
            min=1, max=5000, step=1, layout=ipywidgets.Layout(width="110px")
        ).add_class("scellseg-segment-diameter")
        self._usual = ipywidgets.HTML()
        self.to_segment, self.nuclei = (
            ipywidgets.Dropdown(layout=ipywidgets.Layout(width="200px")).add_class(name)
            for name in ("scellseg-segment-channel", "scellseg-segment-nuclei")
        )
        self._channels = row(
            "Channels",
            ipywidgets.HTML("cells in&nbsp;"),
            self.to_segment,
            ipywidgets.HTML("&nbsp;nuclei in&nbsp;"),
            self.nuclei,
        )
        self._channels.layout.display = "none"
        self.thresholds = Thresholds(self._thresholds_moved)
        self.full_size = _box("Smooth outlines: find the cells at the image's full size", True)
        self.flips = _box("Look at each image four times, mirrored: better, four times as long")
        self.full_size.add_class("scellseg-segment-full-size")
        self.flips.add_class("scellseg-segment-flips")
        super().__init__([*self._rows()])
        self.model.observe(self._model_chosen, "value")
        for widget in (self.to_segment, self.nuclei):
            widget.observe(self._channel_chosen, "value")
        for widget in (self.diameter, self.full_size, self.flips):
            widget.observe(lambda _: self._changed(), "value")
        self._quiet = False

    def _rows(self) -> tuple[ipywidgets.Widget, ...]:
        thresholds = row("Thresholds", ipywidgets.Box([self.thresholds], layout={"width": "520px"}))
        best = row("For the best cells", ipywidgets.VBox([self.full_size, self.flips]))
        for tall in (thresholds, best):
            tall.layout.align_items = "flex-start"
        return (
            row("Model", self.model),
            row("", self._origin),
            self.message,
            row("Diameter of the cells", self.diameter, self._usual),
            self._channels,
            thresholds,
            best,
        )

    def refresh(self, folder: Path | None, choose: Path | None = None) -> None:
        """List the models anew.

        Parameters
        ----------
        folder : Path or None
            Of the experiment.
        choose : Path, optional
            A model to choose; None: that which the user chose before, else the newest of the user's
            own, else Scellseg.
        """
        before, found = self._chosen, offer_models(folder)
        wanted = [one for one in found if choose is not None and one.name == choose]
        kept = [one for one in found if before and one.key == before.key]
        options = [(one.title, one) for one in found]
        self._quiet = True
        self.model.options = options  # chooses the first
        self.model.value = (wanted or kept or found)[0]
        self._quiet, self._chosen = False, wanted[0] if wanted else before
        self._load()

    @property
    def asks_channels(self) -> bool:
        """Whether channels are to be chosen."""
        return self._channels.layout.display != "none"

    def settings(self) -> SegmentationSettings | None:
        """What is chosen; None without a model."""
        if self.loaded is None:
            return None
        model = self.loaded[1]
        decoding = self.thresholds.apply_to(model.card.decoding, model.representation)
        return SegmentationSettings(
            self.diameter.value,
            decoding,
            self.full_size.value,
            self.flips.value,
            (self.to_segment.value, self.nuclei.value) if self.asks_channels else None,
        )

    @property
    def chosen(self) -> tuple[OfferedModel, Model, SegmentationSettings] | None:
        """The model and the settings as they are; None without a model."""
        settings = self.settings()
        return None if self.loaded is None or settings is None else (*self.loaded[:2], settings)

    def take_thresholds(self, decoding: Decoding) -> None:
        """Move the thresholds to those of a decoding."""
        if self.loaded is None:
            return
        model = self.loaded[1]
        own, used = model.card.decoding, model.representation.thresholds
        wanted = {name: getattr(decoding, name) for name in used}
        self.thresholds.chosen = {
            name: value for name, value in wanted.items() if value != getattr(own, name)
        }
        self._thresholds_moved()

    def offer_channels(self, pixels: np.ndarray | None) -> None:
        """Ask for channels where those of an image, number[H, W] or [H, W, C], differ."""
        stack = np.zeros((1, 1, 1)) if pixels is None else np.atleast_3d(pixels)
        differ = not np.array_equal(stack[..., 1:], stack[..., :-1], equal_nan=True)
        names = [*COLOURS, *map(str, range(3, stack.shape[2]))][: stack.shape[2]]
        numbered = [
            (f"channel {number} ({name})" if name in COLOURS else f"channel {number}", name)
            for number, name in enumerate(names, start=1)
        ]
        mean = ("the mean of all channels", "gray")
        self._quiet = True
        before = self.to_segment.value, self.nuclei.value
        self.to_segment.options = [*numbered, mean]
        self.nuclei.options = [("none", "none"), *numbered, mean]
        chosen = before if not self._own_channels else self._card_channels()
        self._choose_channels(chosen)
        self._channels.layout.display = None if differ else "none"
        self._quiet = False

    def _choose_channels(self, names: tuple[str, ...]) -> None:
        """Choose those that there are: else the mean of all, and no nuclei."""
        for widget, name, usual in zip(
            (self.to_segment, self.nuclei), names, ("gray", "none"), strict=True
        ):
            known = [value for _, value in widget.options]
            widget.value = name if name in known else usual

    def _card_channels(self) -> tuple[str, ...]:
        """Planes that the model was made for, colours by their names."""
        card = ("gray", "none") if self.loaded is None else self.loaded[1].card.channels
        return tuple(COLOURS[int(n)] if n in ("0", "1", "2") else n for n in card)

    def _model_chosen(self, change: dict[str, Any]) -> None:
        if not self._quiet:
            self._chosen = change["new"]
        self._load()

    def _load(self) -> None:
        """Load the model chosen and show what its card says."""
        if self._quiet or self.model.value is None:
            return
        self.loaded = None
        try:
            model = self.model.value.load()
        except (ScellsegError, OSError) as error:
            self.message.fail(f"{plain(error)} Choose another model.")
            self._origin.value = self._usual.value = ""
            self.thresholds.load(None, None)
            self._on_change()
            return
        self.loaded = self.model.value, model, weights_hash(model.network)
        self.message.tell("")
        self._origin.value = (
            f"<div style='line-height:1.4;color:#595959'>{escape(describe_model(model.card))}</div>"
        )
        self._usual.value = f"&nbsp;pixels (the model was made for {model.card.diameter:g})"
        self._quiet = True
        self.diameter.value = model.card.diameter
        self.thresholds.chosen = {}
        self.thresholds.load(model.card.decoding, model.representation)
        if self._own_channels and self.to_segment.options:
            self._choose_channels(self._card_channels())
        self._quiet = False
        self._on_change()

    def _thresholds_moved(self) -> None:
        if self.loaded is not None:  # the sliders follow where all was taken back
            model = self.loaded[1]
            self.thresholds.load(model.card.decoding, model.representation)
        self._changed()

    def _channel_chosen(self, _: object) -> None:
        if not self._quiet:
            self._own_channels = False
        self._changed()

    def _changed(self) -> None:
        if not self._quiet:
            self._on_change()


def _box(words: str, value: bool = False) -> ipywidgets.Checkbox:
    layout = ipywidgets.Layout(width="auto")
    return ipywidgets.Checkbox(description=words, value=value, indent=False, layout=layout)
