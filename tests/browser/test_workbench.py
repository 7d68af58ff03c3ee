"""The whole way of a biologist in a real browser: from images to measurements, by hand alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import axe_playwright_python
import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import roifile
import tifffile
from playwright.sync_api import Page, expect

from scellseg_lib.datasets import synthetic
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.finetuning import RECIPES
from scellseg_lib.model import TrainingData, new_model
from scellseg_lib.workbench.app import NOTEBOOK
from tests import tiny
from tests.browser.conftest import EditorInPage, Opener
from tests.browser.servers import PAGE_MILLISECONDS, NotebookPage

DRAW = ".scellseg-annotate-panel .se-root"
TRY = ".scellseg-preview .se-root"
INSPECT = ".scellseg-inspector .se-root"
SEGMENT = ".scellseg-segment-panel"
STEPS = 2
MIDDLE = np.s_[90:430, 150:550]
"""Of synthetic images: the part that is not black."""
ROUTES = ("", "api/kernels/any", "api/kernels/any/channels", "voila/api/shutdown/any")
ROUTES += tuple(f"voila/{part}/any" for part in ("templates", "static", "files", "labextensions"))
ROUTES += ("voila/api/themes/any", "any.png")


class Truth:
    """A folder with three synthetic images, and the cells that a biologist sees in them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.masks = folder, dict[str, np.ndarray]()
        folder.mkdir()
        worms = synthetic.make_dataset("synthetic_worms", n_shot=3, n_query=0)
        for number, sample in enumerate(worms):
            image = np.round(sample.image[0][MIDDLE]).astype(np.uint16)
            tifffile.imwrite(folder / f"worms_{number}_img.tif", image)
            self.masks[f"worms_{number}"] = sample.masks[MIDDLE]

    def largest(self, name: str) -> list[np.ndarray]:
        """Cells of an image as bool[H, W], the largest first."""
        masks = self.masks[name]
        areas = np.bincount(masks.ravel())[1:]
        order = np.argsort(areas)[::-1][: np.count_nonzero(areas)] + 1
        return [masks == label for label in order]


@pytest.fixture
def truth(tmp_path: Path) -> Truth:
    return Truth(tmp_path / "worms")


def ready(page: Page, picture: str) -> None:
    page.wait_for_function(f"document.querySelector('{picture}')?.scellseg.ready")


def go_to(page: Page, tab: str) -> None:
    page.locator(".scellseg-tabs .lm-TabBar-tab", has_text=tab).click()


def draw(opened: NotebookPage, cell: np.ndarray, tool: str, size: int | None = None) -> None:
    """Draw along the border of a cell, bool[H, W]."""
    editor = EditorInPage(opened, "workbench.annotate.editor")
    editor.key("Escape")  # what was begun before
    editor.tool(tool, size)
    (contour,) = cv2.findContours(np.uint8(cell), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    editor.drag((contour[::4, 0, ::-1] + 0.5).tolist())


def move_threshold(page: Page, picture: str, handle: str) -> None:
    """Move a slider by a key, and wait for the new masks in the page."""
    page.locator(handle).first.focus()
    page.evaluate(f"window.before = document.querySelector('{picture}').scellseg.labels")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"document.querySelector('{picture}').scellseg.labels !== window.before")


def value(opened: NotebookPage, expression: str) -> Any:
    return opened.kernel.value(f"workbench.{expression}")


OPEN_FOLDER = """from pathlib import Path
from scellseg_lib.workbench.app import Workbench
workbench = Workbench(Path({!r}))"""


def test_from_images_to_measurements(voila: Opener, truth: Truth) -> None:
    names = list(truth.masks)
    opened = voila.open([OPEN_FOLDER.format(str(truth.folder)), "workbench"])
    ready(opened.page, DRAW)
    annotate(opened, truth, names[0])
    change_what_is_shown(opened)
    fine_tune(opened, truth)
    segment(opened, truth)
    corrected = correct(opened, truth, names[1])
    learn(opened, truth, names[1], corrected)
    export(opened, truth, names[1], corrected)


AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
FINDINGS = """async () => (await axe.run(document.querySelector(".scellseg-workbench"))).violations
  .filter(({ impact }) => impact === "serious" || impact === "critical")
  .flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`))"""
