"""What the library raises: every message says what was wrong, where, and what to do."""

from __future__ import annotations

from os import PathLike


class ScellsegError(Exception):
    """Base of all errors of this library.

    Parameters
    ----------
    what : str
        What was wrong, as a sentence without its full stop.
    where : path, optional
        The file, folder or URL concerned.
    remedy : str, optional
        What the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        message = f"{where}: {what}." if where is not None else f"{what}."
        super().__init__(f"{message} {remedy}" if remedy else message)


class ImageError(ScellsegError):
    """An image or mask file cannot be read, or does not hold what it should."""


class DatasetError(ScellsegError):
    """A data set is incomplete, inconsistent or unknown."""


class ManifestError(ScellsegError):
    """A data manifest does not follow the schema."""


class FetchError(ScellsegError):
    """A download failed, or what came is not what the manifest promises."""


class ModelError(ScellsegError):
    """Weights, a card and an architecture do not fit together, or cannot be had."""


class TrainingError(ScellsegError):
    """Training cannot start, continue or be resumed as asked."""


class MetricError(ScellsegError):
    """Two label images cannot be compared."""
