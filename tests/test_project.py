"""Rules of the project that a machine can check: pins, hooks, what is never there."""

import getpass
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the project; in an archive without git, all but what is built or fetched."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        built = {".venv", "runs", ".git", "__pycache__", "build", "dist"}
        files = [p for p in ROOT.rglob("*") if not built & set(p.relative_to(ROOT).parts)]
    return tuple(path for path in files if path.is_file())


@cache
def texts(*suffixes: str) -> dict[str, str]:
    """Text of the project's files with one of the suffixes (all text files without).

    A picture in a notebook is no text: any three letters stand somewhere in its base64.
    """
    found = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content and (not suffixes or path.suffix in suffixes):
            text = re.sub(r'"image/png": "[A-Za-z0-9+/=\\n]*"', '"image/png": ""', content.decode())
            found[path.relative_to(ROOT).as_posix()] = text
    return found


@cache
def pins() -> dict[str, Requirement]:
    """Both locks: canonical name -> requirement of one version."""
    both = (ROOT / "requirements.lock").read_text() + (ROOT / "torch.lock").read_text()
    found = map(Requirement, re.findall(r"^(\w[^\\\n]+)", both, flags=re.MULTILINE))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in listed]


def test_locks_satisfy_pyproject_and_pin_torch_without_its_build():
    versions = {n: Version(str(one.specifier).removeprefix("==")) for n, one in pins().items()}
    for requirement in requirements():
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert [str(version) for version in versions.values() if version.local] == []


def test_every_package_is_locked_by_its_hashes():
    """pip then takes none that has none; torch, whose builds differ, is in a lock of its own."""
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.findall(r"^\S.*==.*(?: \\\n    --hash=sha256:[0-9a-f]{64})+$", lock, re.MULTILINE)
    assert len(entries) == len(pins()) - 1 == len(re.findall("^[^# ]", lock, re.MULTILINE))