SEGMENTED = """models = workbench.segment.form.model
models.value = next(value for name, value in models.options if "quicker" in name)
workbench.segment.segment().join(600)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_image_fills_the_window_and_all_can_use_each_panel(voila: Opener, truth: Truth, scheme):
    """By axe-core, which knows the rules of WCAG; nothing scrolls but the panels themselves."""
    write_labels(truth.folder / "worms_0_masks.tif", truth.masks["worms_0"])
    opened = voila.open([OPEN_FOLDER.format(str(truth.folder)), "workbench"])
    page = opened.page
    page.emulate_media(color_scheme=scheme)
    ready(page, DRAW)
    opened.kernel.run(SEGMENTED)
    page.evaluate(AXE)
    for width, height, share, alone in ((1440, 900, 0.5, 0.75), (1024, 700, 0.4, 0.65)):
        page.set_viewport_size({"width": width, "height": height})
        assert share < seen_share(page) < alone
        page.locator(f"{DRAW} .se-sides").click()
        page.wait_for_function(f"!document.querySelector('{DRAW} .se-list').offsetParent")
        assert seen_share(page) > alone
        page.locator(f"{DRAW} .se-sides").click()
        for tab, button in (
            ("Annotate", f"{DRAW} .se-save"),
            ("Fine-tune", ".scellseg-tune-start"),
            ("Segment", ".scellseg-segment-start"),
            ("Inspect", ".scellseg-correct"),
            ("Export", ".scellseg-export-start"),
        ):
            go_to(page, tab)
            expect(page.locator(button)).to_be_in_viewport(ratio=1)
            assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
            assert page.evaluate(FINDINGS) == [], tab
        opened.screenshot(f"workbench_{scheme}_{width}")
        go_to(page, "Annotate")


def seen_share(page: Page) -> float:
    """Part of the window that shows the image, 0 to 1."""
    box, window = page.locator(f"{DRAW} .se-stage").bounding_box(), page.viewport_size
    assert box
    assert window
    return box["width"] * box["height"] / (window["width"] * window["height"])


def annotate(opened: NotebookPage, truth: Truth, name: str) -> None:
    """Draw around one cell, paint another, give it a class, and say that all are drawn."""
    page, cells = opened.page, truth.largest(name)[:2]
    assert value(opened, "annotate.current.name") == name
    opened.screenshot("workbench_1_annotate")
    draw(opened, cells[0], "outline")
    opened.kernel.wait_for("len(workbench.annotate.editor.cells) == 1")
    draw(opened, cells[1], "brush", 10)  # px wide, as the cells
    opened.kernel.wait_for("len(workbench.annotate.editor.cells) == 2")
    page.locator(f"{DRAW} .se-new-class").fill("drawn by hand")
    page.keyboard.press("Enter")
    page.locator(f"{DRAW} .se-class").first.select_option("drawn by hand")
    opened.kernel.wait_for("(workbench.annotate.editor.cells['class'] == 'drawn by hand').any()")
    assert value(opened, "finetune.found.usable") == []  # nothing is learnt from yet
    page.locator(f"{DRAW} .se-save", has_text="Done").click()
    masks = truth.folder / f"{name}_masks.tif"
    opened.kernel.wait_for(f"__import__('pathlib').Path({str(masks)!r}).exists()")
    opened.screenshot("workbench_2_drawn")
    written = read_masks(masks)
    np.testing.assert_array_equal(written, value(opened, "annotate.editor.labels"))
    one = written == 1
    assert (one & cells[0]).sum() > 0.9 * (one | cells[0]).sum()
    assert (written[cells[1]] == 2).mean() > 0.8
    table = pd.read_csv(truth.folder / f"{name}_cells.csv", keep_default_na=False)
    assert table["class"].tolist() == ["drawn by hand", ""]


def change_what_is_shown(opened: NotebookPage) -> None:
    """Each way of looking changes the picture, and is taken back."""
    page = opened.page
    usual = drawn(page)
    for box in ("masks", "outlines", "by-class"):
        page.locator(f"{DRAW} .se-{box}").click()
        assert drawn(page) != usual, box
        page.locator(f"{DRAW} .se-{box}").click()
        assert drawn(page) == usual, box
    colours = page.locator(f"{DRAW} .se-map")
    for name in ("inverted grey", "viridis"):
        colours.select_option(label=name)
        assert drawn(page) != usual, name
    colours.select_option(label="grey")
    for name, other, own in (("low", "30", "1"), ("high", "70", "99"), ("opacity", "250", "90")):
        page.locator(f"{DRAW} .se-{name}").fill(other)
        assert drawn(page) != usual, name
        page.locator(f"{DRAW} .se-{name}").fill(own)
        assert drawn(page) == usual, name
    page.locator(f"{DRAW} .se-number-cell").first.click()  # goes there
    assert drawn(page) != usual
    page.locator(f"{DRAW} .se-canvas").focus()
    page.keyboard.press("Escape")
    page.locator(f"{DRAW} .se-fit").click()
    assert drawn(page) == usual


def drawn(page: Page) -> str:
    """What the picture consists of, once it is drawn."""
    return page.evaluate(
        """async picture => {
             for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
             return document.querySelector(picture).scellseg.canvas.toDataURL();
           }""",
        DRAW,
    )


def fine_tune(opened: NotebookPage, truth: Truth) -> None:
    """A few steps from the smaller packaged model."""
    page = opened.page
    go_to(page, "Fine-tune")
    page.locator(".scellseg-finetune-panel", has_text="Ready: press Start.").wait_for()
    assert value(opened, "finetune.found.usable[0].cells") == 2
    models = page.locator(".scellseg-tune-model select")
    names = models.inner_text().splitlines()
    models.select_option(label=next(name for name in names if "quicker" in name))
    page.get_by_label("Quick").check()
    quick = RECIPES["quick"].options
    page.get_by_text("More settings").click()
    for name, own, number in (("steps", quick.steps, STEPS), ("batch", quick.batch_size, 2)):
        field = page.locator(f".scellseg-tune-{name} input")
        expect(field).to_have_value(str(own), timeout=PAGE_MILLISECONDS)  # the panel has followed
        field.fill(str(number))
        page.keyboard.press("Tab")
    opened.kernel.wait_for(f"workbench.finetune.steps.value == {STEPS}")
    page.locator(".scellseg-tune-name input").fill("worms")
    page.keyboard.press("Tab")
    opened.screenshot("workbench_3_finetune")
    page.locator(".scellseg-tune-start").click()
    opened.kernel.wait_for("workbench.finetune.job is not None and workbench.finetune.job.ended")
    assert value(opened, "finetune.job.state") == "done"
    page.locator(".scellseg-finetune-panel", has_text="Saved as worms.safetensors").wait_for()
    opened.screenshot("workbench_4_finetuned")
    assert (truth.folder / "worms.safetensors").stat().st_size > 1e6


def segment(opened: NotebookPage, truth: Truth) -> None:
    """Try thresholds on one image, then take them for all."""
    page, names = opened.page, list(truth.masks)
    go_to(page, "Segment")
    assert value(opened, "segment.form.model.value.name.name") == "worms.safetensors"
    page.locator(".scellseg-preview-image select").select_option(f"{names[1]}_img.tif")
    page.locator(".scellseg-preview-try").click()
    ready(page, TRY)
    page.locator(".scellseg-preview", has_text="Move a threshold").wait_for()
    page.locator(SEGMENT).get_by_text("Thresholds", exact=True).click()
    move_threshold(page, TRY, f"{SEGMENT} .scellseg-thresholds .noUi-handle")
    page.locator(TRY).scroll_into_view_if_needed()
    opened.screenshot("workbench_5_preview")
    page.locator(".scellseg-segment-start").click()
    opened.kernel.wait_for("workbench.segment.job is not None and workbench.segment.job.ended")
    assert value(opened, "segment.job.state") == "done"
    expect(page.locator(".scellseg-segment-inspect")).to_be_enabled(timeout=PAGE_MILLISECONDS)
    opened.screenshot("workbench_6_segmented")
    written = {file.name for file in (truth.folder / "segmented").glob("*.tif")}
    assert written == {f"{name}_masks.tif" for name in names}
    masks = read_masks(truth.folder / "segmented" / f"{names[1]}_masks.tif")
    np.testing.assert_array_equal(masks, value(opened, "segment.preview.view.labels"))


def correct(opened: NotebookPage, truth: Truth, name: str) -> np.ndarray:
    """Look at a result, move a threshold, open it in the editor, and draw one more cell."""
    page = opened.page
    page.locator(".scellseg-segment-inspect").click()
    images = page.locator(".scellseg-images select")
    images.locator("option", has_text=name).wait_for(state="attached")
    opened.kernel.run("workbench.inspector.join(60)")
    labels = images.inner_text().splitlines()
    images.select_option(label=next(label for label in labels if label.endswith(name)))
    opened.kernel.wait_for(f"getattr(workbench.inspector.entry, 'name', '') == {name!r}")
    ready(page, INSPECT)
    page.locator(".scellseg-inspector", has_text=f"{name}: image").wait_for()
    opened.screenshot("workbench_7_inspect")
    move_threshold(page, INSPECT, ".scellseg-inspector .scellseg-thresholds .noUi-handle")
    page.locator(".scellseg-correct").click()
    opened.kernel.wait_for("workbench.annotate.correcting is not None")
    shown = f"document.querySelector('{DRAW}')"
    page.wait_for_function(f"{shown}.scellseg.title === '{name}' && {shown}.offsetParent")
    before = value(opened, "annotate.editor.labels")
    cell = max(truth.largest(name), key=lambda one: (one & (before == 0)).sum() / one.sum())
    draw(opened, cell, "outline")
    opened.kernel.wait_for("len(workbench.annotate.editor.edits) == 1")
    opened.screenshot("workbench_8_correct")
    after = value(opened, "annotate.editor.labels")
    assert len(np.unique(after)) == len(np.unique(before)) + 1
    np.testing.assert_array_equal(after[before > 0], before[before > 0])  # neighbours are protected
    return after


def learn(opened: NotebookPage, truth: Truth, name: str, corrected: np.ndarray) -> None:
    """One click puts the correction among the annotated images, with its score."""
    page = opened.page
    page.locator(".scellseg-annotate-learn").click()
    page.locator(".scellseg-annotate-panel", has_text=f"{name} is annotated now").wait_for()
    opened.screenshot("workbench_9_learnt")
    (row,) = pd.read_csv(truth.folder / "rounds.csv").itertuples()
    assert (row.round, row.image, row.model, row.added) == (1, name, "worms.safetensors", 1)
    for masks in (truth.folder / f"{name}_masks.tif", truth.folder / f"corrected/{name}_masks.tif"):
        np.testing.assert_array_equal(read_masks(masks) > 0, corrected > 0, str(masks))
    go_to(page, "Fine-tune")
    opened.kernel.wait_for("workbench.finetune.found and len(workbench.finetune.found.usable) == 2")


def export(opened: NotebookPage, truth: Truth, name: str, corrected: np.ndarray) -> None:
    """ROIs and measurements of all, the corrected cells among them."""
    page, n_cells = opened.page, len(np.unique(corrected)) - 1
    go_to(page, "Export")
    page.locator(".scellseg-export-start").click()
    page.locator(".scellseg-export-panel", has_text="4 files written").wait_for()
    opened.screenshot("workbench_10_exported")
    exported = truth.folder / "exported"
    assert len(list(exported.iterdir())) == 4
    assert len(roifile.roiread(exported / f"{name}_rois.zip")) == n_cells
    every = pd.read_csv(exported / "measurements.csv")
    assert every["image"].nunique() == 3
    table = every[(every["image"] == name) & (every["cells_are"] == "drawn")]
    areas = np.bincount(corrected[corrected > 0])
    assert sorted(table["area_px"]) == sorted(areas[areas > 0])
    assert table["intensity_mean_0"].notna().all()


def test_a_page_that_is_reloaded_shows_what_was_drawn_and_not_done(server, browser, truth):
    """In the app, which opens for this machine alone and by its token."""
    command = [sys.executable, "-m", "scellseg_lib.workbench", str(truth.folder), "--no-browser"]
    command.append(f"--Voila.connection_dir_root={server.runtime}")  # where kernels are found
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            words = (word for line in process.stderr for word in line.split())
            address = next(word for word in words if "?token=" in word)
            assert address.startswith("http://127.0.0.1:")
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.set_default_timeout(PAGE_MILLISECONDS)
            own = address.split("?")[0]
            for route in ROUTES:
                answer = page.request.get(own + route, max_redirects=0)
                to = answer.headers.get("location", "")
                assert answer.status == 403 or to.startswith("/login"), route
                assert page.request.post(own + route).status == 403, route
                answer = page.request.get(own + route, headers={"Host": "evil.example"})
                assert answer.status == 404, route
            policy = page.goto(address).headers["content-security-policy"]
            assert policy.startswith("default-src 'self'")  # nothing comes from elsewhere
            opened = NotebookPage(server, page, truth.folder, is_lab=False)
            refuse_foreign_pages(page, own, opened.kernel.key)
            reload_what_is_drawn(opened, truth)
            page.context.close()
        finally:
            process.terminate()


def refuse_foreign_pages(page: Page, own: str, kernel: str) -> None:
    """Whose requests carry the cookie of the user; and files that are not the app's."""
    foreign = {"Origin": "http://evil.example"}
    socket = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    socket |= {"Sec-WebSocket-Key": "c2NlbGxzZWctc2NlbGxzZQ=="}
    channels = f"{own}api/kernels/{kernel}/channels"
    assert page.request.get(channels, headers=socket | foreign).status == 403
    for route in (f"voila/api/shutdown/{kernel}", f"api/kernels/{kernel}"):
        assert page.request.post(own + route, headers=foreign).status in (403, 404), route
    for name in ("..%2fREADME.md", "%2e%2e/%2e%2e/etc/passwd", NOTEBOOK.name):
        assert page.request.get(f"{own}voila/files/{name}").status == 403, name


