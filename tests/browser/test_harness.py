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
        self.presses, self.bytes = [], []
        self.on_msg(self._hear)

    def _hear(self, _, content, buffers):
        self.presses.append(content["press"])
        self.bytes.append(list(bytes(buffers[0])))
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


def test_both_servers_carry_bytes_both_ways(either: Opener) -> None:
    notebook = either.open(CELLS)
    press(notebook, 2)
    shows(notebook, 2)
    assert notebook.kernel.value("sorted(counter.bytes)") == [[1, 2, 3], [2, 2, 3]]
    assert notebook.screenshot(f"harness_{type(either.server).__name__}").stat().st_size > 5000


def test_kernel_gives_arrays_and_errors(lab: Opener) -> None:
    notebook = lab.open(CELLS)
    array = notebook.kernel.value("np.arange(6, dtype=np.int32).reshape(2, 3)")
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    assert array.dtype == np.int32
    assert notebook.kernel.run("print('one'); print('two')") == "one\ntwo\n"
    with pytest.raises(CodeFailed, match="ZeroDivisionError"):
        notebook.kernel.run("1 / 0")
    with pytest.raises(CodeFailed, match="NameError"):
        notebook.kernel.value("nothing")


def test_messages_wait_for_a_busy_kernel(either: Opener) -> None:
    notebook = either.open(CELLS)
    shows(notebook, 0)
    with notebook.kernel.busy():
        press(notebook, 3)
        notebook.page.wait_for_timeout(500)  # milliseconds in which nothing may happen
        assert notebook.page.locator("button.counter").first.inner_text() == "0"
    shows(notebook, 3)
    assert notebook.kernel.value("sorted(counter.presses)") == [1, 2, 3]


def test_reload_of_a_saved_notebook_brings_the_widget_back(lab: Opener) -> None:
    notebook = lab.open(CELLS)
    press(notebook)
    shows(notebook, 1)
    notebook.reload()
    assert notebook.page.locator("button.counter").count() == 0  # the notebook was not saved
    notebook.run_cell(1)
    shows(notebook, 1)
    notebook.save()
    notebook.reload()
    shows(notebook, 1)
    press(notebook)
    shows(notebook, 2)
    assert notebook.kernel.value("len(counter.presses)") == 2


def test_reload_in_voila_starts_anew(voila: Opener) -> None:
    notebook = voila.open(CELLS)
    press(notebook)
    shows(notebook, 1)
    notebook.reload()
    shows(notebook, 0)
    assert notebook.kernel.value("counter.presses") == []


def test_two_tabs_share_one_widget(lab: Opener) -> None:
    first = lab.open(CELLS)
    first.save()
    second = lab.open_again(first)
    for notebook in (first, second):
        press(notebook)
    for notebook in (first, second):
        shows(notebook, 2)
    assert second.kernel.value("counter.presses") == [1, 1]


def test_nothing_is_lost_offline(lab: Opener) -> None:
    notebook = lab.open(CELLS)
    with notebook.offline():
        press(notebook, 3)
    shows(notebook, 3)
    assert notebook.kernel.value("sorted(counter.presses)") == [1, 2, 3]
