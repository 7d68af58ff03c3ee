"""The mask editor: cells of one image drawn, corrected and classified in the browser."""

from scellseg_lib.workbench.editor.editor import MaskEditor, MasksChanged
from scellseg_lib.workbench.editor.view import ImageView

__all__ = ["ImageView", "MaskEditor", "MasksChanged"]
