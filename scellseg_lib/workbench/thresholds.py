"""Sliders for the step from the network's maps to cells, those that the representation reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from threading import Lock

import ipywidgets

from scellseg_lib.representation import Decoding, Representation


@dataclass(frozen=True)
class _Setting:
    """Slider of one field of `Decoding`."""

    label: str
    meaning: str
    low: float
    high: float
    step: float


SETTINGS = {
    "cell_threshold": _Setting("Cell probability", "Higher: fewer, smaller cells.", -6, 6, 0.1),
    "flow_threshold": _Setting(
        "Flow error", "Lower: only cells of clear shape stay; but 0: all stay.", 0, 3, 0.05
    ),
    "interior_threshold": _Setting("Inside of cells", "Higher: fewer, smaller cells.", -6, 6, 0.1),
    "border_threshold": _Setting("Border of cells", "Higher: thinner borders.", -6, 6, 0.1),
    "min_size": _Setting(
        "Smallest cell", "Pixels, in an image whose cells are 30 pixels wide.", 0, 500, 1
    ),
}


class Newest:
    """Do work anew whenever it is asked for, never twice at once, skipping all but the newest wish.

    Who asks while it is at work returns at once; when that is done, it is done once more, for all
    who asked meanwhile.

    Parameters
    ----------
    work : callable
        Reads for itself what is wished.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._lock = work, Lock()
        self._asked = self._busy = False

    def __call__(self) -> None:
        """Ask for the work."""
        with self._lock:
            self._asked = True
            if self._busy:
                return
            self._busy = True
        try:
            while self._takes():
                self._work()
        except BaseException:
            with self._lock:
                self._busy = False
            raise

    def _takes(self) -> bool:
        """Whether somebody has asked since the work began; if not, it is over."""
        with self._lock:
            taken, self._asked = self._asked, False
            self._busy = taken
            return taken


class Thresholds(ipywidgets.VBox):
    """One slider for each threshold.

    Parameters
    ----------
    on_change : callable
        Called after the user has moved a slider or taken all back.

    Attributes
    ----------
    chosen : dict
        What the user has chosen, by the names of `Decoding`'s fields.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.chosen: dict[str, float] = {}
        self._on_change = on_change
        self._shown: dict[str, float] = {}
        self._sliders = {name: self._slider(name) for name in SETTINGS}
        self._rows = {name: _explained(slider, name) for name, slider in self._sliders.items()}
        self._note = ipywidgets.HTML()
        self._note.add_class("scellseg-thresholds-note")
        self._reset = ipywidgets.Button(
            description="Back to the model's own",
            tooltip="Take all changes of the thresholds back",
            layout={"width": "auto"},
        )
        self._reset.add_class("scellseg-thresholds-reset")
        self._reset.on_click(lambda _: self.reset())
        super().__init__([*self._rows.values(), self._note, self._reset])
        self.add_class("scellseg-thresholds")
        self.load(None, None)

    def load(
        self, decoding: Decoding | None, representation: Representation | None, note: str = ""
    ) -> None:
        """Show the thresholds of an image, without a call of `on_change`.

        Parameters
        ----------
        decoding : Decoding or None
            Before anything was chosen. None: nothing can be moved.
        representation : Representation or None
            That reads it.
        note : str
            Said below the sliders, or in their place: why nothing can be moved.
        """
        self._loaded = decoding, representation, note
        used = representation.thresholds if decoding and representation else ()
        for name, slider in self._sliders.items():
            self._rows[name].layout.display = None if name in used else "none"
            if name in used:
                value = self.chosen.get(name, getattr(decoding, name))
                # A model may have been tuned to a value outside of the usual.
                slider.min, slider.max = min(slider.min, value), max(slider.max, value)
                self._shown[name] = value
                slider.value = value
        self._note.value = escape(note)
        self._reset.layout.display = None if used else "none"
        self._reset.disabled = not self.chosen

    def of(self, decoding: Decoding, representation: Representation) -> Decoding:
        """Thresholds that hold for an image whose own are `decoding`."""
        used = representation.thresholds
        changes = {name: value for name, value in self.chosen.items() if name in used}
        return decoding.model_copy(update=changes)

    def reset(self) -> None:
        """Take all changes back."""
        self.chosen = {}
        self.load(*self._loaded)
        self._on_change()

    def _slider(self, name: str) -> ipywidgets.FloatSlider | ipywidgets.IntSlider:
        setting = SETTINGS[name]
        whole = isinstance(setting.step, int)
        slider = (ipywidgets.IntSlider if whole else ipywidgets.FloatSlider)(
            value=setting.low,
            min=setting.low,
            max=setting.high,
            step=setting.step,
            description=setting.label,
            readout_format="d" if whole else ".2f",
            tooltip=setting.meaning,
            style={"description_width": "110px"},
            layout={"width": "100%"},
        )
        slider.add_class(f"scellseg-{name.replace('_', '-')}")
        slider.observe(lambda change: self._chose(name, change["new"]), "value")
        return slider

    def _chose(self, name: str, value: float) -> None:
        if value == self._shown.get(name):
            return  # it was loaded, not moved
        # The browser adds steps up in binary: 0.30000000000000004 is 0.3.
        value = round(value, 6)
        self._shown[name] = value
        self.chosen = {**self.chosen, name: value}
        self._reset.disabled = False
        self._on_change()


def _explained(slider: ipywidgets.Widget, name: str) -> ipywidgets.VBox:
    """Slider over the words that say what it does."""
    words = ipywidgets.HTML(
        f'<div style="line-height:1.3;color:#595959;margin:0 0 4px 4px">{SETTINGS[name].meaning}'
        "</div>"
    )
    return ipywidgets.VBox([slider, words])
