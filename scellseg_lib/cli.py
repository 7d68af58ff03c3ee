"""The command ``scellseg``: what is typed, and one clear sentence where it cannot be done."""

import inspect
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numba
import torch
import typer
from tqdm import tqdm
from typer import Argument, Option
from typer.core import TyperGroup

import scellseg_lib as scellseg
from scellseg_lib import device, paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets import fetch, manifest, synthetic
from scellseg_lib.datasets.load import find_readable, list_datasets, pair_labels
from scellseg_lib.datasets.weights import RELEASED, packaged_files, released_file, released_weights
from scellseg_lib.errors import DatasetError, ScellsegError, explain
from scellseg_lib.files import export, folder, layout
from scellseg_lib.finetuning import RECIPES, STRATEGIES, FinetuneOptions, choose_options
from scellseg_lib.model import Model
from scellseg_lib.options import Options
from scellseg_lib.representation import REPRESENTATIONS, Decoding
from scellseg_lib.segmentation import SegmentOptions


def as_option(name: str, value: Any) -> str:
    """Name an option as one types it: ``--page 2``, ``--channels green,red``, ``--overwrite``."""
    words = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"--{name.replace('_', '-')} {'' if value in (None, True) else words}".rstrip()


def tell(what: object) -> str:
    """What an error or a warning says, with its options as they are typed here."""
    return what.tell(as_option) if isinstance(what, ScellsegError) else str(what)


def fail(message: str, each: Iterable[object] = ()) -> NoReturn:
    """End with a message, and a line for each thing that it speaks of."""
    typer.echo("\n  ".join([f"Error: {message}", *map(tell, each)]), err=True)
    raise typer.Exit(1)


class _Commands(TyperGroup):
    """All commands end in one clear sentence where they cannot do what is asked."""

    def invoke(self, ctx: Any) -> Any:
        heard = Counter[str]()  # warnings by what is to be done: of each kind the first is told

        def hear(message: Any, *_: object, **__: object) -> None:
            heard[kind := getattr(message, "remedy", str(message))] += 1
            if heard[kind] == 1:
                tqdm.write(f"Warning: {tell(message)}", file=sys.stderr)  # beside the bars

        with warnings.catch_warnings():
            warnings.showwarning = hear
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="backslashreplace")  # names that cannot be printed
            try:
                return super().invoke(ctx)
            except ScellsegError as error:
                fail(tell(error))
            except OSError as error:  # a folder that may not be written to, a full disk
                said = f"{error.filename or 'the disk'}: {explain(error)}"
                fail(f"{said}. Check the path, and that there is room and access.")
            except KeyboardInterrupt:
                typer.echo("Stopped: the same command goes on from what is done.", err=True)
                raise typer.Exit(130) from None
            finally:
                for kind, more in (heard - Counter({*heard})).items():
                    typer.echo(f"Warning: more of the same: {more}. {kind}", err=True)


def with_options(options: type[Options], *names: str, owner: str = "") -> Callable:
    """Give a command options of a class as they stand there; or None, where they are an owner's."""

    def add(command: Any) -> Any:
        signature = inspect.signature(command, eval_str=True)
        parameters = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name in names:
            said, kind = options.describe(name), options.model_fields[name].annotation
            if "enum" in said:
                kind = Literal[tuple(said["enum"])]  # type: ignore[assignment]
            text = said["description"] + (f" Default: the {owner}'s." if owner else "")
            option = Option(*FLAGS.get(name, ()), help=text, min=said.get("minimum"))
            added = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
            added = added.replace(default=None if owner else said["default"])
            parameters.append(added.replace(annotation=Annotated[kind, option]))
            command.__annotations__[name] = kind
        command.__signature__ = signature.replace(parameters=parameters)
        return command

    return add


LOOK: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}
LOOK |= {"cls": _Commands, "pretty_exceptions_enable": False}
app = typer.Typer(**LOOK)
data_app = typer.Typer(help="Data sets: which there are, get and check them.", **LOOK)
models_app = typer.Typer(help="Models: which there are, get the authors' weights.", **LOOK)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")

