"""What the library raises: an error says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any


def as_argument(name: str, value: Any) -> str:
    """Name an option as a caller of the library writes it: ``page=2``, ``channels=...``."""
    return f"{name}=..." if value is None else f"{name}={value!r}"


class ScellsegError(Exception):
    """Base of all errors of this library.

    Parameters
    ----------
    what : str
        What was wrong, as a sentence without its full stop.
    where : path, optional
        The file, folder or URL concerned.
    remedy : str, optional
        What the user can do about it. ``{page}`` in it stands for the option of that name.
    options : mapping, optional
        The options that the remedy speaks of, with the value to give, or None for any. The command
        line and the workbench say them in their own words, see `told`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        remedy: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.what, self.where, self.options = what, where, dict(options or {})
        self._remedy = remedy
        super().__init__(what)

    @property
    def remedy(self) -> str | None:
        """What the user can do about it, in the words of the library."""
        return self.remedy_told(as_argument)

    def remedy_told(self, option: Callable[[str, Any], str]) -> str | None:
        """Remedy with its options as somebody else calls them.

        Parameters
        ----------
        option : callable
            From an option's name and value to words, such as ``--page 2``.
        """
        if self._remedy is None or not self.options:
            return self._remedy
        words = {name: option(name, value) for name, value in self.options.items()}
        return self._remedy.format_map(words)

    def told(self, option: Callable[[str, Any], str] = as_argument) -> str:
        """Whole message: where, what and remedy, with the options in somebody's words."""
        message = f"{self.where}: {self.what}." if self.where is not None else f"{self.what}."
        remedy = self.remedy_told(option)
        return f"{message} {remedy}" if remedy else message

    def __str__(self) -> str:
        return self.told()


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
