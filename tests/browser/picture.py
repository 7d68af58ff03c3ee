"""Screenshots of the workbench for Fig. 6, taken anew where its code has changed (make figures)."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from scellseg_lib import paths
from tests.browser.conftest import Opener
from tests.browser.servers import Server
from tests.browser.test_workbench import DRAW, INSPECT

PLACE = paths.results("fig6_workbench")
CODE = [Path(__file__), *sorted((paths.PACKAGE / "workbench").rglob("*.[pjc][ys]*"))]
NOW = sha256(b"".join(file.read_bytes() for file in CODE)).hexdigest()
MODULES = {  # of the paper: menu, list, display, prompt, cycle, functions; and where each is
    "A": ".scellseg-tabs .lm-TabBar-content",
    "B": f".scellseg-annotate-images, {DRAW} .se-list",
    "C": f"{DRAW} .se-stage",
    "D": f".scellseg-annotate-panel .scellseg-message, {DRAW} .se-message",
    "E": f"{DRAW} .se-previous, {DRAW} .se-next",
    "F": f"{DRAW} .se-editing",
}
OPEN = """import os
os.environ.pop("SCELLSEG_DATA", None)  # a user's own models
from pathlib import Path
from scellseg_lib.workbench import app
workbench = app.Workbench(app.make_example(Path("worms")))
workbench.annotate.show(workbench.annotate.images[0])"""
TUNE = """workbench.tabs.selected_index = app.FINETUNE
workbench.finetune.folder.value = "worms" """
SEGMENT = """models = workbench.segment.form.model
models.value = next(value for name, value in models.options if "quicker" in name)
workbench.segment.segment().join(600)
workbench.inspect(workbench.segment.results.entries[0])"""
PICTURES = {  # size of the window, what is done, and what is waited for
    "annotate": (1280, 812, "", f"document.querySelector('{DRAW}')?.scellseg.labels"),
    "finetune": (760, 680, TUNE, "true"),
    "inspect": (760, 680, SEGMENT, f"document.querySelector('{INSPECT}')?.scellseg.ready"),
}


@pytest.mark.skipif(NOW in (PLACE / "modules.json").read_text(), reason="its code is the same")
def test_screenshots(server: Server, browser: Browser) -> None:
    opener = Opener(server, browser.new_context(device_scale_factor=2), is_lab=False)
    opened = opener.open([OPEN, "workbench"])
    for name, (width, height, do, done) in PICTURES.items():
        opened.page.set_viewport_size({"width": width, "height": height})
        opened.kernel.run(do)
        opened.page.wait_for_function(done)
        opened.page.wait_for_timeout(3000)  # until nothing moves
        opened.page.screenshot(path=PLACE / f"{name}.png")
        if name == "annotate":
            found = {k: opened.page.locator(v).all() for k, v in MODULES.items()}
            boxes = {k: [one.bounding_box() for one in v] for k, v in found.items()}
    opener.close()
    record = json.dumps({"code": NOW, "boxes": boxes}, indent=1)
    (PLACE / "modules.json").write_text(f"{record}\n")