WORK = """
import threading, time
from pathlib import Path
def work():
    end = time.monotonic() + 12
    while time.monotonic() < end:
        sum(range(100_000))
    Path({!r}).touch()
threading.Thread(target=work, daemon=True).start()"""


def reload_what_is_drawn(opened: NotebookPage, truth: Truth) -> None:
    """Draw in the second image, load the page anew, and find what was drawn."""
    page = opened.page
    ready(page, DRAW)
    assert value(opened, "annotate.current.name") == "worms_0"
    page.locator(f"{DRAW} .se-next").click()
    opened.kernel.wait_for("workbench.annotate.current.name == 'worms_1'")
    page.wait_for_function(f"document.querySelector('{DRAW}').scellseg.title === 'worms_1'")
    for cell in truth.largest("worms_1")[:2]:
        draw(opened, cell, "outline")
    opened.kernel.wait_for("len(workbench.annotate.editor.cells) == 2")
    drawn = value(opened, "annotate.editor.labels")
    kernels = [psutil.Process(opened.kernel.value("__import__('os').getpid()"))]
    done = truth.folder.parent / "done"
    opened.kernel.run(WORK.format(str(done)))
    opened.reload()  # a new kernel, which knows nothing of the old one
    ready(page, DRAW)
    assert value(opened, "annotate.current.name") == "worms_1"
    np.testing.assert_array_equal(value(opened, "annotate.editor.labels"), drawn)
    assert not (truth.folder / "worms_1_masks.tif").exists()
    page.locator(f"{DRAW} .se-save", has_text="Done").click()
    opened.kernel.wait_for("not workbench.annotate.editor.is_changed")
    np.testing.assert_array_equal(read_masks(truth.folder / "worms_1_masks.tif"), drawn)
    page.locator(".scellseg-annotate-folder input").fill(f"{truth.folder}/.")
    page.keyboard.press("Enter")  # opens it anew, at the first image without masks
    page.wait_for_function(f"document.querySelector('{DRAW}').scellseg.title === 'worms_0'")
    assert opened.errors == []
    kernels.append(psutil.Process(opened.kernel.value("__import__('os').getpid()")))
    page.close()
    for kernel in kernels:  # of the page before it was loaded anew, and of the closed one
        kernel.wait(60)
    assert done.exists()  # what the old kernel computed when its page was loaded anew


