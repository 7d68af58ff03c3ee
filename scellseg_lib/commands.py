"""How all commands speak (one sentence for an error), and those of data, models and exports."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from scellseg_lib.datasets import fetch, manifest, synthetic, weights
from scellseg_lib.errors import ScellsegError
from scellseg_lib.files import export

_ARGUMENT = re.compile(
    r"(?<![\w/.-])(axes|cell_threshold|channels|diameter|flow_threshold|images|min_size|overwrite"
    r"|page|side|weights)=(\([^)]*\)|[\"'][^\"']*[\"']|-?\w+(?:\.\w+)*|)"
)


def as_options(text: str) -> str:
    """Text in which the library's arguments are options: ``page=2`` is ``--page 2``."""

    def option(match: re.Match[str]) -> str:
        value = re.sub("[()\"' ]|True", "", match[2])
        return f"--{match[1].replace('_', '-')} {value}".rstrip()

    return _ARGUMENT.sub(option, text)


def fail(message: str, each: Iterable[str] = (), code: int = 1) -> NoReturn:
    """End with a message, and a line for each thing that it speaks of."""
    message = "\n  ".join([message, *each])
    typer.echo(f"Error: {as_options(message)}" if code == 1 else message, err=True)
    raise typer.Exit(code)


class _Commands(TyperGroup):
    """All commands end in one clear sentence where they cannot do what is asked."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tqdm.write(
                f"Warning: {as_options(str(message))}", file=sys.stderr
            )
            try:
                return super().invoke(ctx)
            except ScellsegError as error:
                fail(str(error))
            except OSError as error:  # a folder that may not be written to, a full disk
                fail(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            except KeyboardInterrupt:
                fail(
                    "Stopped. What is done is kept: the same command goes on from there.", code=130
                )


Group = partial(
    typer.Typer,
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = Group(help="Data sets: which there are, get and check them.")
models_app = Group(help="Models: which there are, get the authors' weights.")


@data_app.command("list")
def list_data() -> None:
    """List the data sets: how many of their images are here, and their terms.

    \b
    Example:
      scellseg data list
    """
    for name in manifest.list_manifests():
        card = manifest.load_manifest(name)
        entries = card.entries()
        here = sum((card.folder / entry.image).is_file() for entry in entries)
        typer.echo(
            f"{name:22}{here:5} of {len(entries) or '?':>5} here  {card.access:7}{card.licence}"
        )
    for name in synthetic.NAMES:
        typer.echo(f"{name:22}{'made as they are read':21}open   BSD-3-Clause")


@data_app.command("fetch")
def fetch_data(name: str) -> None:
    """Download a data set and check every image against its manifest.

    \b
    Example:
      scellseg data fetch bbbc010_elegans
    """
    typer.echo(fetch.fetch(name))


@data_app.command("verify")
def verify_data(name: str) -> None:
    """Compare the files of a data set with its manifest, pixel for pixel.

    \b
    Example:
      scellseg data verify bbbc010_elegans
    """
    report = fetch.verify(name)
    typer.echo(report)
    if report.wrong:
        raise typer.Exit(1)


@data_app.command("path")
def path_data(name: str) -> None:
    """Print the folder of a data set, whether it is there yet or not.

    \b
    Example:
      scellseg data path bbbc010_elegans
    """
    typer.echo(manifest.load_manifest(name).folder)


def export_masks(
    masks: Annotated[Path, typer.Argument(metavar="MASKS", exists=True)],
    to: Annotated[list[str], typer.Option(help=f"One or more of {', '.join(export.FORMATS)}.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder. Default: exported/ beside the masks, or in them.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(exists=True, help="Image or folder: for cells, cellpose, table.")
    ] = None,
    channels: Annotated[str, typer.Option(help="Names of the channels, such as worm,dye.")] = "",
    side: Annotated[
        int | None, typer.Option(min=1, help="Of the images of cells, px. Default: their boxes.")
    ] = None,
    cut_out: Annotated[
        bool, typer.Option("--cut-out", help="Black out what is not the cell, in images of cells.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make anew what exists.")] = False,
) -> None:
    """Export masks for other programs: a label file, or a folder of NAME_masks.*.

    imagej gives a zip of ROIs for ImageJ's ROI Manager, geojson detections for QuPath, outlines
    text as Cellpose's, cellpose a NAME_seg.npy for its interface (with the image, if --images says
    where), table the measurements of every cell, cells an image of each, tiff and png label
    images. Cellpose's NAME_seg.npy are masks too. Classes and notes of a list NAME_cells.csv beside
    the masks go into geojson and table. Cells are numbered 1 to n, in the order of their labels.
    What exists is left alone. Failures are listed at the end.

    \b
    Examples:
      scellseg export masks/ --to imagej --to table --images plate1/
      scellseg export A_masks.tif --to cells --images A.tif --side 96 --cut-out
      scellseg export A_seg.npy --to imagej
    """
    output = output or (masks if masks.is_dir() else masks.parent) / "exported"
    done = export.export(
        masks,
        output,
        to,
        images=images,
        channels=[name.strip() for name in channels.split(",") if name.strip()],
        side=side,
        keep_background=not cut_out,
        overwrite=overwrite,
    )
    typer.echo(f"{done.written} written, {done.already} there already: {output}.")
    if done.failed:
        fail(f"{len(done.failed)} label files failed:", done.failed)


@models_app.command("list")
def list_models() -> None:
    """List the models that can be loaded.

    \b
    Example:
      scellseg models list
    """
    cards = {file: weights.load_model(file).card for file in weights.packaged_files()}
    widest = {card.architecture: card for card in sorted(cards.values(), key=lambda c: c.levels)}
    for file, card in cards.items():
        asked = card.architecture if card is widest[card.architecture] else file
        typer.echo(f"--model {asked!s:10} packaged  levels {card.levels}  {card.origin}")
    for name in weights.RELEASED:
        here = "here" if weights.released_file(name).is_file() else "not fetched yet"
        typer.echo(f"--model {name:10} --weights released  the authors' own, {here}")


@models_app.command("fetch")
def fetch_models() -> None:
    """Get the authors' own weights of Scellseg and Cellpose through pip's index (102 MB).

    \b
    Example:
      scellseg models fetch
    """
    for name in weights.RELEASED:
        weights.released_weights(name)
        typer.echo(weights.released_file(name))
