"""What the library raises: an error says what was wrong, where, and what to do."""

from collections.abc import Callable, Mapping, Sequence
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
        What the user can do about it. ``{page}`` in it, and in `what`, stands for the option of
        that name.
    options : mapping, optional
        The options that are spoken of, with their value, or None for any. The command line and the
        workbench say them in their own words, see `told`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | PathLike[str] | None = None,
        remedy: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self._what, self._remedy = what, remedy or ""
        self.where, self.options = where, dict(options or {})

    @property
    def what(self) -> str:
        """What was wrong, in the words of the library."""
        return self._say(self._what, as_argument)

    def remedy_told(self, option: Callable[[str, Any], str] = as_argument) -> str:
        """Remedy with its options in somebody's words: (name, value) -> such as ``--page 2``."""
        return self._say(self._remedy, option)

    def told(self, option: Callable[[str, Any], str] = as_argument) -> str:
        """Whole message: where, what and remedy, with the options in somebody's words."""
        where = "" if self.where is None else f"{self.where}: "
        return f"{where}{self._say(self._what, option)}. {self.remedy_told(option)}".rstrip()

    def _say(self, text: str, option: Callable[[str, Any], str]) -> str:
        """Text with options in somebody's words; braces of anything else stay."""
        for name, value in self.options.items():
            text = text.replace(f"{{{name}}}", option(name, value))
        return text

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


class ScellsegWarning(ScellsegError, UserWarning):
    """A doubt, with what the user can do about it; it is warned of, and not raised."""


class ChannelsNeeded(ImageError):
    """Which of an image's ``channels`` ("red", "green", "blue", "3", ..) to read is not said."""

    def __init__(
        self, what: str, channels: Sequence[str], *, where: str | PathLike[str] | None = None
    ) -> None:
        self.channels = list(channels)
        numbered = [f"{i} ({name})".removesuffix(f" ({i})") for i, name in enumerate(channels)]
        super().__init__(
            what,
            where=where,
            remedy="Name the one to segment and that of the nuclei, such as {channels}; gray is "
            f"the mean of all, none is no nuclei. There are: {', '.join(numbered)}.",
            options={"channels": ("green", "red")},
        )


class AxesNeeded(ImageError):
    """Which of a file's ``pages`` (their number) to read, or what they are, is not said."""

    def __init__(self, what: str, pages: int) -> None:
        self.pages = pages
        super().__init__(
            what,
            remedy=f"Give {{page}}, 0 to {pages - 1}, for one plane, or save it as a file of its "
            "own. If its pages are channels, say so by {axes}, a letter for each axis.",
            options={"page": None, "axes": "CYX"},
        )


class SideTooSmall(ImageError):
    """Cells need a side of ``least`` px for the images that are to be cut out around them."""

    def __init__(self, what: str, least: int) -> None:
        self.least = least
        super().__init__(
            what,
            remedy="Give {side} or more, or no side: each image is as large as its cell then.",
            options={"side": least},
        )


class MasksMadeOtherwise(DatasetError):
    """A folder holds masks that were made with another model or other settings.

    ``differing`` names the settings: how they were there ("unknown" if nobody says), and are now.
    The masks are ``replaceable`` if all are of the images to be segmented.
    """

    def __init__(
        self,
        differing: Mapping[str, tuple[Any, Any]],
        replaceable: bool,
        where: str | PathLike[str],
    ) -> None:
        self.differing, self.replaceable = dict(differing), replaceable
        pairs = [f"{name} {was} there, {now} asked for" for name, (was, now) in differing.items()]
        may = ", or {overwrite}." if replaceable else ": there are masks of other images, too."
        super().__init__(
            f"the folder holds masks made otherwise: {'; '.join(pairs)}",
            where=where,
            remedy=f"Give another folder as the output{may}",
            options={"overwrite": True},
        )