SOURCE = Argument(help="A folder, a data set's name, or a file to segment.")
MODEL = Option("scellseg", help="scellseg, cellpose, hover, unet2, unet3, or a .safetensors.")
WEIGHTS = Option(None, help="packaged (default), released (the authors' own) or a file.")
CHANNELS = Option(
    None,
    help="Plane to segment and nucleus plane, such as green,red: red, green, blue, an index, gray "
    "(the mean of all), none. Default: those of the model's file, else the only one.",
)
AXES = Option(None, help="Axes of the TIFFs where they do not say so, such as CYX.")
PAGE = Option(None, min=0, help="The one page of each TIFF to read, from 0.")
RECIPE = "; ".join(f"{name}: {one.help}" for name, one in RECIPES.items()) + "."
FORMATS = Option(help=f"One or more of {', '.join(export.FORMATS)}.")
FLAGS = {"resample": ("--resample/--fast",), "flips": ("--flips/--no-flips",)}
OVERWRITE = Option(False, "--overwrite", help="Make anew what exists.")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"scellseg {version('scellseg-notebooks')}")
        raise typer.Exit


@app.callback()
def main(
    asked: bool = Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
) -> None:
    """Segment cells, fine-tune on a few annotated images, score the result.

    A data set's name (`scellseg data list`) serves wherever a folder does; ./NAME is a folder.
    """


@app.command()
@with_options(SegmentOptions, "diameter", "resample", "flips")
@with_options(Decoding, *REPRESENTATIONS["flow"].thresholds, owner="model")
def segment(
    source: str = SOURCE,
    model: str = MODEL,
    weights: str | None = WEIGHTS,
    output: Path | None = Option(None, help="Default: segmented/ beside, or segmented/NAME."),
    channels: str | None = CHANNELS,
    axes: str | None = AXES,
    page: int | None = PAGE,
    file_format: Literal["tiff", "png"] = Option("tiff", "--format"),
    preview: bool = Option(False, "--preview", help="Draw contours too."),
    overwrite: bool = OVERWRITE,
    **options: Any,
) -> None:
    """Segment an image, all images of a folder, or the query images of a data set.

    NAME_masks.tif holds 0 for background and cells 1 to n. Images whose masks exist are left alone:
    the same command goes on with a run that was stopped. segmented.json says how masks were made.

    \b
    Examples:
      scellseg segment plate1/ --diameter 40 --preview
      scellseg segment cells.tif --model tuned.safetensors --output masks/
      scellseg segment bbbc010_elegans --model worms.safetensors --output masks
    """
    ending = export.FORMATS[file_format]
    is_named, loaded, reading = _prepare(source, model, weights, channels, axes=axes, page=page)
    if is_named:
        images = scellseg.load_dataset(source, **reading).query
        output, outcome = output or Path(layout.SEGMENTED, source), folder.FolderOutcome()
        jobs = [folder.ImageJob(one, output / f"{one.name}{ending}") for one in images]
    else:
        output = output or layout.results_path(Path(source))
        jobs, outcome = folder.plan_jobs(Path(source), output, Path(ending).suffix, **reading)
    options |= {"reading": reading | {"format": file_format}, "overwrite": overwrite}
    folder.segment_jobs(jobs, loaded, output, outcome, overlays=preview, **options)
    for doubt in [one for one in outcome.sum_up_doubts() if one not in outcome.doubts[:1]]:
        typer.echo(f"Warning: {tell(doubt)}", err=True)  # the first was told at once
    done = f"{outcome.written} images segmented, {outcome.cells} cells"
    typer.echo(f"{done}; {outcome.already} already done. Masks are in {output}.")
    if outcome.failed:
        fail(f"images that failed ({len(outcome.failed)}):", outcome.failed.values())


