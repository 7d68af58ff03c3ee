"""The house: a thin core and three wings, imports one way, errors with fields."""

import ast
import copy
import re
from collections import Counter
from functools import cache
from importlib import import_module
from inspect import getsource
from pathlib import Path
from pkgutil import walk_packages

import pytest

import scellseg_lib
from scellseg_lib import errors

LIBRARY = Path(__file__).resolve().parents[1] / "scellseg_lib"

# A module imports only from parts to its left. The modules of the core stand in reading order.
CORE = (
    ("errors", "paths", "atomic", "progress"),
    ("options",),
    ("samples",),
    ("flows", "metrics"),
    ("representation",),
    ("network",),
    ("model",),
    ("device", "tiles", "augment"),
    ("style", "contrast", "training"),
    ("segmentation",),
    ("finetuning", "pretraining"),
)
WINGS = ("paper", "workbench", "cli")
ORDER = (
    *CORE[:-1],
    ("files",),
    ("datasets",),
    CORE[-1],
    ("stats", "plots", "learning_curve"),
    ("__init__",),
    WINGS,
    ("__main__",),
)

# Physical lines of Python, docstrings and comments included.
BUDGETS = {
    "core": 3200,
    "files": 1200,
    "datasets": 1900,
    "statistics and plots": 900,
    "paper": 3200,
    "workbench": 5700,
    "cli": 450,
}
PARTS = {name: "core" for group in CORE for name in group} | {"__init__": "core"}
PARTS |= dict.fromkeys(("stats", "plots", "learning_curve"), "statistics and plots")
PARTS["__main__"] = "cli"


@cache
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text()) for path in sorted(LIBRARY.rglob("*.py"))}


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(trees()[path]))


