"""The command ``scellseg``."""

from __future__ import annotations

import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm
from typer.core import TyperGroup

import scellseg_lib as scellseg
from scellseg_lib import batch, doctor, fetch, manifest, readers, released, scoring
from scellseg_lib.data import load_folder
from scellseg_lib.errors import ScellsegError, TrainingError
from scellseg_lib.finetune import Layers, Schedule
from scellseg_lib.model import Model, packaged

CHANNELS = re.compile(r"(red|green|blue|gray|\d+)(,(red|green|blue|gray|none|\d+))?")


class _Commands(TyperGroup):
    """All commands end in one clear sentence where they cannot do what is asked."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tqdm.write(
                f"Warning: {message}", file=sys.stderr
            )
            try:
                return super().invoke(ctx)
            except ScellsegError as error:
                _fail(str(error))
            except OSError as error:  # a folder that may not be written to, a full disk
                _fail(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            except KeyboardInterrupt:
                _fail("Stopped. What is done is kept: the same command goes on from there.", 130)


def _fail(message: str, code: int = 1) -> None:
    typer.echo(f"Error: {message}" if code == 1 else message, err=True)
    raise typer.Exit(code)


_Group = partial(
    typer.Typer,
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app = _Group(help="Segment cells, fine-tune on a few annotated images, score the result.")
data_app = _Group(help="Data sets: which there are, get and check them.")
models_app = _Group(help="Models: which there are, get the authors' weights.")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

ModelName = Annotated[
    str, typer.Option("--model", help="scellseg, cellpose, hover, unet2, unet3, or a .safetensors.")
]
Weights = Annotated[
    str | None, typer.Option(help="packaged (default), released (the authors' own) or a file.")
]
Channels = Annotated[
    str | None,
    typer.Option(
        help="Plane to segment and nucleus plane: red, green, blue, gray, none or an index, such "
        "as green,red. Default: those of the model's file, else gray."
    ),
]
Axes = Annotated[
    str | None, typer.Option(help="Axes of the TIFFs where they do not say so, such as CYX.")
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make anew what exists.")]


@app.command()
def segment(
    source: Annotated[
        Path, typer.Argument(metavar="IMAGE_OR_FOLDER", exists=True, help="PNG, TIFF or JPEG.")
    ],
    model: ModelName = "scellseg",
    weights: Weights = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the masks. Default: segmented/ beside.")
    ] = None,
    diameter: Annotated[
        float | None, typer.Option(min=1, help="Of the cells, pixels. Default: the model's.")
    ] = None,
    cell_threshold: Annotated[
        float | None, typer.Option(help="Lower: more and larger cells. Default: the model's.")
    ] = None,
    flow_threshold: Annotated[
        float | None, typer.Option(min=0, help="Lower: fewer odd shapes; 0 keeps all.")
    ] = None,
    min_size: Annotated[
        int | None, typer.Option(min=0, help="Smallest cell, pixels where a cell is 30 px wide.")
    ] = None,
    channels: Channels = None,
    axes: Axes = None,
    resample: Annotated[
        bool,
        typer.Option("--resample/--fast", help="Smooth outlines, or quickly at the 30-px scale."),
    ] = True,
    flips: Annotated[bool, typer.Option("--flips", help="Better, four times the work.")] = False,
    file_format: Annotated[Literal["tiff", "png"], typer.Option("--format")] = "tiff",
    preview: Annotated[bool, typer.Option("--preview", help="Draw contours too.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment an image or all images of a folder into NAME_masks.tif: 0 background, cells 1 to n.

    Images whose masks exist are left alone: the same command goes on with a run that was stopped.
    Files that cannot be read are listed at the end.

    \b
    Examples:
      scellseg segment plate1/ --diameter 40 --preview
      scellseg segment cells.tif --model tuned.safetensors --output masks/
      scellseg segment plate1/ --weights released --channels green,red --format png
    """
    output = output or (source if source.is_dir() else source.parent) / "segmented"
    jobs = batch.plan(source, output, ".tif" if file_format == "tiff" else ".png")
    loaded = _load(model, weights)
    outcome = batch.segment_files(
        jobs,
        loaded,
        partial(readers.read_image, channels=_planes(channels, model, loaded), axes=axes),
        overwrite=overwrite,
        overlays=preview,
        diameter=diameter,
        cell_threshold=cell_threshold,
        flow_threshold=flow_threshold,
        min_size=min_size,
        resample=resample,
        flips=flips,
    )
    typer.echo(
        f"{outcome.segmented} images segmented, {outcome.cells} cells; {outcome.already} already "
        f"done. Masks are in {output}."
    )
    if outcome.failed:
        listed = "\n".join(f"  {message}" for message in outcome.failed.values())
        _fail(f"{len(outcome.failed)} of {len(jobs)} images failed:\n{listed}")