@app.command()
@with_options(FinetuneOptions, *FinetuneOptions.model_fields, owner="recipe")
def finetune(
    source: str = SOURCE,
    recipe: Literal[tuple(RECIPES)] = Option("best", help=RECIPE),  # type: ignore[valid-type]
    output: Path | None = Option(None, help="Default: SOURCE/model.safetensors, or NAME's."),
    shots: int | None = Option(None, min=1, help="Draw as many annotated images. Default: all."),
    model: str = MODEL,
    weights: str | None = WEIGHTS,
    inductive: bool = Option(False, "--inductive", help="The shots alone serve as queries."),
    channels: str | None = CHANNELS,
    axes: str | None = AXES,
    page: int | None = PAGE,
    overwrite: bool = OVERWRITE,
    **options: Any,
) -> None:
    """Fit a model to a few annotated images.

    Annotated images are NAME_img.* with NAME_masks.*, in FOLDER/shot or in FOLDER. Those in
    FOLDER/query, or without masks, are the images to be segmented later: contrastive fine-tuning
    learns their look, never their masks. The same command goes on with a run that was stopped.

    \b
    Examples:
      scellseg finetune bbbc010_elegans --shots 8 --output worms.safetensors
      scellseg finetune worms/ --recipe quick --seed 1
    """
    is_named, base, reading = _prepare(source, model, weights, channels, axes=axes, page=page)
    output = output or Path(source if is_named else f"{source}/model").with_suffix(layout.MODEL)
    if output.suffix != layout.MODEL:
        raise typer.BadParameter("a model's file ends in .safetensors", param_hint="--output")
    with folder.alone(output.with_suffix(layout.CHECKPOINT)) as checkpoint:
        _refuse_to_replace(output, overwrite)
        images = scellseg.load_dataset(source, **reading)
        how = choose_options(recipe, **options)
        chosen = images.shots(shots, how.seed) if shots else images.shot
        queried = not inductive and any("query" in sample.split.split("+") for sample in images)
        queried = queried and STRATEGIES[how.strategy] is not None
        queries, unread = find_readable(images.query.without_masks()) if queried else (None, [])
        if queried and not queries:
            what = f"none of the unlabelled images can be read, the first: {tell(unread[0])}"
            raise DatasetError(what, remedy="Mend them, or give --inductive to do without.")
        tuned = scellseg.finetune(base, chosen, queries, recipe, checkpoint=checkpoint, **options)
        tuned.save(output)
        checkpoint.unlink(missing_ok=True)
    learnt = f"{len(chosen)} annotated" + (f" and {len(queries)} unlabelled" if queries else "")
    typer.echo(f"{output}: tuned on {learnt} images; cells are {tuned.card.diameter:.1f} px wide.")
    typer.echo(f"Next: scellseg segment {source if is_named else 'FOLDER'} --model {output}")
    if unread:
        fail(f"{len(unread)} unlabelled images could not be read and were left out:", unread)


@app.command(epilog="Example: scellseg evaluate worms/segmented worms/query --csv scores.csv")
def evaluate(
    predicted: Path = Argument(metavar="PRED", exists=True),
    true: str = Argument(metavar="TRUTH"),
    csv: Path | None = Option(None, help="Row per image and threshold."),
    overwrite: bool = OVERWRITE,
) -> None:
    """Score masks against true ones: two files, or two folders matched by name.

    NAME_masks.* goes with NAME_masks.* or NAME.*, or a data set's query. AP is TP / (TP + FP + FN),
    mAP and mAJI are means over the IoU thresholds 0.50 .. 0.95, an error is predicted / true - 1.
    """
    _refuse_to_replace(csv, overwrite)
    truth = scellseg.load_dataset(true).query if _is_named(true) else Path(true)
    frame = folder.score_files(pair_labels(predicted, truth))
    typer.echo(folder.score_table(frame).to_string(float_format="{:.3f}".format))
    if csv:
        with whole(csv) as scratch:
            frame.to_csv(scratch, index=False)


@app.command("export", epilog="Example: scellseg export masks/ --to table --images plate1/")
def export_masks(
    masks: Path = Argument(metavar="MASKS", exists=True),
    to: list[str] = FORMATS,
    output: Path | None = Option(None, help="Folder. Default: exported/ beside the masks."),
    images: Path | None = Option(None, exists=True, help="Their images, for cells and tables."),
    channels: str = Option("", help="Names of the channels, such as worm,dye."),
    side: int | None = Option(None, min=1, help="Of images of cells, px. Default: their boxes."),
    cut_out: bool = Option(False, "--cut-out", help="Black out what is not the cell."),
    pixel_size: float | None = Option(None, min=1e-6, help="µm, for tables, or as images say."),
    overwrite: bool = OVERWRITE,
) -> None:
    """Export masks for other programs: a label file, or a folder of NAME_masks.* or NAME_seg.npy.

    imagej gives a zip of ROIs for ImageJ's ROI Manager, geojson detections for QuPath, cellpose a
    NAME_seg.npy, table measurements, with classes and notes of NAME_cells.csv, cells an image each.
    """
    output = output or (masks if masks.is_dir() else masks.parent) / layout.EXPORTED
    names = [name.strip() for name in channels.split(",") if name.strip()]
    how: dict[str, Any] = {"side": side, "keep_background": not cut_out, "overwrite": overwrite}
    how |= {"images": images, "channels": names, "pixel_size": pixel_size}
    done = export.export(masks, output, to, **how)
    typer.echo(f"{done.written} written, {done.already} there already: {output}.")
    if done.failed:
        fail(f"{len(done.failed)} label files failed:", done.failed.values())


