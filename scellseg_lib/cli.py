"""The command ``scellseg``."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import scellseg_lib as scellseg
from scellseg_lib import doctor
from scellseg_lib.atomic import whole
from scellseg_lib.commands import Group, data_app, export_masks, fail, models_app
from scellseg_lib.contrast import AlphaMode, StatisticsMode
from scellseg_lib.datasets.load import find_readable, list_datasets
from scellseg_lib.errors import DatasetError, TrainingError
from scellseg_lib.files import folder as batch
from scellseg_lib.files import scoring
from scellseg_lib.finetuning import Layers, Schedule
from scellseg_lib.model import Model
from scellseg_lib.paper import grid, run
from scellseg_lib.paper import sweep as sweeping
from scellseg_lib.paper.cluster import run_on_cluster
from scellseg_lib.paper.profile import load_profile

app = Group()
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.command("export")(export_masks)

OUTPUT = "model.safetensors"
CHANNELS = re.compile(r"(red|green|blue|gray|\d+)(,(red|green|blue|gray|none|\d+))?")


Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A folder, a data set's name, or a file to segment.")
]
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
        "as green,red; gray is the mean of all. Default: those of the model's file, else the only "
        "plane there is."
    ),
]
Axes = Annotated[
    str | None, typer.Option(help="Axes of the TIFFs where they do not say so, such as CYX.")
]
Page = Annotated[int | None, typer.Option(min=0, help="The one page of each TIFF to read, from 0.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make anew what exists.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scellseg {version('scellseg-notebooks')}")
        raise typer.Exit


@app.callback()
def main(
    asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and end.")
    ] = False,
) -> None:
    """Segment cells, fine-tune on a few annotated images, score the result.

    A data set's name (`scellseg data list`) serves wherever a folder does; a folder of such a name
    is ./NAME.
    """


@app.command()
def segment(
    source: Source,
    model: ModelName = "scellseg",
    weights: Weights = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the masks. Default: segmented/ beside, or segmented/NAME."),
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
    page: Page = None,
    resample: Annotated[
        bool,
        typer.Option("--resample/--fast", help="Smooth outlines, or quickly at the 30-px scale."),
    ] = True,
    flips: Annotated[bool, typer.Option("--flips", help="Better, four times the work.")] = False,
    file_format: Annotated[Literal["tiff", "png"], typer.Option("--format")] = "tiff",
    preview: Annotated[bool, typer.Option("--preview", help="Draw contours too.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment an image, all images of a folder, or the query images of a data set.

    NAME_masks.tif holds 0 for background and cells 1 to n. Images whose masks exist are left alone:
    the same command goes on with a run that was stopped. segmented.json beside the masks says how
    they were made; masks made otherwise are refused there. Failures are listed at the end.

    \b
    Examples:
      scellseg segment plate1/ --diameter 40 --preview
      scellseg segment cells.tif --model tuned.safetensors --output masks/
      scellseg segment plate1/ --weights released --channels green,red --format png
      scellseg segment bbbc010_elegans --model worms.safetensors --output masks
    """
    suffix = ".tif" if file_format == "tiff" else ".png"
    loaded = _load(model, weights)
    if source in list_datasets():
        reading: dict[str, Any] = {"channels": _planes(channels), "axes": axes, "page": page}
        images = scellseg.load_dataset(source, **reading).query
        output, outcome = output or Path("segmented", source), batch.Outcome()
        jobs = [batch.job_for(sample, output / sample.name, suffix) for sample in images]
    else:
        place = _existing(source)
        output = output or (place if place.is_dir() else place.parent) / "segmented"
        reading = {"channels": _planes(channels, model, loaded), "axes": axes, "page": page}
        jobs, outcome = batch.plan(place, output, suffix, **reading)
    total = len(jobs) + len(outcome.failed)
    batch.segment_jobs(
        jobs,
        loaded,
        output,
        outcome,
        reading=reading | {"format": file_format},
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
        fail(f"{len(outcome.failed)} of {total} images failed:", outcome.failed.values())


@app.command()
def finetune(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Option(help="Tuned model. Default: FOLDER/model.safetensors or NAME.safetensors."),
    ] = None,
    shots: Annotated[
        int | None, typer.Option(min=1, help="Draw as many annotated images. Default: all.")
    ] = None,
    model: ModelName = "scellseg",
    weights: Weights = None,
    strategy: Annotated[
        Literal["contrastive", "classic"], typer.Option(help="Contrastive is the paper's.")
    ] = "contrastive",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 8 patches.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Random state: of shots and patches.")] = 0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam.")] = 1e-3,
    schedule: Annotated[Schedule, typer.Option(help="Of the learning rate.")] = "halvings",
    layers: Annotated[Layers, typer.Option(help="What is learnt (Extended Data Fig. 8).")] = "all",
    alpha: Annotated[AlphaMode, typer.Option(help="Weight of the contrastive term.")] = "learnt",
    statistics: Annotated[
        StatisticsMode, typer.Option(help="What BatchNorm sees: all patches, or the shots'.")
    ] = "mixed",
    inductive: Annotated[
        bool, typer.Option("--inductive", help="The shots serve as queries, no other images.")
    ] = False,
    channels: Channels = None,
    axes: Axes = None,
    page: Page = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to a few annotated images.

    Annotated images are NAME_img.* with NAME_masks.*, in FOLDER/shot or in FOLDER. Those in
    FOLDER/query, or without masks, are the images to be segmented later: contrastive fine-tuning
    learns their look, never their masks. Data sets have both by their manifests.

    A checkpoint is kept beside the output: the same command goes on with a run that was stopped.
    Images to be segmented that cannot be read are left out, and listed at the end.

    \b
    Examples:
      scellseg finetune worms/ --output worms.safetensors
      scellseg finetune bbbc010_elegans --shots 8 --output worms.safetensors
      scellseg finetune worms/ --strategy classic --steps 200 --seed 1
      scellseg segment worms/query --model worms.safetensors
    """
    named = source in list_datasets()
    output = output or (Path(f"{source}.safetensors") if named else _existing(source) / OUTPUT)
    if output.suffix != ".safetensors":
        raise typer.BadParameter("a model's file ends in .safetensors", param_hint="--output")
    if output.exists() and not overwrite:
        raise TrainingError(
            "the model exists already", where=output, remedy="Name another, or give --overwrite."
        )
    base = _load(model, weights)
    planes = _planes(channels) if named else _planes(channels, model, base)
    images = scellseg.load_dataset(source, channels=planes, axes=axes, page=page)
    chosen = images.shots(shots, seed) if shots else images.shot
    queried = not inductive and any("query" in sample.split.split("+") for sample in images)
    queries = images.query.without_masks() if queried else None
    unread: list[str] = []
    if queries is not None and strategy == "contrastive":
        queries, unread = find_readable(queries)
        if not len(queries):
            raise DatasetError(
                f"none of the unlabelled images can be read, the first: {unread[0]}",
                remedy="Mend them, or give --inductive to learn from the shots alone.",
            )
    tuned = scellseg.finetune(
        base,
        chosen,
        queries,
        strategy,
        steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        schedule=schedule,
        layers=layers,
        alpha=alpha,
        statistics=statistics,
        checkpoint=output.with_suffix(".checkpoint"),
    )
    tuned.save(output)
    output.with_suffix(".checkpoint").unlink(missing_ok=True)
    typer.echo(
        f"{output}: tuned on {len(chosen)} annotated and {len(queries or ())} unlabelled "
        f"images; cells are {tuned.card.diameter:.1f} px wide.\n"
        f"Segment with: scellseg segment {source if named else 'FOLDER'} --model {output}"
    )
    if unread:
        fail(f"{len(unread)} unlabelled images could not be read and were left out:", unread)


@app.command()
def evaluate(
    predicted: Annotated[Path, typer.Argument(metavar="PRED", exists=True)],
    true: Annotated[str, typer.Argument(metavar="TRUTH")],
    csv: Annotated[Path | None, typer.Option(help="Row per image and threshold.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score masks against true ones: two files, or two folders matched by name.

    NAME_masks.* goes with NAME_masks.* or NAME.*, or with the query image of that name in a data
    set. AP is TP / (TP + FP + FN); mAP and mAJI are means over the IoU thresholds 0.50, 0.55 ..
    0.95; AJI is the standard index.

    \b
    Examples:
      scellseg evaluate worms/query/segmented worms/query
      scellseg evaluate A_masks.tif A_truth.png --csv scores.csv
      scellseg evaluate masks bbbc010_elegans
    """
    if csv and csv.exists() and not overwrite:
        raise DatasetError(
            "the table exists already", where=csv, remedy="Name another, or give --overwrite."
        )
    truth = scellseg.load_dataset(true).query if true in list_datasets() else _existing(true)
    frame = scoring.score_files(scoring.pair_labels(predicted, truth))
    typer.echo(scoring.score_table(frame).to_string(float_format="{:.3f}".format))
    if csv:
        with whole(csv) as scratch:
            frame.to_csv(scratch, index=False)