def unit(path: Path) -> str:
    """Name in ORDER: a package such as representation/ counts as one."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(within: list[ast.AST]) -> set[str]:
    """Dotted names of all that some nodes import; no import is relative."""
    found = set()
    for node in within:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, ast.unparse(node)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def units_imported(path: Path, *, at_start: bool = False) -> set[str]:
    """Units of the library that a module imports, inside a function too unless at its start.

    A name that is no module is of the façade.
    """
    within = list(trees()[path].body) if at_start else nodes(path)
    known = {unit(other) for other in trees()}
    own = [p for p in (name.split(".") for name in imported(within)) if p[0] == "scellseg_lib"]
    return {p[1] if len(p) > 1 and p[1] in known else "__init__" for p in own} - {unit(path)}


def said(path: Path, node: ast.AST) -> str:
    """Where something is said, and what."""
    return f"{path.relative_to(LIBRARY)}: {ast.unparse(node)}"


def test_every_module_has_its_place_in_the_house() -> None:
    assert {unit(path) for path in trees()} == {name for group in ORDER for name in group}


@pytest.mark.parametrize("part", BUDGETS)
def test_each_part_keeps_its_budget(part: str) -> None:
    own = [path for path in trees() if PARTS.get(unit(path), unit(path)) == part]
    assert 0 < sum(path.read_text().count("\n") for path in own) <= BUDGETS[part]


def test_imports_go_one_way_and_wings_do_not_know_each_other() -> None:
    """But for the command line, which opens `sweep` and `app` inside their functions."""
    place = {name: i for i, group in enumerate(ORDER) for name in group}
    wrong = []
    for path in trees():
        forbidden = {name for name in units_imported(path) if place[name] > place[unit(path)]}
        if unit(path) != "__main__":
            forbidden |= {*WINGS} & units_imported(path, at_start=unit(path) == "cli")
        wrong += [f"{path.relative_to(LIBRARY)} imports {name}" for name in forbidden]
    assert wrong == []


def test_the_core_needs_no_pictures_and_its_metrics_alone_tables() -> None:
    core = [path for path in trees() if PARTS.get(unit(path)) == "core"]
    found = {(unit(path), name.split(".")[0]) for path in core for name in imported(nodes(path))}
    drawing = {pair for pair in found if pair[1] in ("matplotlib", "pandas")}
    assert drawing == {("metrics", "pandas")}


def test_no_two_public_classes_have_one_name_and_no_verb_of_the_facade_hides_a_module() -> None:
    top = [node for tree in trees().values() for node in tree.body]
    classes = [node.name for node in top if isinstance(node, ast.ClassDef)]
    names = Counter(name for name in classes if not name.startswith("_"))
    assert [name for name, n in names.items() if n > 1] == []
    assert set(scellseg_lib.__all__) & {unit(path) for path in trees()} == set()


def last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def with_subclasses(error: type) -> list[type]:
    return [error, *(one for direct in error.__subclasses__() for one in with_subclasses(direct))]


def says_remedy(call: ast.Call) -> bool:
    given = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "remedy"]
    return bool(given) and given[0] not in ("''", "None")


def test_every_error_says_what_to_do() -> None:
    """Each is made with a remedy, or its class words one itself."""
    for module in walk_packages(scellseg_lib.__path__, "scellseg_lib."):
        _ = module.name.endswith("__main__") or import_module(module.name)
    every = {one.__name__: one for one in with_subclasses(errors.ScellsegError)}
    assert len(every) > 8
    own_words = {name for name, one in every.items() if "__init__" in vars(one)} - {"ScellsegError"}
    silent = set()
    for path, node in ((p, n) for p in trees() for n in nodes(p)):
        if isinstance(node, ast.Raise) and node.exc and last_name(node.exc) in every:
            silent.add(said(path, node))
        elif isinstance(node, ast.Call) and last_name(node.func) in every.keys() - own_words:
            silent |= {said(path, node)} if not says_remedy(node) else set()
    for name in own_words:
        calls = [n for n in ast.walk(ast.parse(getsource(every[name]))) if isinstance(n, ast.Call)]
        calls = [call for call in calls if ast.unparse(call.func) == "super().__init__"]
        silent |= {name for call in calls if not says_remedy(call)}
    assert silent == set()


def test_an_error_comes_whole_out_of_another_process() -> None:
    for error in (
        errors.ChannelsNeeded("which?", ["red", "3"], where="a.tif"),
        errors.AxesNeeded("which?", 3),
        errors.MasksMadeOtherwise("made otherwise", remedy="Wait.", differing={}, replaceable=True),
    ):
        back = copy.copy(error)  # by the same steps
        assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


READING = "replace|startswith|endswith|r?partition|r?split|splitlines|find|index|count|lower"
READING += "|removeprefix|removesuffix"


def caught_in(path: Path) -> set[str]:
    """Names by which a module knows errors: those that it catches, and arguments that are some."""
    names = {n.name for n in nodes(path) if isinstance(n, ast.ExceptHandler) and n.name}
    arguments = [n for n in nodes(path) if isinstance(n, ast.arg) and n.annotation]
    errors = re.compile("Error|Exception|Warning")
    return names | {one.arg for one in arguments if errors.search(ast.unparse(one.annotation))}


def test_nobody_parses_a_message() -> None:
    """What must be acted on is a class with fields: no words of an error are searched."""
    wrong = []
    for path in trees():
        caught = "|".join(caught_in(path)) or "error"
        message = re.compile(
            rf".*\.(what|remedy)|.*\b(told|remedy_told)\(.*\)|str\(({caught})\)|({caught})\.args|"
            r"getattr\(.*, '(what|remedy)'.*\)"
        )
        for node in nodes(path):
            read: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                identity = any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
                read = [] if identity else [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                read = node.args if last_name(node.func.value) == "re" else []
                if re.fullmatch(READING, node.func.attr):
                    read = [*read, node.func.value]
            wrong += [said(path, node) for part in read if message.fullmatch(ast.unparse(part))]
    assert wrong == []
