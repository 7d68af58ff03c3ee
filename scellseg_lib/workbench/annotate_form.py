"""What the annotation panel consists of, and how it looks; what it does is in `annotate_panel`."""

from __future__ import annotations

import ipywidgets

from scellseg_lib.workbench.editor import MaskEditor
from scellseg_lib.workbench.forms import Message, row

HEIGHT, TOOLBARS = 500, 95
"""Of the image in the page, and of what is above it, px."""
SPOKEN = 60
"""Room for two lines of words, px: what a model says must not move what is drawn on."""


class AnnotateForm(ipywidgets.VBox):
    """Field, list, buttons and editor of the annotation panel, each an attribute of its name."""

    def __init__(self) -> None:
        self.folder = ipywidgets.Text(
            continuous_update=False,
            placeholder="folder with your images",
            layout={"width": "520px"},
        ).add_class("scellseg-annotate-folder")
        self.list = ipywidgets.Select(
            layout={"flex": "0 0 190px", "height": f"{HEIGHT + TOOLBARS}px"}
        ).add_class("scellseg-annotate-images")
        self.message = Message()
        self.message.layout.flex = "1 1 0"
        self.suggest = _button("Suggest cells", "suggest")
        self.suggest.tooltip = "The model chosen in step 3 finds cells; what you have drawn stays"
        self.learn = _button("Learn from this image", "learn", "primary")
        self.replace = _button("Replace them", "replace", "danger")
        self.again = _button("Open the image again", "again")
        self.back = _button("Back to my images", "back")
        self.editor = MaskEditor(height=HEIGHT, layout={"flex": "1 1 0", "width": "auto"})
        speaking = ipywidgets.HBox(
            [self.suggest, self.learn, self.replace, self.again, self.back, self.message],
            layout={"align_items": "center", "grid_gap": "4px", "min_height": f"{SPOKEN}px"},
        )
        both = ipywidgets.HBox(
            [self.list, self.editor],
            layout={"align_items": "flex-start", "width": "100%", "grid_gap": "8px"},
        )
        super().__init__([row("Folder", self.folder), speaking, both])
        self.add_class("scellseg-annotate-panel")


def _button(words: str, name: str, style: str = "") -> ipywidgets.Button:
    button = ipywidgets.Button(description=words, button_style=style, layout={"width": "auto"})
    return button.add_class(f"scellseg-annotate-{name}")