@app.command()
def finetune(
    folder: Annotated[
        Path,
        typer.Argument(exists=True, file_okay=False, help="shot/ and query/, or one folder."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Tuned model. Default: model.safetensors in the folder.")
    ] = None,
    model: ModelName = "scellseg",
    weights: Weights = None,
    strategy: Annotated[
        Literal["contrastive", "classic"], typer.Option(help="Contrastive is the paper's.")
    ] = "contrastive",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 8 patches.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the patches.")] = 0,
    schedule: Annotated[Schedule, typer.Option(help="Of the learning rate.")] = "halvings",
    layers: Annotated[Layers, typer.Option(help="What is learnt (Extended Data Fig. 8).")] = "all",
    channels: Channels = None,
    axes: Axes = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to a few annotated images.

    Annotated images are NAME_img.* with NAME_masks.*, in FOLDER/shot or in FOLDER. Those in
    FOLDER/query, or without masks, are the images to be segmented later: contrastive fine-tuning
    learns their look, never their masks.

    A checkpoint is kept beside the output: the same command goes on with a run that was stopped.

    \b
    Examples:
      scellseg finetune worms/ --output worms.safetensors
      scellseg finetune worms/ --strategy classic --steps 200 --seed 1
      scellseg segment worms/query --model worms.safetensors
    """
    output = output or folder / "model.safetensors"
    if output.suffix != ".safetensors":
        raise typer.BadParameter("a model's file ends in .safetensors", param_hint="--output")
    if output.exists() and not overwrite:
        raise TrainingError(
            "the model exists already", where=output, remedy="Name another, or give --overwrite."
        )
    base = _load(model, weights)
    planes = _planes(channels, model, base)
    images = load_folder(folder, planes, axes=axes)
    queried = any(sample.split == "query" for sample in images)
    queries = images.query.without_masks() if queried else None
    tuned = scellseg.finetune(
        base,
        images.shot,
        queries,
        strategy,
        steps=steps,
        seed=seed,
        schedule=schedule,
        layers=layers,
        checkpoint=output.with_suffix(".checkpoint"),
    )
    tuned.card = tuned.card.model_copy(update={"channels": planes})
    tuned.save(output)
    typer.echo(
        f"{output}: tuned on {len(images.shot)} annotated and {len(queries or ())} unlabelled "
        f"images; cells are {tuned.card.diameter:.1f} px wide.\n"
        f"Segment with: scellseg segment FOLDER --model {output}"
    )


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(metavar="PRED", exists=True)],
    true: Annotated[Path, typer.Argument(metavar="TRUTH", exists=True)],
    csv: Annotated[Path | None, typer.Option(help="Row per image and threshold.")] = None,
) -> None:
    """Score masks against true ones: two files, or two folders matched by name.

    NAME_masks.* goes with NAME_masks.* or NAME.*. AP is TP / (TP + FP + FN); mAP and mAJI are
    means over the IoU thresholds 0.50, 0.55 .. 0.95; AJI is the standard index.

    \b
    Examples:
      scellseg evaluate worms/query/segmented worms/query
      scellseg evaluate A_masks.tif A_truth.png --csv scores.csv
    """
    frame = scoring.score_files(scoring.pair_labels(predicted, true))
    typer.echo(scoring.score_table(frame).to_string(float_format="{:.3f}".format))
    if csv:
        frame.to_csv(csv, index=False)


@app.command("doctor")
def doctor_() -> None:
    """Say what this machine offers, and test for ten seconds whether it computes rightly."""
    for name, value in doctor.facts():
        typer.echo(f"{name + ':':18}{value}")
    passed = True
    for check in doctor.self_test():
        typer.echo(f"{check.name + ':':18}{'ok' if check.passed else 'FAILED'}, {check.detail}")
        passed &= check.passed
    if not passed:
        _fail("the self-test failed: results from this machine are not to be trusted.")


@data_app.command("list")
def list_data() -> None:
    """List the data sets: how many of their images are here, and their terms."""
    for name in manifest.names():
        card = manifest.load_manifest(name)
        entries = card.entries()
        here = sum((card.folder / entry.image).is_file() for entry in entries)
        typer.echo(
            f"{name:22}{here:5} of {len(entries) or '?':>5} here  {card.access:7}{card.licence}"
        )


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
    """Compare the files of a data set with its manifest, pixel for pixel."""
    report = fetch.verify(name)
    typer.echo(report)
    if not report.complete:
        raise typer.Exit(1)


@data_app.command("path")
def path_data(name: str) -> None:
    """Print the folder of a data set, whether it is there yet or not."""
    typer.echo(fetch.path(name))


@models_app.command("list")
def list_models() -> None:
    """List the models that can be loaded."""
    for file in packaged():
        card = scellseg.load_model(file).card
        typer.echo(f"--model {card.architecture:10} packaged  levels {card.levels}  {card.origin}")
    for name in released.WEIGHTS_SHA256:
        here = "here" if released.weights_file(name).is_file() else "not fetched yet"
        typer.echo(f"--model {name:10} --weights released  the authors' own, {here}")


@models_app.command("fetch")
def fetch_models() -> None:
    """Get the authors' own weights of Scellseg and Cellpose through pip's index (102 MB)."""
    for name in released.WEIGHTS_SHA256:
        released.state_dict(name)
        typer.echo(released.weights_file(name))


def _load(name: str, weights: str | None) -> Model:
    """Model of the two options, on the fastest device."""
    if weights and name.endswith(".safetensors"):
        raise typer.BadParameter("the model's file has its own weights", param_hint="--weights")
    return scellseg.load_model(name, weights or "packaged")


def _planes(wanted: str | None, name: str, model: Model) -> tuple[str, str]:
    """Planes that are asked for, else those that a model's file was made for, else gray."""
    if wanted is None:
        return model.card.channels if name.endswith(".safetensors") else ("gray", "none")
    if not CHANNELS.fullmatch(wanted):
        raise typer.BadParameter(f"{wanted!r} is not like green,red", param_hint="--channels")
    first, _, second = wanted.partition(",")
    return first, second or "none"