@app.command(epilog="Example: scellseg sweep shot_scale --data mito --state 0 --limit-time 120")
def sweep(
    experiments: list[str] = Argument(
        help="all, transferability, shot_scale, pretraining_scale, smicro, generalization, layers, "
        "contrast_weight, statistics, decoding, fair_baselines, which_images, best_recipe, "
        "longer_training."
    ),
    profile: str = Option("released", help="Scale, a file of notebooks/profiles."),
    data: list[str] | None = Option(None, help="Only this data set; repeatable."),
    states: list[int] | None = Option(None, "--state", min=0, help="Only this one; repeatable."),
    dry_run: bool = Option(False, "--dry-run", help="Count the trials, and estimate their time."),
    limit_time: float | None = Option(None, min=0, help="Minutes after which no trial is begun."),
    cluster: str | None = Option(None, help="A Dask cluster: local:4, or tcp://host:8786."),
) -> None:
    """Compute the trials of the paper's experiments that are not there yet.

    Results go to figures/data/PROFILE/trials, one at a time and whole; the same command goes on
    with a sweep that was stopped. Needs the repository, and the data sets of the profile.
    """
    from scellseg_lib.paper import run
    from scellseg_lib.paper.profile import load_profile

    if cluster and limit_time is not None:
        raise typer.BadParameter("--limit-time is for one machine, --cluster for several")
    scale = load_profile(profile).narrow(data=data or (), states=states or ())
    workspace = run.open_workspace(scale)
    trials, missing = run.plan_sweep(experiments, scale, workspace.store)
    n, hours = len(trials) - len(missing), sum(missing.values()) / 3600
    typer.echo(f"{len(trials)} trials, {n} of them are there. The others take about {hours:.1f} h.")
    if dry_run:
        return
    if cluster:
        outcome = run.compute_on_cluster([*missing], workspace, cluster)
    else:
        limit = limit_time and 60 * limit_time
        outcome = run.compute_missing([*missing], workspace, limit_seconds=limit)
    typer.echo(f"{outcome.computed} trials computed; results are in {workspace.store.folder}.")
    if outcome.failed:
        why = (
            f"{t.model}, {t.strategy}, {t.n_shots} shots of {t.data}, state {t.seed}: {reason}"
            for t, reason in outcome.failed.items()
        )
        fail(f"{len(outcome.failed)} trials failed:", why)


@app.command(epilog="Example: scellseg doctor")
def doctor() -> None:
    """Say what this machine offers, and test in some seconds whether it computes rightly."""
    packages = ("scellseg-notebooks", "torch", "numpy", "numba", "opencv-python-headless")
    here = device.default_device()
    chosen = device.choose_precision(here)
    facts = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "device": f"{here.type} ({device.machine(here)})",
        "threads": f"{torch.get_num_threads()} of torch, {numba.get_num_threads()} of numba",
        "precision": f"{chosen.dtype}, channels {'last' if chosen.channels_last else 'first'}",
        "data": paths.data(),
        "cache": f"{paths.cache()}{', offline' if paths.offline() else ''}",
    }
    for name, fact in facts.items():
        typer.echo(f"{name + ':':16}{fact}")
    shots, times = [synthetic.make_dataset("synthetic_contrast")[0]], list[float]()
    model = scellseg.load_model("scellseg", levels=(16, 32, 64, 128), device=here)
    how: dict[str, Any] = {"batch_size": 2, "callback": lambda _: times.append(time.perf_counter())}
    tuned = scellseg.finetune(model, shots, steps=2, **how)
    typer.echo(f"fine-tuning:    {times[1] - times[0]:.1f} s a step of 2 patches")
    found = [scellseg.segment(one, shots) for one in (model, tuned)]
    scores = [scellseg.evaluate(cells, shots)["ap"].iloc[0] for cells in found]
    typer.echo(f"segmentation:   AP@0.5 = {scores[0]:.2f}, after fine-tuning {scores[1]:.2f}")
    if min(scores) < 0.8:
        fail("the self-test failed: results from this machine are not to be trusted.")


