"""The command ``scellseg``: what is typed, and one clear sentence where it cannot be done."""

from __future__ import annotations

import platform
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numba
import numpy as np
import torch
import typer
from tqdm import tqdm
from typer.core import TyperGroup

import scellseg_lib as scellseg
from scellseg_lib import device as devices
from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.contrast import AlphaMode, StatisticsMode
from scellseg_lib.datasets import fetch, manifest, synthetic
from scellseg_lib.datasets import weights as weight_files
from scellseg_lib.datasets.load import find_readable, list_datasets
from scellseg_lib.errors import DatasetError, ScellsegError, TrainingError
from scellseg_lib.files.export import FORMATS, export
from scellseg_lib.files.folder import (
    FolderOutcome,
    make_job,
    pair_labels,
    plan_jobs,
    score_files,
    score_table,
    segment_jobs,
)
from scellseg_lib.files.layout import CHECKPOINT, EXPORTED, MODEL, SEGMENTED, results_path
from scellseg_lib.finetuning import Layers, Schedule
from scellseg_lib.flows import flows_to_masks, masks_to_flows
from scellseg_lib.metrics import average_precision
from scellseg_lib.model import Model, new_model
from scellseg_lib.samples import Sample

CHANNELS = re.compile(r"(red|green|blue|gray|\d+)(,(red|green|blue|gray|none|\d+))?")
LEVELS = (16, 32, 64, 128)  # of the network in the self-test: half the paper's width
TOLERANCE = 0.1  # relative, from float32 on the CPU; bfloat16 keeps 8 bits

# --- how all commands speak ---------------------------------------------------------------------


def as_option(name: str, value: Any) -> str:
    """Name an option as one types it: ``--page 2``, ``--channels green,red``, ``--overwrite``."""
    words = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"--{name.replace('_', '-')} {'' if value in (None, True) else words}".rstrip()


def tell(what: object) -> str:
    """What an error or a warning says, with its options as they are typed here."""
    return what.told(as_option) if isinstance(what, ScellsegError) else str(what)


def fail(message: str, each: Iterable[object] = (), code: int = 1) -> NoReturn:
    """End with a message, and a line for each thing that it speaks of."""
    message = "\n  ".join([message, *map(tell, each)])
    typer.echo(f"Error: {message}" if code == 1 else message, err=True)
    raise typer.Exit(code)


class _Commands(TyperGroup):
    """All commands end in one clear sentence where they cannot do what is asked."""

    def invoke(self, ctx: Any) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tqdm.write(
                f"Warning: {tell(message)}", file=sys.stderr
            )
            try:
                return super().invoke(ctx)
            except ScellsegError as error:
                fail(tell(error))
            except OSError as error:  # a folder that may not be written to, a full disk
                fail(f"{error.filename}: {error.strerror}." if error.filename else str(error))
            except KeyboardInterrupt:
                kept = "Stopped. What is done is kept: the same command goes on from there."
                fail(kept, code=130)


