"""The contract that every notebook keeps, checked by pre-commit, ``make lint`` and the tests.

``python -m tests.notebooks.contract NOTEBOOK...`` prints what breaks it; with ``--tidy
EXECUTED NOTEBOOK`` it writes what is committed: without the runner's durations and versions.
"""

import argparse
import ast
import getpass
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

MAX_CODE_LINES = 99
MAX_BYTES = 300_000
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python"}


# A rooted path of two parts or more, or a Windows drive; neither a URL nor a relative path.
ABSOLUTE = re.compile(r"(?<![\w:/.<>~+)\]}-])/(?:[\w.-]+/)+[\w.-]*|\b[A-Za-z]:\\{1,2}\w|file://")
# Names that say nothing about a person or a machine, and occur as words of their own.
ANONYMOUS = {"root", "user", "runner", "jovyan", "nobody", "admin", "build", "localhost"}


def problems(path: Path) -> list[str]:
    """All the ways in which a notebook breaks the contract, as sentences."""
    size = path.stat().st_size
    found = [f"file has {size} bytes, the limit is {MAX_BYTES}"] if size >= MAX_BYTES else []
    notebook = nbformat.read(path, as_version=4)
    found += [*_frame(notebook), *_metadata(notebook), *_outputs(notebook), *_private(notebook)]
    try:
        found += [*_parameters(notebook), *_code(notebook)]
    except SyntaxError as error:
        found.append(f"code does not parse: {error.msg} in {(error.text or '').strip()!r}")
    return found


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drop the metadata that the contract does not allow; in place."""
    notebook.metadata = NotebookNode(kernelspec=KERNEL, language_info=LANGUAGE)
    for cell in notebook.cells:
        tags = _tags(cell)
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
    return notebook


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _parse(cell: NotebookNode) -> ast.Module:
    """Parse a cell's code; line magics are no code."""
    lines = ("" if line.startswith("%") else line for line in cell.source.splitlines())
    return ast.parse("\n".join(lines))


def _frame(notebook: NotebookNode) -> Iterator[str]:
    """First cell: the title. Second: parameters. Third: code (the imports)."""
    kinds = [cell.cell_type for cell in notebook.cells[:3]]
    if kinds != ["markdown", "code", "code"]:
        yield f"starts with {kinds}: wanted are a title, the parameters, the imports"
        return
    if not notebook.cells[0].source.startswith("# "):
        yield "first cell does not start with a title ('# ...')"
    tagged = [i for i, cell in enumerate(notebook.cells) if "parameters" in _tags(cell)]
    if tagged != [1]:
        yield f"cells tagged 'parameters': {tagged}; it must be the second (1) alone"


def _parameters(notebook: NotebookNode) -> Iterator[str]:
    """Literals only: papermill overrides values but does not recompute what derives from them."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in _tags(c)]
    for statement in (statement for cell in cells for statement in _parse(cell).body):
        try:
            if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
                raise ValueError
            ast.literal_eval(statement.value)
        except ValueError:
            yield f"parameter is not NAME = LITERAL: {ast.unparse(statement)}"


def _code(notebook: NotebookNode) -> Iterator[str]:
    """Imports in the third cell alone; no definitions; short."""
    imports, lines = ast.Import | ast.ImportFrom, 0
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        tree = _parse(cell)
        code = (line.strip() for line in cell.source.splitlines())
        lines += sum(bool(line) and not line.startswith("#") for line in code)
        if i == 2 and not (tree.body and all(isinstance(node, imports) for node in tree.body)):
            yield "third cell is not the imports, and only they"
        for node in ast.walk(tree):
            if isinstance(node, imports) and i != 2:
                yield f"import outside of the third cell: {ast.unparse(node)}"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield f"definition of {node.name}: it belongs in the library"
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Lambda):
                yield f"definition by lambda: {ast.unparse(node)}"
    if lines > MAX_CODE_LINES:
        yield f"{lines} lines of code, the limit is {MAX_CODE_LINES}"


def _metadata(notebook: NotebookNode) -> Iterator[str]:
    extra = set(notebook.metadata) - {"kernelspec", "language_info"}
    if extra := extra | set().union(*(cell.metadata for cell in notebook.cells)) - {"tags"}:
        yield f"metadata of the runner or the editor: {sorted(extra)}; 'make figures' drops it"
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != KERNEL["name"]:
        yield f"kernel is {kernel!r}: only 'python3' exists for every reader"


def _outputs(notebook: NotebookNode) -> Iterator[str]:
    """Outputs are committed, from one run from top to bottom that had no error."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "not executed from top to bottom in one run: 'make figures' does it"
    if not any(cell.outputs for cell in cells):
        yield "has no outputs: a reader on the web sees only what is committed"
    errors = (one for cell in cells for one in cell.outputs if one.output_type == "error")
    yield from (f"holds an error: {one.ename}: {one.evalue}" for one in errors)


def _texts(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """Everything that a reader can see as text, and where it stands; pixels are left out."""
    for i, cell in enumerate(notebook.cells):
        yield f"source of cell {i}", cell.source
        for output in cell.get("outputs", []):
            texts = [output.get("text", ""), *output.get("traceback", [])]
            for mime, value in output.get("data", {}).items():
                if mime == "image/svg+xml" or not mime.startswith(("image/", "video/", "audio/")):
                    texts.append(str(value))
            yield f"output of cell {i}", "\n".join(texts)


def _private(notebook: NotebookNode) -> Iterator[str]:
    """No paths of a machine, and no names of it or its user."""
    names = {getpass.getuser(), socket.gethostname(), socket.gethostname().split(".")[0]}
    words = sorted(n for n in names if len(n) > 3 and n.lower() not in ANONYMOUS)
    named = re.compile(r"\b(" + "|".join(map(re.escape, words)) + r")\b") if words else None
    for where, text in _texts(notebook):
        for match in ABSOLUTE.finditer(text):
            yield f"absolute path in the {where}: {match.group()}"
        if named and (match := named.search(text)):
            yield f"name of this machine or its user in the {where}: {match.group()}"


def main(arguments: list[str] | None = None) -> int:
    """Check notebooks, or tidy one; the exit code is 1 when one breaks the contract."""
    parser = argparse.ArgumentParser(prog="python -m tests.notebooks.contract", description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--tidy", nargs=2, type=Path, metavar=("EXECUTED", "NOTEBOOK"))
    options = parser.parse_args(arguments)
    if options.tidy:
        executed, target = options.tidy
        nbformat.write(tidy(nbformat.read(executed, as_version=4)), target)
    found = [f"{path}: {problem}" for path in options.notebooks for problem in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
