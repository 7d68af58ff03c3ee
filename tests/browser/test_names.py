"""Names that are scripts, markup or formulas are shown as they are written, in every panel."""

from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from scellseg_lib.files.images import write_labels
from scellseg_lib.model import TrainingData, new_model
from tests import tiny
from tests.browser.conftest import Opener
from tests.browser.test_workbench import go_to

SCRIPT, MATHS = "<img src=x onerror=window.ran=1>", r"a$\frac$b"
MARKUP = "&lt;b&gt; **c** [d](javascript:window.ran=1)"
DAMAGED = SCRIPT + MATHS
CLOSING = f"</script></style></select><script>window.ran=1</script>{DAMAGED}"
"""No file can be called so, but a class can."""
OPEN = "panel = workbench.annotate; panel.show(next(one for one in panel.images if one.masks))"
RENAME = f"done = panel.editor.rename_class({CLOSING!r}, {SCRIPT!r})"
CORRECT = f"""
workbench.segment.results.buttons["edit"].click()
workbench._asking.join(60)
panel.editor.outline([[10, 10], [10, 60], [60, 60], [60, 10]], protect=False)
panel.editor._tell_class_change(panel.editor.rename_class({SCRIPT!r}, "new"), {SCRIPT!r}, "new")
"""
LEARN = "panel.learn.click()"
SEGMENT = "workbench.segment.segment().join(60)"
INSPECT = "workbench.segment.results.buttons['inspect'].click()"
EXPORT = "workbench.export.start.click(); workbench.export.job.join(60)"
STEPS = (
    ("Annotate", OPEN, [SCRIPT, MATHS, MARKUP, CLOSING]),
    ("Annotate", RENAME, [SCRIPT]),
    ("Segment", SEGMENT, [SCRIPT, MATHS, MARKUP, CLOSING, f"{DAMAGED}.tif: "]),
    ("Inspect", INSPECT, [SCRIPT, MATHS, MARKUP]),
    ("Annotate", CORRECT, [f'"{SCRIPT}" is called "new" now']),
    ("Annotate", LEARN, ["is annotated now"]),
    ("Fine-tune", "", [SCRIPT]),
    ("Segment", "", ["Rounds of correction", f"{SCRIPT}.safetensors"]),
    ("Export", EXPORT, [SCRIPT]),
)
"""A panel, what is done before one looks at it, and words that it then has."""
HAS = """words => {
  const within = [...document.querySelectorAll(".scellseg-workbench")].pop();
  const fields = [...within.querySelectorAll("input, textarea")].map(one => one.value);
  const seen = (within.innerText + fields).replaceAll("\\u00a0", " ");
  return words.every(one => seen.includes(one));
}"""


def make_folder(made: Path) -> Path:
    """Three images, one of them annotated, a damaged one, and a model, all of odd names."""
    made.mkdir()
    for name, worm in zip((SCRIPT, MATHS, MARKUP), tiny.worms(3), strict=True):
        tifffile.imwrite(made / f"{name}.tif", np.round(worm.image[0]).astype(np.uint16))
    masks = np.zeros((200, 200), np.int32)
    masks[50:80, 50:80], masks[100:130, 100:130] = 1, 2
    write_labels(made / f"{SCRIPT}_masks.tif", masks)
    cells = pd.DataFrame({"label": [1, 2], "class": CLOSING, "note": CLOSING})
    cells.to_csv(made / f"{SCRIPT}_cells.csv", index=False)
    (made / f"{DAMAGED}.tif").write_bytes(b"II*\0")
    model = new_model("scellseg", tiny.LEVELS)
    model.card.origin = model.card.licence = CLOSING
    model.card.training_data = [TrainingData(name=CLOSING, images=3, licence=CLOSING)]
    model.save(made / f"{SCRIPT}.safetensors")
    return made


def test_names_are_no_markup(lab: Opener, tmp_path: Path) -> None:
    setup = "from pathlib import Path\nfrom scellseg_lib.workbench.app import Workbench\n"
    setup += f"workbench = Workbench(Path({str(make_folder(tmp_path / SCRIPT))!r}))"
    opened = lab.open([setup, "workbench"])
    for tab, do, words in STEPS:
        go_to(opened.page, tab)
        opened.kernel.run(do)
        opened.page.wait_for_function(HAS, arg=words)
        assert opened.page.evaluate("window.ran") is None, do
        assert opened.page.locator("[src=x]").count() == 0, do