Group = partial(
    typer.Typer,
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app = Group()
data_app = Group(help="Data sets: which there are, get and check them.")
models_app = Group(help="Models: which there are, get the authors' weights.")
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

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
    reading: dict[str, Any] = {"channels": _planes(channels), "axes": axes, "page": page}
    if source in list_datasets():
        images = scellseg.load_dataset(source, **reading).query
        output, outcome = output or Path(SEGMENTED, source), FolderOutcome()
        jobs = [make_job(sample, output / sample.name, suffix) for sample in images]
    else:
        place = _existing(source)
        reading["channels"] = _planes(channels, model, loaded)
        output = output or results_path(place)
        jobs, outcome = plan_jobs(place, output, suffix, **reading)
    total = len(jobs) + len(outcome.failed)
    segment_jobs(
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
    output = output or (Path(source + MODEL) if named else _existing(source) / f"model{MODEL}")
    if output.suffix != MODEL:
        raise typer.BadParameter(f"a model's file ends in {MODEL}", param_hint="--output")
    _refuse_to_replace(output, "model", overwrite)
    base = _load(model, weights)
    planes = _planes(channels) if named else _planes(channels, model, base)
    images = scellseg.load_dataset(source, channels=planes, axes=axes, page=page)
    chosen = images.shots(shots, seed) if shots else images.shot
    queried = not inductive and any("query" in sample.split.split("+") for sample in images)
    queries = images.query.without_masks() if queried else None
    unread: list[Any] = []
    if queries is not None and strategy == "contrastive":
        queries, unread = find_readable(queries)
        if not len(queries):
            raise DatasetError(
                f"none of the unlabelled images can be read, the first: {tell(unread[0])}",
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
        checkpoint=output.with_suffix(CHECKPOINT),
    )
    tuned.save(output)
    output.with_suffix(CHECKPOINT).unlink(missing_ok=True)
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
    if csv:
        _refuse_to_replace(csv, "table", overwrite)
    truth = scellseg.load_dataset(true).query if true in list_datasets() else _existing(true)
    frame = score_files(pair_labels(predicted, truth))
    typer.echo(score_table(frame).to_string(float_format="{:.3f}".format))
    if csv:
        with whole(csv) as scratch:
            frame.to_csv(scratch, index=False)


@app.command("export")
def export_masks(
    masks: Annotated[Path, typer.Argument(metavar="MASKS", exists=True)],
    to: Annotated[list[str], typer.Option(help=f"One or more of {', '.join(FORMATS)}.")],
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
    overwrite: Overwrite = False,
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
    output = output or (masks if masks.is_dir() else masks.parent) / EXPORTED
    done = export(
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
        each = (f"{name}: {tell(error)}" for name, error in done.failed.items())
        fail(f"{len(done.failed)} label files failed:", each)


@app.command()
def sweep(
    experiments: Annotated[
        list[str],
        typer.Argument(
            help="all, or some of: transferability, shot_scale, pretraining_scale, "
            "generalization, layers, contrast_weight, decoding, fair_baselines, which_images, "
            "longer_training."
        ),
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
    from scellseg_lib.paper import run
    from scellseg_lib.paper.profile import load_profile

    if cluster and limit_time is not None:
        raise TrainingError(
            "a time limit is for one machine, a cluster begins its trials at once",
            remedy="Leave out --limit-time, or --cluster; a cluster's sweep may be stopped too.",
        )
    scale = load_profile(profile).narrow(data=data or (), states=states or ())
    workspace = run.open_workspace(scale)
    planned = run.plan_sweep(experiments, scale, workspace.store)
    typer.echo(
        f"{planned.n_trials} trials, {planned.n_trials - len(planned.missing)} of them are there. "
        f"The others take about {planned.seconds / 3600:.1f} h here, one after the other."
    )
    if dry_run:
        return
    if cluster:
        outcome = run.compute_on_cluster(planned.missing, workspace, cluster)
    else:
        seconds = None if limit_time is None else 60 * limit_time
        outcome = run.compute_missing(planned.missing, workspace, limit_seconds=seconds)
    typer.echo(f"{outcome.computed} trials computed; results are in {workspace.store.folder}.")
    if outcome.failed:
        why = (
            f"{t.model}, {t.strategy}, {t.n_shots} shots of {t.data}, state {t.seed}: {reason}"
            for t, reason in outcome.failed.items()
        )
        fail(f"{len(outcome.failed)} trials failed:", why)


# --- data and models ------------------------------------------------------------------------------


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


@models_app.command("list")
def list_models() -> None:
    """List the models that can be loaded.

    \b
    Example:
      scellseg models list
    """
    cards = {file: scellseg.load_model(file).card for file in weight_files.packaged_files()}
    widest = {card.architecture: card for card in sorted(cards.values(), key=lambda c: c.levels)}
    for file, card in cards.items():
        asked = card.architecture if card is widest[card.architecture] else file
        typer.echo(f"--model {asked!s:10} packaged  levels {card.levels}  {card.origin}")
    for name in weight_files.RELEASED:
        here = "here" if weight_files.released_file(name).is_file() else "not fetched yet"
        typer.echo(f"--model {name:10} --weights released  the authors' own, {here}")


@models_app.command("fetch")
def fetch_models() -> None:
    """Get the authors' own weights of Scellseg and Cellpose through pip's index (102 MB).

    \b
    Example:
      scellseg models fetch
    """
    for name in weight_files.RELEASED:
        weight_files.released_weights(name)
        typer.echo(weight_files.released_file(name))


# --- this machine ---------------------------------------------------------------------------------


@app.command()
def doctor() -> None:
    """Say what this machine offers, and test in some seconds whether it computes rightly.

    \b
    Example:
      scellseg doctor
    """
    for name, value in _facts():
        typer.echo(f"{name + ':':18}{value}")
    passed = True
    for name, well, detail in _self_test():
        typer.echo(f"{name + ':':18}{'ok' if well else 'FAILED'}, {detail}")
        passed &= well
    if not passed:
        fail("the self-test failed: results from this machine are not to be trusted.")


def _facts() -> Iterator[tuple[str, str]]:
    """What determines results and speed, as pairs of a name and a value."""
    packages = ("scellseg-notebooks", "torch", "numpy", "numba", "opencv-python-headless")
    device = devices.default_device()
    chosen = devices.choose_precision(device, LEVELS)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    layout = "channels last" if chosen.channels_last else "channels first"
    here = [
        name for name in manifest.list_manifests() if manifest.load_manifest(name).folder.is_dir()
    ]
    released = {name: weight_files.released_file(name) for name in weight_files.RELEASED}
    fetched = [name for name, file in released.items() if file.is_file()]
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {version(name)}" for name in packages)
    yield "device", f"{device.type} ({kind})"
    yield "threads", f"{torch.get_num_threads()} for torch, {numba.get_num_threads()} for numba"
    yield "precision", f"{chosen.dtype}, {layout} (the fastest here, measured)"
    yield "data", f"{paths.data()}: {', '.join(here) or 'no data sets'}"
    packaged = [file.stem for file in weight_files.packaged_files()]
    yield "packaged weights", ", ".join(packaged) or "none"
    yield "authors' weights", ", ".join(fetched) or "not fetched (scellseg models fetch)"
    yield "cache", str(paths.cache()) + (", offline" if paths.offline() else "")


def _self_test() -> Iterator[tuple[str, bool, str]]:
    """Each part of the self-test, whether it passed, and a detail: some five seconds on two cores.

    The first time, numba compiles (ten seconds more) and the speed is measured; both are cached.
    """
    device = devices.default_device()
    chosen = devices.choose_precision(device, LEVELS)
    image, masks = synthetic.make_image("Kc167", 0, (256, 256))

    # Cells that go to flows come back from them.
    back = flows_to_masks(masks_to_flows(masks), np.where(masks > 0, 5, -5).astype(np.float32))
    score = float(average_precision(masks, back, [0.5])[0])
    yield "flows and back", score >= 0.9, f"AP@0.5 = {score:.2f} of {masks.max()} cells"

    # The network's maps are those of float32 on the CPU.
    network = new_model("scellseg", LEVELS).network.eval()
    images = torch.rand((1, 2, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = network(images).maps
        with chosen.autocast(device):
            fast = chosen.place(network, device)(images.to(device)).maps.float().cpu()
    gap = float((fast - plain).norm() / plain.norm())
    yield "network", gap < TOLERANCE, f"deviates by {gap:.1e} from float32 on the CPU"

    # Two steps of fine-tuning stay finite; the second tells the speed.
    times: list[float] = []
    tuned = scellseg.finetune(
        new_model("scellseg", LEVELS),
        [Sample("synthetic", lambda: image, lambda: masks)],
        strategy="classic",
        steps=2,
        batch_size=2,
        precision=chosen,
        device=device,
        callback=lambda progress: times.append(time.perf_counter()),
    )
    finite = all(bool(torch.isfinite(p).all()) for p in tuned.network.parameters())
    yield "fine-tuning", finite, f"{times[1] - times[0]:.1f} s a step of 2 patches"


# --- what is asked for ----------------------------------------------------------------------------


def _load(name: str, weights: str | None) -> Model:
    """Model of the two options, on the fastest device."""
    if weights and name.endswith(MODEL):
        raise typer.BadParameter("the model's file has its own weights", param_hint="--weights")
    return scellseg.load_model(name, weights or "packaged")


def _existing(place: str) -> Path:
    """File or folder that is there."""
    if not Path(place).exists():
        raise typer.BadParameter(
            f"{place!r} does not exist, and is no data set (scellseg data list)"
        )
    return Path(place)


def _refuse_to_replace(file: Path, what: str, overwrite: bool) -> None:
    if file.exists() and not overwrite:
        remedy = "Name another, or give --overwrite."
        raise DatasetError(f"the {what} exists already", where=file, remedy=remedy)


def _planes(
    wanted: str | None, name: str = "", model: Model | None = None
) -> tuple[str, str] | None:
    """Planes that are asked for, else those that a model's file was made for."""
    if wanted is None:
        own = model.card.channels if model and name.endswith(MODEL) else None
        # Where the model knows one plane, an image of several is still asked about.
        return None if own == ("gray", "none") else own
    if not CHANNELS.fullmatch(wanted):
        raise typer.BadParameter(f"{wanted!r} is not like green,red", param_hint="--channels")
    first, _, second = wanted.partition(",")
    return first, second or "none"
