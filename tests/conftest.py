"""What all tests share: the real images, a cache of their own, few threads, no windows."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before the libraries are imported that read them at import. Two threads, as on the smallest
# machine that the project is made for, or one each for two workers; progress bars would drown the
# report.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, THREADS)
os.environ.setdefault("TQDM_DISABLE", "1")
# Threads that wait for each other asleep: awake they take the cores from what they wait for, and a
# training step beside two other busy programs on two cores is ten times slower (measured).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Real images beside the checkout are used unless the user names others.
DATA_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if DATA_BESIDE.is_dir():
    os.environ.setdefault("SCELLSEG_DATA", str(DATA_BESIDE))

# In CI with the data at hand nothing may be skipped: a skipped test there is a test that was lost.
NO_SKIPPING = os.environ.get("CI", "") not in ("", "0", "false") and DATA_BESIDE.is_dir()


def pytest_configure() -> None:
    """Draw without windows, by call, as the variable would reach the notebooks' kernels too."""
    import hypothesis
    import matplotlib

    matplotlib.use("Agg")
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one worker run all browser tests, which share a server and a browser."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/browser/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that workers end together: a file is the work of one."""
    longest = ("tests/browser/", "tests/notebooks/test_smoke", "tests/workbench/")
    items.sort(key=lambda item: not item.nodeid.startswith(longest))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images; the test is skipped where there is none."""
    folder = Path(os.environ.get("SCELLSEG_DATA", ""))
    if not (folder / "index.csv").is_file():
        pytest.skip("the real images are not here: SCELLSEG_DATA names their folder")
    return folder


@pytest.fixture
def temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache for a test that writes one; the authors' weights stay in the real one."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("SCELLSEG_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Other tests of this process may have changed how many threads add up, and in which order."""
    import numba
    import torch

    before = {library: library.get_num_threads() for library in (numba, torch)}
    for library in before:
        library.set_num_threads(1)
    yield
    for library, threads in before.items():
        library.set_num_threads(threads)


@pytest.fixture
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of training of a twelfth of their size."""
    from scellseg_lib import augment
    from tests import tiny

    monkeypatch.setattr(augment, "PATCH", tiny.PATCH)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where nothing may be skipped and some test, or a whole module, was."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")  # workers have none
    skipped = reporter.stats.get("skipped", []) if reporter and NO_SKIPPING else []
    for lost in (one for one in skipped if "accelerator" not in getattr(one, "keywords", {})):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nLOST {lost.nodeid}: skipped in CI, with the real images at hand")
