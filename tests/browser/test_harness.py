"""The tests' own frame: a widget of a few lines in both servers, and all that can disturb it.

What these tests hold is also what the mask editor's way of talking to Python is built on. The order
of messages is no part of it: ipykernel 7 may swap two that arrive together.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.browser.conftest import Opener
from tests.browser.kernel import CodeFailed
from tests.browser.servers import NotebookPage

COUNTER = '''
import anywidget
import numpy as np
import traitlets


class Counter(anywidget.AnyWidget):
    """A button that sends its number and three bytes, and shows how many presses Python has."""

    _esm = """
    function render({ model, el }) {
      const button = document.createElement("button");
      button.className = "counter";
      const show = () => { button.textContent = `${model.get("count")}`; };
      let presses = 0;
      button.onclick = () => {
        presses += 1;
        model.send({ press: presses }, undefined, [new Uint8Array([presses, 2, 3]).buffer]);
      };
      model.on("change:count", show);
      show();
      el.append(button);
    }
    export default { render };
    """
    count = traitlets.Int(0).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.heard = []
        self.on_msg(self._hear)

    def _hear(self, _, content, buffers):
        self.heard.append([content["press"], *bytes(buffers[0])])
        self.count += 1


counter = Counter()
'''
CELLS = [COUNTER, "counter"]


def press(notebook: NotebookPage, times: int = 1) -> None:
    """Press the button, whatever may lie over it (such as JupyterLab's word on a lost line)."""
    for _ in range(times):
        notebook.page.locator("button.counter").first.dispatch_event("click")


def shows(notebook: NotebookPage, count: int) -> None:
    """Wait until the page shows the count that Python has sent it."""
    notebook.page.locator("button.counter", has_text=str(count)).first.wait_for()


def carries_bytes_though_the_kernel_is_busy(notebook: NotebookPage) -> None:
    shows(notebook, 0)
    with notebook.kernel.busy():
        press(notebook, 2)
    shows(notebook, 2)
    assert notebook.kernel.value("sorted(counter.heard)") == [[1, 1, 2, 3], [2, 2, 2, 3]]


def test_lab_carries_messages_offline_after_a_reload_and_to_two_tabs(lab: Opener) -> None:
    notebook = lab.open(CELLS)
    carries_bytes_though_the_kernel_is_busy(notebook)
    with notebook.offline():
        press(notebook)
    shows(notebook, 3)
    notebook.save()
    notebook.reload()  # the kernel goes on, and the saved notebook shows its widget
    shows(notebook, 3)
    second = lab.open_again(notebook)
    for page in (notebook, second):
        press(page)
    for page in (notebook, second):
        shows(page, 5)
    assert second.kernel.value("len(counter.heard)") == 5


def test_kernel_gives_arrays_and_errors_and_serves_the_next_notebook(lab: Opener) -> None:
    notebook = lab.open(CELLS)
    array = notebook.kernel.value("np.arange(6, dtype=np.int32).reshape(2, 3)")
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    assert array.dtype == np.int32
    assert notebook.kernel.run("print('one'); print('two')") == "one\ntwo\n"
    with pytest.raises(CodeFailed, match="ZeroDivisionError"):
        notebook.kernel.run("1 / 0")
    with pytest.raises(CodeFailed, match="NameError"):
        notebook.kernel.value("nothing")
    lab.close()
    again = lab.open(["known = [name for name in globals() if name == 'counter']"])
    assert again.page == notebook.page
    assert again.kernel.key == notebook.kernel.key
    assert again.kernel.value("known") == []


def test_voila_carries_messages_and_starts_anew_with_a_reload(voila: Opener) -> None:
    notebook = voila.open(CELLS)
    carries_bytes_though_the_kernel_is_busy(notebook)
    notebook.reload()
    shows(notebook, 0)
    assert notebook.kernel.value("counter.heard") == []