SCRIPT, MATHS = "<img src=x onerror=window.ran=1>", r"a$\frac$b"
MARKUP = "&lt;b&gt; **c** [d](javascript:window.ran=1)"
DAMAGED = SCRIPT + MATHS
CLOSING = f"</script></style></select><script>window.ran=1</script>{DAMAGED}"
"""No file can be called so, but a class can."""
OPEN = "panel = workbench.annotate; panel.show(next(one for one in panel.images if one.masks))"
RENAME = f"panel.editor.rename_class({CLOSING!r}, {SCRIPT!r}); panel.finish()"
CORRECT = f"""
workbench.inspector._correct.click()
panel.editor.outline([[10, 10], [10, 60], [60, 60], [60, 10]], protect=False)
panel.editor._tell_class_change(panel.editor.rename_class({SCRIPT!r}, "new"), {SCRIPT!r}, "new")
"""
RUN = "workbench.segment.segment().join(60)"
LOOK = "workbench.segment.inspect.click(); workbench.inspector.join(60)"
EXPORT = "workbench.export.start.click(); workbench.export.job.join(60)"
SEEN = (
    ("Annotate", OPEN, [SCRIPT, MATHS, MARKUP, CLOSING]),
    ("Annotate", RENAME, [SCRIPT]),
    ("Segment", RUN, [SCRIPT, MATHS, MARKUP, CLOSING, f"{DAMAGED}.tif: "]),
    ("Inspect", LOOK, [SCRIPT, MATHS, MARKUP]),
    ("Annotate", CORRECT, [f'"{SCRIPT}" is called "new" now']),
    ("Annotate", "panel.learn.click()", ["is annotated now"]),
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


def test_names_that_are_scripts_markup_or_formulas_are_shown_as_they_are(lab: Opener, tmp_path):
    made = tmp_path / SCRIPT  # three images, one of them annotated, a damaged one, and a model
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
    opened = lab.open([OPEN_FOLDER.format(str(made)), "workbench"])
    for tab, do, words in SEEN:
        go_to(opened.page, tab)
        opened.kernel.run(do)
        opened.page.wait_for_function(HAS, arg=words)
        assert opened.page.evaluate("window.ran") is None, do
        assert opened.page.locator("[src=x]").count() == 0, do
