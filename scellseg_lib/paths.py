"""Where everything lies: the one module that knows folders."""

import os
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
PACKAGED_WEIGHTS = PACKAGE / "weights"


def cache() -> Path:
    """Folder of the user's cache: ``SCELLSEG_CACHE``, else the platform's own place."""
    return Path(os.environ.get("SCELLSEG_CACHE") or platformdirs.user_cache_dir("scellseg"))


def data() -> Path:
    """Folder with one sub-folder per data set: ``SCELLSEG_DATA``, else in the cache."""
    return Path(os.environ.get("SCELLSEG_DATA") or cache() / "data")


def manifests() -> Path:
    """Folder of the data manifests: inside an installed package, else the repository's."""
    installed = PACKAGE / "data_manifests"
    return installed if installed.is_dir() else REPOSITORY / "data_manifests"


def profiles() -> Path:
    """Folder of the experiments' profiles, likewise."""
    installed = PACKAGE / "profiles"
    return installed if installed.is_dir() else REPOSITORY / "notebooks" / "profiles"


def results(profile: str) -> Path:
    """Folder of the committed results of a profile."""
    return REPOSITORY / "figures" / "data" / profile


def figure(profile: str, name: str) -> Path:
    """Where a figure is saved, without a suffix: those of other profiles than released apart."""
    return REPOSITORY / "figures" / ("" if profile == "released" else profile) / name


def runs() -> Path:
    """Folder of what long runs keep to go on from: checkpoints, tuned models; never committed."""
    return REPOSITORY / "runs"


def offline() -> bool:
    """Whether ``SCELLSEG_OFFLINE`` forbids any use of the network."""
    return os.environ.get("SCELLSEG_OFFLINE", "") not in ("", "0")
