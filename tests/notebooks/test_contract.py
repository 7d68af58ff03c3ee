"""The notebooks keep the contract, and the checker sees each way of breaking it."""

import socket
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import contract

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebook_keeps_the_contract(path: Path) -> None:
    assert contract.problems(path) == []


@pytest.fixture
def good() -> NotebookNode:
    title = "# A figure\n\nAP/mAP at 0.5; see https://example.org/a/b/c and ../data/x."
    parameters = 'SEED = -1\nNAMES: list = ["a", "b"]  # see figures/data/smoke'
    imports, code = "import math\nfrom pathlib import Path", 'print(math.pi, Path("figures/data"))'
    shown = new_output("stream", name="stdout", text="3.14 figures/data/a.csv 7/10/2 </b></td>\n")
    cells = [
        new_markdown_cell(title),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell(imports, execution_count=2),
        new_code_cell(code, outputs=[shown], execution_count=3),
    ]
    metadata = {"kernelspec": contract.KERNEL, "language_info": contract.LANGUAGE}
    return new_notebook(cells=cells, metadata=metadata)


def check(notebook: NotebookNode, folder: Path) -> str:
    path = folder / "notebook.ipynb"
    nbformat.write(notebook, path)
    return "\n".join(contract.problems(path))


def test_good_notebook_has_no_problem(good, tmp_path) -> None:
    """Nor one whose pixels read like a path, or whose comments and empty lines are many."""
    good.cells[3].outputs.append(new_output("display_data", data={"image/png": "iVBO =/ab/cd/ef"}))
    # Parameters and imports count: four lines here.
    good.cells[3].source = "# why\n\n" + "\n".join(["x = 1"] * 95)
    assert check(good, tmp_path) == ""


NOT_LITERAL = ["N = 2 * 3", "N = M", "P = Path('a')", "N: int", "print(1)", "N = [M]", "N += 1"]
NO_IMPORTS = ["import math\nx = 1", "x = 1", "", "# nothing"]
IMPORTS = ["import os", "from os import path", "if 1:\n    import os"]
DEFINITIONS = ["def f(): ...", "class A: ...", "async def f(): ...", "f = lambda: 1"]
DEFINITIONS.append("if 1:\n    def f(): ...")
# Written in parts, since no file of the project may hold such a path.
PATHS = ["/" + "home/ada/data", "/" + "root/x.png", "C:" + "\\Users", "file:" + "//x"]
ERROR = new_output("error", ename="ValueError", evalue="no", traceback=["..."])
LARGE = new_output("display_data", data={"image/png": "A" * contract.MAX_BYTES})
SHOWN = [new_output("stream", name="stdout", text=f"wrote {path}\n") for path in PATHS]
SHOWN += [new_output("display_data", data={"text/html": f"<td>x={path}</td>"}) for path in PATHS]
OTHER, TAGGED = ({"metadata": NotebookNode(tags=[tag])} for tag in ("other", "parameters"))
# What is changed of which cells, and what is said of it.
BROKEN: list[tuple[dict[int, dict], str]] = [
    ({0: {"source": "A figure"}}, "title"),
    ({1: {"cell_type": "markdown"}}, "wanted are a title, the parameters, the imports"),
    *(({1: {"source": f"M = 1\n{one}"}}, f"not NAME = LITERAL: {one}") for one in NOT_LITERAL),
    *(({2: {"source": one}}, "third cell is not the imports") for one in NO_IMPORTS),
    *(({3: {"source": one}}, "import outside of the third cell") for one in IMPORTS),
    *(({3: {"source": one}}, "definition") for one in DEFINITIONS),
    ({3: {"source": "\n".join(["x = 1"] * 96)}}, "100 lines of code"),
    ({3: {"source": "x = ("}}, "does not parse"),
    *(({3: {"source": f"x = r'{one}'"}}, "absolute path in the source of cell 3") for one in PATHS),
    *(({0: {"source": f"# A\n{one}"}}, "absolute path in the source of cell 0") for one in PATHS),
    ({1: OTHER}, "tagged 'parameters': []"),
    ({1: OTHER, 3: TAGGED}, "tagged 'parameters': [3]"),
    ({3: TAGGED}, "tagged 'parameters': [1, 3]"),
    ({3: {"outputs": []}}, "no outputs"),
    ({3: {"outputs": [ERROR]}}, "holds an error: ValueError"),
    ({3: {"outputs": [LARGE]}}, "the limit is 300000"),
    *(({3: {"outputs": [one]}}, "absolute path in the output of cell 3") for one in SHOWN),
    *(({3: {"execution_count": n}}, "not executed from top to bottom") for n in (None, 2, 7)),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN)
def test_what_breaks_the_contract_is_seen(good, tmp_path, changes, message) -> None:
    for number, change in changes.items():
        good.cells[number].update(change)
    assert message in check(good, tmp_path)


@pytest.mark.parametrize("source", ["host", "user"])
def test_names_of_machine_and_user_are_seen(good, tmp_path, source, monkeypatch) -> None:
    names = {"host": "crick", "user": "adalovelace"}
    monkeypatch.setattr(socket, "gethostname", lambda: names["host"] + ".lab.example")
    monkeypatch.setattr(contract.getpass, "getuser", lambda: names["user"])
    good.cells[3].outputs[0].text = f"ran as {names[source]}\n"
    assert f"its user in the output of cell 3: {names[source]}" in check(good, tmp_path)


def test_metadata_of_the_runner_is_seen_and_dropped(good, tmp_path, capsys) -> None:
    kernel = {"name": "my-env", "display_name": "mine"}
    good.metadata.update(papermill={"duration": 1.5}, kernelspec=kernel)
    good.metadata["language_info"] = {"name": "python", "version": "3.99"}
    good.cells[0].metadata["papermill"] = {"duration": 0.1}
    good.cells[3].metadata.update(execution={"iopub.execute_input": "now"}, tags=[])
    said = check(good, tmp_path)
    assert "['execution', 'papermill']" in said
    assert "kernel is 'my-env'" in said
    path, target = str(tmp_path / "notebook.ipynb"), tmp_path / "tidy.ipynb"
    assert contract.main([path]) == 1
    assert f"{path}: kernel is" in capsys.readouterr().out
    assert contract.main(["--tidy", path, str(target)]) == 0
    assert contract.problems(target) == []
    text = target.read_text()
    assert "3.99" not in text
    assert '"parameters"' in text