@app.command()
def sweep(
    experiments: Annotated[
        list[str], typer.Argument(help=f"all, or some of: {', '.join(grid.EXPERIMENTS)}.")
    ],
    profile: Annotated[str, typer.Option(help="Scale, a file of notebooks/profiles.")] = "released",
    data: Annotated[list[str] | None, typer.Option(help="Only this data set; repeatable.")] = None,
    states: Annotated[
        list[int] | None, typer.Option("--state", help="Only this random state; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the trials, and estimate their time.")
    ] = False,
    limit_time: Annotated[
        float | None, typer.Option(min=0, help="Minutes after which no trial is begun.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="A Dask cluster: local:4, or tcp://host:8786.")
    ] = None,
) -> None:
    """Compute the trials of the paper's experiments that are not there yet.

    Results go to figures/data/PROFILE/trials, one at a time and whole; the same command goes on
    with a sweep that was stopped. Needs the repository, and the data sets of the profile.

    \b
    Examples:
      scellseg sweep all --dry-run
      scellseg sweep shot_scale --data bbbc010_elegans --state 0 --limit-time 120
      scellseg sweep transferability --profile paper --cluster tcp://host:8786
    """
    if cluster and limit_time is not None:
        raise TrainingError(
            "a time limit is for one machine, a cluster begins its trials at once",
            remedy="Leave out --limit-time, or --cluster; a cluster's sweep may be stopped too.",
        )
    scale = load_profile(profile).narrowed(data=data or (), states=states or ())
    place = run.place_of(scale)
    planned = sweeping.plan(experiments, scale, place.store)
    typer.echo(
        f"{planned.n_trials} trials, {planned.n_trials - len(planned.missing)} of them are there. "
        f"The others take about {planned.seconds / 3600:.1f} h here, one after the other."
    )
    if dry_run:
        return
    if cluster:
        outcome = run_on_cluster(planned.missing, place, cluster)
    else:
        seconds = None if limit_time is None else 60 * limit_time
        outcome = run.run_missing(planned.missing, place, limit_seconds=seconds)
    typer.echo(f"{outcome.computed} trials computed; results are in {place.store.folder}.")
    if outcome.failed:
        why = (
            f"{t.model}, {t.strategy}, {t.n_shots} shots of {t.data}, state {t.seed}: {reason}"
            for t, reason in outcome.failed.items()
        )
        fail(f"{len(outcome.failed)} trials failed:", why)


@app.command("doctor")
def doctor_() -> None:
    """Say what this machine offers, and test in some seconds whether it computes rightly.

    \b
    Example:
      scellseg doctor
    """
    for name, value in doctor.facts():
        typer.echo(f"{name + ':':18}{value}")
    passed = True
    for check in doctor.self_test():
        typer.echo(f"{check.name + ':':18}{'ok' if check.passed else 'FAILED'}, {check.detail}")
        passed &= check.passed
    if not passed:
        fail("the self-test failed: results from this machine are not to be trusted.")


def _load(name: str, weights: str | None) -> Model:
    """Model of the two options, on the fastest device."""
    if weights and name.endswith(".safetensors"):
        raise typer.BadParameter("the model's file has its own weights", param_hint="--weights")
    return scellseg.load_model(name, weights or "packaged")


def _existing(place: str) -> Path:
    """File or folder that is there."""
    if not Path(place).exists():
        raise typer.BadParameter(
            f"{place!r} does not exist, and is no data set (scellseg data list)"
        )
    return Path(place)


def _planes(
    wanted: str | None, name: str = "", model: Model | None = None
) -> tuple[str, str] | None:
    """Planes that are asked for, else those that a model's file was made for."""
    if wanted is None:
        own = model.card.channels if model and name.endswith(".safetensors") else None
        # Where the model knows one plane, an image of several is still asked about.
        return None if own == ("gray", "none") else own
    if not CHANNELS.fullmatch(wanted):
        raise typer.BadParameter(f"{wanted!r} is not like green,red", param_hint="--channels")
    first, _, second = wanted.partition(",")
    return first, second or "none"
