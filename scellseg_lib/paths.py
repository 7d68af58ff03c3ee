"""Where everything lies: the one module that knows folders."""

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
PACKAGED_WEIGHTS = PACKAGE / "weights"
# The data manifests and the profiles of experiments, which an installed package carries within.
_is_installed = (PACKAGE / "data_manifests").is_dir()
MANIFESTS = (PACKAGE if _is_installed else REPOSITORY) / "data_manifests"
PROFILES = (PACKAGE if _is_installed else REPOSITORY / "notebooks") / "profiles"
RUNS = REPOSITORY / "runs"  # what long runs keep to go on from; never committed


def cache() -> Path:
    """Folder of the user's cache: ``SCELLSEG_CACHE``, else the platform's own place."""
    return Path(os.environ.get("SCELLSEG_CACHE") or platformdirs.user_cache_dir("scellseg"))


def data() -> Path:
    """Folder with one sub-folder per data set: ``SCELLSEG_DATA``, else in the cache."""
    return Path(os.environ.get("SCELLSEG_DATA") or cache() / "data")


def results(profile: str) -> Path:
    """Folder of the committed results of a profile."""
    return REPOSITORY / "figures" / "data" / profile


def figure(profile: str, name: str) -> Path:
    """Where a figure is saved, without a suffix: those of other profiles than released apart."""
    return REPOSITORY / "figures" / ("" if profile == "released" else profile) / name


def offline() -> bool:
    """Whether ``SCELLSEG_OFFLINE`` forbids any use of the network."""
    return os.environ.get("SCELLSEG_OFFLINE", "") not in ("", "0")
