"""How quickly the workbench answers, in a real browser: medians of ten (no peer does the same).

And the memory of its kernel, and of the process that computes, from the first look to results.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from scellseg_lib.workbench.app import make_example
from tests.browser.servers import NotebookPage, Server, chromium

SIZES = ((2048, 1000), (4096, 3000))
EDITOR = """
import numpy as np
from scellseg_lib.workbench.editor import MaskEditor

rng, labels = np.random.default_rng(0), np.zeros(({side}, {side}), np.int32)
n_columns = int(np.ceil({n_cells} ** 0.5))
step = {side} // n_columns
y, x = np.mgrid[:step, :step] - step / 2
disk = y**2 + x**2 < (0.4 * step) ** 2
for number in range({n_cells}):
    row, column = divmod(number, n_columns)
    labels[row * step :, column * step :][:step, :step][disk] = number + 1
image = (rng.normal(1000, 100, labels.shape) + 800 * (labels > 0)).astype(np.uint16)
editor = MaskEditor(image, labels)
editor
"""
APP = """from pathlib import Path
from scellseg_lib.workbench.app import Workbench
workbench = Workbench(Path({!r}))
workbench"""
WAY = {  # what is done, and what is then to come about
    "a page with 12 images": ("", "True"),
    "fine-tuned, 3 steps of the best recipe": (
        """panel, workbench.tabs.selected_index = workbench.finetune, 1
panel._looking.join()
panel.model.value = next(one for name, one in panel.model.options if name == {!r})
panel.name.value, panel.steps.value = "tuned", 3
panel.begin()""",
        "panel.job.ended and panel.job.state == 'done'",
    ),
    "all images segmented": (
        "workbench.tabs.selected_index = 2; workbench.segment.segment()",
        "workbench.segment.job.ended and workbench.segment.job.state == 'done'",
    ),
    "inspected": ("workbench.tabs.selected_index = 3; workbench.inspector.join()", "True"),
}
OPENINGS = """async () => {
  const editor = document.querySelector(".se-root").scellseg, times = [];
  for (let k = 0; k < 10; k++) {
    const began = performance.now();
    editor.ready = false;
    editor.ask();
    while (!editor.ready) await new Promise((done) => setTimeout(done, 1));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - began);
  }
  return times;
}"""
ANSWER = """() => {
  const editor = document.querySelector(".se-root").scellseg, edited = editor.edited;
  editor.edited = (...all) => { window.answered ||= performance.now(); edited.apply(editor, all); };
}"""


def main() -> None:
    path = chromium()
    if path is None:
        print("workbench: not measured, no Chromium here (SCELLSEG_CHROMIUM names one)")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        server = Server(Path(folder) / "server")
        try:
            for side, n_cells in SIZES:
                cell = EDITOR.format(side=side, n_cells=n_cells)
                print(f"mask editor, {side} x {side} px, {n_cells} cells")
                _editor(server.open([cell], browser.new_context(), is_lab=False))
            for model in ("Scellseg", "Scellseg, smaller and quicker"):
                images = make_example(Path(folder) / model)
                for number in range(4, 8):  # twelve in all
                    shutil.copy(images / f"worms_{number}.tif", images / f"worms_{number + 5}.tif")
                cell = APP.format(str(images))
                _memory(server.open([cell], browser.new_context(), is_lab=False), model)
        finally:
            browser.close()
            server.stop()


def _editor(notebook: NotebookPage) -> None:
    page = notebook.page
    page.wait_for_function("document.querySelector('.se-root')?.scellseg.ready")
    _say("opening, from the question to the picture", page.evaluate(OPENINGS))
    page.fill(".se-size", "61")
    page.click(".se-tool-brush")
    page.evaluate(ANSWER)
    box = page.locator(".se-canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2 - 100, box["y"] + box["height"] / 2 - 100
    answers = [_stroke(page, x + 20 * k, y) for k in range(10)]
    handled = page.evaluate("document.querySelector('.se-root').scellseg.paintTimes")
    _say("the paint handler, a move of the mouse", handled)
    _say("stroke to Python's array and back", answers)


def _memory(notebook: NotebookPage, model: str) -> None:
    """Megabytes of the kernel once each step is done, and at most while it was; of its process."""
    kernel, print_mb = notebook.kernel, "  {}: kernel {:.0f} MB, at most {:.0f}; its process {:.0f}"
    process = psutil.Process(kernel.value("__import__('os').getpid()"))
    print(f"memory, {model}")
    for what, (do, condition) in WAY.items():
        kernel.run(do.format(model))
        most, most_apart, is_done = 0.0, 0.0, False
        while not is_done:
            apart = sum(one.memory_info().rss for one in process.children(recursive=True))
            most, most_apart = max(most, process.memory_info().rss), max(most_apart, apart)
            is_done = kernel.value(condition)
            time.sleep(0.2)
        mb = [size / 2**20 for size in (process.memory_info().rss, most, most_apart)]
        print(print_mb.format(what, *mb))


def _stroke(page: Page, x: float, y: float) -> float:
    """Milliseconds from the end of a stroke to Python's answer."""
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y + 200, steps=20)
    page.evaluate("[window.answered, window.ended] = [0, performance.now()]")
    page.mouse.up()
    page.wait_for_function("document.querySelector('.se-root').dataset.waiting === '0'")
    return float(page.evaluate("window.answered - window.ended"))


def _say(what: str, milliseconds: list[float]) -> None:
    middle, largest = statistics.median(milliseconds), max(milliseconds)
    print(f"  {what}: {middle:.1f} ms, at most {largest:.1f} ms")
