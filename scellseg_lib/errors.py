"""What the library raises: an error says what was wrong, where, and what to do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

WORDS = {UnicodeDecodeError: "it is not text in UTF-8", RecursionError: "it is nested without end"}
WORDS |= {KeyError: "it lacks {}", TypeError: "it is foreign", AttributeError: "it is foreign"}


def as_argument(name: str, value: Any) -> str:
    """Name an option as a caller of the library writes it: ``page=2``, ``channels=...``."""
    return f"{name}=..." if value is None else f"{name}={value!r}"


class ScellsegError(Exception):
    """Base of all errors of this library.

    It says ``what`` was wrong, as a sentence without its full stop, ``where`` (a file or URL), and
    the ``remedy``, what the user can do. ``options`` are what ``{page}`` and the like in the texts
    stand for: a value, or None for any. ``facts``, on which a program may act, become attributes.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        remedy: str = "",
        options: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(what)
        self.what, self.where, self.remedy, self.options = what, where, remedy, options or {}
        vars(self).update(facts)

    def tell(self, option: Callable[[str, Any], str] = as_argument) -> str:
        """Whole message: where, what and remedy, with the options in somebody's words."""
        where = "" if self.where is None else f"{self.where}: "
        return f"{where}{self.say(self.what, option)}. {self.say(self.remedy, option)}".rstrip()

    __str__ = tell

    def say(self, text: str, option: Callable[[str, Any], str] = as_argument) -> str:
        """Text with the options in somebody's words: (name, value) -> such as ``--page 2``."""
        for name, value in self.options.items():
            text = text.replace(f"{{{name}}}", option(name, value))
        return text


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


class OptionError(ScellsegError):
    """An option is unknown, or has a value that is not allowed."""


class TrainingError(ScellsegError):
    """Training cannot start, continue or be resumed as asked."""


class MetricError(ScellsegError):
    """Two label images cannot be compared."""


class ScellsegWarning(ScellsegError, UserWarning):
    """A doubt, with what the user can do about it; it is warned of, and not raised."""


class ChannelsNeeded(ImageError):
    """Which of an image's ``channels`` ("red", "green", "blue", "3", ..) to read is not said."""

    def __init__(self, what: str, channels: Sequence[str] = (), **said: Any) -> None:
        self.channels = [*channels]
        numbered = [f"{i} ({name})".removesuffix(f" ({i})") for i, name in enumerate(channels)]
        remedy = "Name the one to segment and that of the nuclei, such as {channels}; gray is the "
        remedy += f"mean of all, none is no nuclei. There are: {', '.join(numbered)}."
        example = ("green", "red") if len(numbered) > 1 else ("gray", "none")
        super().__init__(what, remedy=remedy, options={"channels": example}, **said)


class AxesNeeded(ImageError):
    """Which of a file's pages to read, or what they are, is not said."""

    def __init__(self, what: str, pages: int = 1) -> None:
        remedy = f"Give {{page}}, 0 to {pages - 1}, for one plane, or save it as a file of its own."
        remedy += " If its pages are channels, say so by {axes}, a letter for each axis."
        super().__init__(what, remedy=remedy, options={"page": None, "axes": "CYX"}, pages=pages)


class SideTooSmall(ImageError):
    """Cells need a larger side for the images that are to be cut out around them."""


class MasksMadeOtherwise(DatasetError):
    """A folder holds masks that were made with another model or other settings."""

    differing: dict[str, tuple[Any, Any]]  # by setting: there ("unknown" if not recorded), and now
    replaceable: bool  # whether all the masks are of the images to be segmented


@contextmanager
def telling(what: str, where: Any, remedy: str, kind: Any = DatasetError) -> Iterator[None]:
    """Say in words, with the file's name, whatever a block raises that reads or writes a file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ScellsegError) and (error.where or isinstance(error, kind)):
            error.where = error.where or where
            raise
        raise kind(f"{what} ({explain(error)})", where=where, remedy=remedy) from error


def explain(error: BaseException) -> str:
    """What an error says in one line, without the name of its file, which is said beside it."""
    if isinstance(error, ValidationError):
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]]
        return "; ".join(told).removeprefix(": ")
    words = WORDS.get(type(error), "{}").format(getattr(error, "strerror", None) or error)
    return shorten(words, 400) or type(error).__name__
