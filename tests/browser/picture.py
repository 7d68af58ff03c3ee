"""Screenshots of the workbench for Fig. 6 and the README, taken anew where its code has changed."""

import json
from hashlib import sha256

import pytest
from playwright.sync_api import Browser

from scellseg_lib import paths
from tests.browser.conftest import Opener
from tests.browser.test_workbench import DRAW, INSPECT, ready

PLACE = paths.results("fig6_workbench")
CODE = sorted((paths.PACKAGE / "workbench").rglob("*.[pjc][ys]*"))
NOW = sha256(b"".join(file.read_bytes() for file in CODE)).hexdigest()
MODULES = {  # of the paper: menu, list, display, prompt, cycle, functions; and where each is
    "A": ".scellseg-tabs .lm-TabBar-content",
    "B": f".scellseg-annotate-images, {DRAW} .se-list",
    "C": f"{DRAW} .se-stage",
    "D": f".scellseg-annotate-panel .scellseg-message, {DRAW} .se-message",
    "E": f"{DRAW} .se-previous, {DRAW} .se-next",
    "F": f"{DRAW} .se-editing",
}
OPEN = """from pathlib import Path
from scellseg_lib.workbench import app
workbench = app.Workbench(app.make_example(Path("worms")))
workbench.annotate.show(workbench.annotate.images[0])"""
SUGGEST = """workbench.annotate.show(workbench.annotate.images[4])
workbench.annotate.suggest.click()
while workbench.annotate.suggest.disabled: __import__("time").sleep(0.1)
workbench.annotate.editor.selected = 2"""
TUNE = "workbench.tabs.selected_index = 1; workbench.finetune.folder.value = 'worms'"
SEGMENT = """models = workbench.segment.form.model
models.value = next(value for name, value in models.options if "quicker" in name)
workbench.segment.segment().join(600)
workbench.tabs.selected_index = 3"""
SHOTS = {  # width and height of the window, the system's colours, what is done before
    "annotate": (1280, 812, "light", ""),
    "annotate_dark": (1024, 700, "dark", ""),
    "suggest": (1024, 700, "light", SUGGEST),
    "finetune": (900, 640, "light", TUNE),
    "inspect": (900, 640, "light", SEGMENT),
    "inspect_dark": (1440, 900, "dark", ""),
}


@pytest.mark.skipif(NOW in (PLACE / "modules.json").read_text(), reason="its code is the same")
def test_screenshots(voila: Opener, browser: Browser) -> None:
    voila.context = browser.new_context(device_scale_factor=2)
    opened = voila.open([OPEN, "workbench"])
    for name, (width, height, scheme, do) in SHOTS.items():
        opened.page.emulate_media(color_scheme=scheme)
        opened.page.set_viewport_size({"width": width, "height": height})
        opened.kernel.run(do)
        ready(opened.page, INSPECT if do == SEGMENT else DRAW)
        opened.page.wait_for_timeout(10_000)  # until nothing moves, and the network has answered
        opened.page.screenshot(path=PLACE / f"{name}.png")
        if name == "annotate":
            found = {k: opened.page.locator(v).all() for k, v in MODULES.items()}
            boxes = {k: [one.bounding_box() for one in v] for k, v in found.items()}
    (PLACE / "modules.json").write_text(f"{json.dumps({'code': NOW, 'boxes': boxes}, indent=1)}\n")