WINDOWS = {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"}
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("system", [LINUX, MACOS, WINDOWS], ids=lambda one: one["platform_system"])
def test_lock_is_the_whole_set_and_no_more(system, python):
    """Follow the requirements of the installed packages, as such a machine reads them."""
    machine = {**system, "python_version": python, "python_full_version": f"{python}.9"}
    lock = {n for n, one in pins().items() if not one.marker or one.marker.evaluate(machine)}
    seen, absent = set(), set()
    open_ = [(requirement, "") for requirement in requirements()]
    while open_:
        requirement, parent = open_.pop()
        name = canonicalize_name(requirement.name)
        # What torch's CUDA build brings is pinned by torch and differs between its builds.
        if parent == "torch" and name not in lock:
            continue
        for extra in requirement.extras | {""}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                needs = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                absent.add(name)  # needed there and not here: the lock must still name it
                continue
            for need in map(Requirement, needs):
                if need.marker is None or need.marker.evaluate({**machine, "extra": extra}):
                    open_.append((need, name))
    reached = {name for name, _ in seen}
    assert sorted(reached - lock) == [], "missing: `make lock`"
    # What the absent need in their turn is not known here.
    assert absent or sorted(lock - reached) == [], "nothing needs it: `make lock`"


def test_conda_installs_the_lock():
    """Conda brings Python and pip alone; everything else comes from the lock and nowhere else."""
    python, pip, from_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == "pip"
    supported = Requirement("python" + PROJECT["requires-python"]).specifier
    assert python.removeprefix("python=") in supported
    assert from_pip == {"pip": ["-r requirements.lock"]}


def test_the_build_is_pinned_and_carries_what_the_library_reads():
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert all("==" in one for one in whole["build-system"]["requires"])
    carried = whole["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for folder, name in (("data_manifests", "data_manifests"), ("notebooks/profiles", "profiles")):
        assert carried[folder] == f"scellseg_lib/{name}"  # where `paths` looks for it
        assert list((ROOT / folder).glob("*.yaml"))


def test_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert citation["version"] == changes[0] == PROJECT["version"]


def test_no_names_that_say_nothing():
    empty = re.compile(r"(utils?|helpers?|misc|common)\.py|.*\.(pkl|pickle|pyc)|\.DS_Store")
    assert [path.name for path in tracked() if empty.fullmatch(path.name)] == []


# Each pattern is written so that it does not match itself.
NEVER = {
    "package host": r"py[p]i\.org|python[h]osted\.org|npm[j]s\.|deb\.deb[i]an\.|anaconda\.[o]rg",
    "path of a machine": (
        r"(?<![\w:/.<>~-])/(?:home|Users|root|mnt|media|scratch|workspace|work)/\w|\b[A-Z]:\\\w"
    ),
}
NEVER_IN_CODE = {
    "unpickling": (
        r"(import [p]ickle\b|[p]ickle\.load|\b[p]ickle import (?!dumps$|[U]npicklingError$)|"
        r"[U]npickler\b|allow_[p]ickle *= *True|weights_only *= *[F]alse)"
    ),
    "unfinished work": r"\b(TO[D]O|FIX[M]E|X[X]X|NotImplemented[E]rror)\b",
}


@pytest.mark.parametrize("what", [*NEVER, *NEVER_IN_CODE])
def test_never_there(what):
    within = texts() if what in NEVER else texts(".py", ".ipynb")
    wrong = re.compile((NEVER | NEVER_IN_CODE)[what], re.IGNORECASE | re.MULTILINE)
    found = {name: match.group() for name, text in within.items() if (match := wrong.search(text))}
    assert found.keys() <= {READER if what == "unpickling" else ""}, found


READER = "scellseg_lib/files/seg_npy.py"


def test_the_one_reader_of_pickles_asks_a_list_for_every_name():
    """What it does with a name, its own tests say; here, that nothing goes around it."""
    assert not re.search(r"super\(\)|[p]ickle\.|\bloads?\b(?!\(\)\[\(\)\])", texts(".py")[READER])


def test_no_path_of_this_machine():
    private = {str(ROOT.parent) + os.sep, str(Path.home()) + os.sep, getpass.getuser() + "@"}
    private -= {"root@", os.sep * 2}
    assert {(name, p) for name, text in texts().items() for p in private if p in text} == set()


def test_hooks_download_nothing_and_ci_can_be_run():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    assert set(re.findall(r"^([a-z-]+):.*## ", text, flags=re.MULTILINE)) == set(phony.split())


LOST = """
import pytest

def test_lost(): pytest.skip("no reason")

@pytest.mark.accelerator
def test_accelerator(): pytest.skip("no accelerator")

@pytest.mark.xfail(run=False)
def test_known(): ...
"""


@pytest.mark.parametrize(("data", "ci"), [(True, "true"), (True, ""), (False, "true")])
def test_skip_fails_in_ci_with_data(tmp_path, data, ci):
    """Run pytest on a checkout that holds our conftest.py and tests that are skipped."""
    checkout = tmp_path / "checkout"
    (checkout / "tests").mkdir(parents=True)
    if data:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", checkout / "tests")
    (checkout / "tests" / "test_lost.py").write_text(LOST)
    module = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"
    (checkout / "tests" / "test_module.py").write_text(module)
    (checkout / "pytest.ini").write_text("[pytest]\nmarkers = accelerator\n")
    environment = {**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    how = {"cwd": checkout, "env": environment, "capture_output": True}
    report = subprocess.run([sys.executable, "-m", "pytest", "tests"], text=True, **how)
    lost = {"test_module.py", "test_lost.py::test_lost"} if data and ci else set()
    assert set(re.findall(r"^LOST tests/([\w.:]+): ", report.stdout, re.MULTILINE)) == lost
    assert report.returncode == bool(lost)
    assert "1 xfailed" in report.stdout
