"""What the inspector consists of, and how it looks; what it does is in `inspector`."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets

from scellseg_lib.workbench.comparison import IOUS
from scellseg_lib.workbench.editor import ImageView
from scellseg_lib.workbench.forms import Message, button, heading
from scellseg_lib.workbench.thresholds import Thresholds

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


class InspectorForm(ipywidgets.VBox):
    """Picture, list, sliders and buttons of the inspector.

    Parameters
    ----------
    on_thresholds : callable
        Called when a threshold of the cells was moved.

    Attributes
    ----------
    view : ImageView
        The picture.
    iou : ipywidgets.FloatSlider
        Threshold from which on a found cell is right, 0.50 to 0.95.
    thresholds : Thresholds
        Of the step from the network's maps to cells.
    """

    def __init__(self, on_thresholds: Callable[[], None]) -> None:
        self.view = ImageView()
        self.thresholds = Thresholds(on_thresholds)
        self.iou = _iou_slider()
        self._list = ipywidgets.Select(layout={"width": "auto", "height": "380px"})
        self._list.add_class("scellseg-images")
        self._message = Message()
        self._summary, self._told = _html("summary"), _html("told")
        self._legend, self._curve = _html("legend"), _html("ap-curve")
        self._body = self._laid_out()
        super().__init__([heading("Inspect the cells"), self._message, self._body])
        self.add_class("scellseg-inspector")

    def _laid_out(self) -> ipywidgets.HBox:
        """Make the buttons, and put all below the message in three columns."""
        self._previous = button("◀ Previous", "previous", tip="Image before in the list")
        self._next = button("Next ▶", "next", tip="Next image of the list")
        self._correct = button("Correct this image", "correct", tip="Open its cells in the editor")
        self._correct.button_style = "primary"
        self._apply = button(
            "Apply to all images",
            "apply",
            tip="Find the cells of the other images at these thresholds too",
        )
        self._use = button(
            "Segment with these",
            "use",
            tip="Take the thresholds to step 3, where the cells found with them are written",
        )
        moved = heading("Thresholds")
        ends = ipywidgets.HBox([self._apply, self._use])
        buttons = ipywidgets.HBox([self._previous, self._next, self._correct])
        columns = (
            ("0 0 250px", [self._summary, self._list]),
            ("1 1 420px", [buttons, self.view, self._told]),
            (
                "0 0 350px",
                [self.iou, self._legend, self._curve, moved, self.thresholds, ends],
            ),
        )
        boxes = [
            ipywidgets.VBox(
                children, layout={"flex": flex, "min_width": "0", "margin": "0 8px 0 0"}
            )
            for flex, children in columns
        ]
        # What finds no room beside the picture goes below it.
        return ipywidgets.HBox(boxes, layout={"width": "100%", "flex_flow": "row wrap"})


def _iou_slider() -> ipywidgets.FloatSlider:
    slider = ipywidgets.FloatSlider(
        value=IOUS[0],
        min=IOUS[0],
        max=IOUS[-1],
        step=0.01,
        description="IoU",
        readout_format=".2f",
        tooltip="From which agreement with a true cell on a found cell is right",
        style={"description_width": "110px"},
        layout={"width": "100%"},
    )
    slider.add_class("scellseg-iou")
    return slider


def _html(name: str, text: str = "") -> ipywidgets.HTML:
    widget = ipywidgets.HTML(text)
    widget.add_class(f"scellseg-{name}")
    return widget