@data_app.command("list", epilog="Example: scellseg data list")
def list_data() -> None:
    """List the data sets: how many of their images are here, and their terms."""
    for name in manifest.list_manifests():
        card = manifest.load_manifest(name)
        entries = card.entries()
        here = sum((card.folder / entry.image).is_file() for entry in entries)
        counts = f"{here:5} of {len(entries) or '?':>5} here"
        typer.echo(f"{name:22}{counts}  {card.access:7}{card.licence}")
    for name in synthetic.NAMES:
        typer.echo(f"{name:22}{'made as they are read':21}open   BSD-3-Clause")


@data_app.command("fetch", epilog="Example: scellseg data fetch bbbc010_elegans")
def fetch_data(name: str) -> None:
    """Download a data set and check every image against its manifest."""
    typer.echo(fetch.fetch(name))
    typer.echo(fetch.verify(name), err=True)  # which counts what could not be verified


@data_app.command("verify", epilog="Example: scellseg data verify bbbc010_elegans")
def verify_data(name: str) -> None:
    """Compare the files of a data set with its manifest, pixel for pixel."""
    report = fetch.verify(name)
    typer.echo(report)
    raise typer.Exit(bool(report.wrong))


@data_app.command("path", epilog="Example: scellseg data path bbbc010_elegans")
def path_data(name: str) -> None:
    """Print the folder of a data set, whether it is there yet or not."""
    typer.echo(manifest.load_manifest(name).folder)


@models_app.command("list", epilog="Example: scellseg models list")
def list_models() -> None:
    """List the models that can be loaded."""
    cards = {file: scellseg.load_model(file).card for file in packaged_files()}
    for file, card in cards.items():
        widest = max(one.levels for one in cards.values() if one.architecture == card.architecture)
        asked = card.architecture if card.levels == widest else file
        typer.echo(f"--model {asked!s:10} packaged  levels {card.levels}  {card.origin}")
    for name in RELEASED:
        here = "here" if released_file(name).is_file() else "not fetched yet"
        typer.echo(f"--model {name:10} --weights released  the authors' own, {here}")


@models_app.command("fetch", epilog="Example: scellseg models fetch")
def fetch_models() -> None:
    """Get the authors' own weights of Scellseg and Cellpose through pip's index (102 MB)."""
    for name in RELEASED:
        released_weights(name)
        typer.echo(released_file(name))


def _prepare(
    source: str, model: str, weights: str | None, channels: str | None, **reading: Any
) -> tuple[bool, Model, dict[str, Any]]:
    """Whether a data set is named, the model, and how images are read: as a tuned model's were."""
    is_named, is_tuned = _is_named(source), model.endswith(layout.MODEL)
    loaded, planes = scellseg.load_model(model, weights or "packaged"), None
    if channels:
        first, _, second = channels.partition(",")
        planes = first, second or "none"
    # Where the model knows one plane, an image of several is still asked about.
    elif is_tuned and not is_named and loaded.card.channels != ("gray", "none"):
        planes = loaded.card.channels
    return is_named, loaded, reading | {"channels": planes}


def _is_named(place: str) -> bool:
    """Whether this is the name of a data set; else it is a file or folder that is there."""
    is_named = place in list_datasets()
    if not is_named and not Path(place).exists():
        raise typer.BadParameter(f"{place!r} is no file, folder or data set (scellseg data list)")
    return is_named


def _refuse_to_replace(file: Path | None, overwrite: bool) -> None:
    if file and file.exists() and not overwrite:
        raise DatasetError("it exists", where=file, remedy="Name another, or give --overwrite.")
