"""The workbench (Fig. 6): annotate, fine-tune, segment, inspect and export in one app."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np

from scellseg_lib import paths, progress
from scellseg_lib.datasets import synthetic
from scellseg_lib.errors import ImageError
from scellseg_lib.files import layout
from scellseg_lib.files.images import read_masks, write_labels
from scellseg_lib.workbench.annotate import AnnotatePanel
from scellseg_lib.workbench.experiment import Experiment, SegmentedImage, experiment_of
from scellseg_lib.workbench.export import ExportPanel
from scellseg_lib.workbench.finetune import FinetunePanel
from scellseg_lib.workbench.forms import Message
from scellseg_lib.workbench.inspect import Inspector
from scellseg_lib.workbench.segment import SegmentPanel
from scellseg_lib.workbench.session import FoundCells, Suggestion, find_cells

TABS = ("1 Annotate", "2 Fine-tune", "3 Segment", "4 Inspect", "5 Export")
ANNOTATE, FINETUNE, SEGMENT, INSPECT, EXPORT = range(5)
USED = "The thresholds are those that you have found under 4 Inspect. Press Segment to use them."
NOTEBOOK = Path(__file__).parent / "page" / "app.ipynb"
FOLDER = "SCELLSEG_FOLDER"  # variable that names the folder which the workbench opens with
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
IDLE_HOURS = 12  # after which the kernel of a page that was never closed in order is ended
LOOK, QUIET = 5, 0.2  # seconds between looks at a closed page's kernel; its work if it has none


class Workbench(ipywidgets.VBox):
    """All steps from images to measurements, side by side; without a folder it is asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.finetune = FinetunePanel(
            on_tuned=lambda model: self.segment.go_to(model.parent, model)
        )
        self.tabs = ipywidgets.Tab().add_class("scellseg-tabs")
        turn = partial(setattr, self.tabs, "selected_index")
        self.segment = SegmentPanel(on_inspect=partial(turn, INSPECT))
        asked = self.segment.form.channels  # wherever a model is to look at images
        own = self._go_to, self._on_learnt, self._finder, asked
        self.annotate = AnnotatePanel(None, *own)
        self.annotate.on_return = lambda place: turn(place["tab"])
        self.annotate.on_next = partial(turn, FINETUNE)
        self.finetune.on_next = partial(turn, SEGMENT)
        self.inspector = Inspector(on_edit=self._correct_inspected, on_use=self._use_thresholds)
        self.export = ExportPanel()
        self._results: dict[str, SegmentedImage] = {}
        self._inspected: list[tuple] = []  # what the inspector's images depend on
        self.message = Message()
        panels = [self.annotate, self.finetune, self.segment, self.inspector, self.export]
        self.tabs.children, self.tabs.titles = panels, TABS
        self.tabs.observe(lambda change: self._on_turned(change["new"]), "selected_index")
        self.tabs.selected_index = ANNOTATE
        self.annotate.editor.observe(self._on_sized, "diameter")
        super().__init__([self.message, self.tabs])
        self.add_class("scellseg-workbench")
        if folder is not None:
            self.annotate.folder.value = str(folder)

    def _fill_inspector(self) -> None:
        """Show all results against the cells that were drawn, unless they are shown as they are."""
        self.segment.list_results()
        results, drawn = self.segment.entries, dict[str, Path]()
        for folder in {experiment_of(one.image) for one in results}:
            for name, (_, masks, origin) in Experiment(folder).best_cells()[0].items():
                # Where a part alone is annotated, what is found beside it would count as wrong.
                if origin == "drawn" and not layout.region_path(masks).exists():
                    drawn[name] = masks
        state = [(one.masks, one.model, one.masks.stat().st_mtime_ns) for one in results]
        state += [(masks, None, masks.stat().st_mtime_ns) for masks in drawn.values()]
        if state != self._inspected:
            true = {name: partial(read_masks, masks) for name, masks in drawn.items()}
            self.inspector.show([one.to_inspect(true.get(one.name)) for one in results])
            self._inspected, self._results = state, {one.name: one for one in results}

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not progress.run_by_machine():
            return super()._repr_mimebundle_(**kwargs)
        annotated = [image for image in self.annotate.images if image.masks]
        if annotated and not self.annotate.editor.labels.any():
            self.annotate.show(annotated[0])  # a still without cells says little
        return self.annotate.editor._repr_mimebundle_()

    def _go_to(self, folder: Path) -> None:
        self.finetune.folder.value = str(folder)
        self.segment.go_to(folder)
        self.export.go_to(folder)

    def _on_learnt(self, folder: Path) -> None:
        self.finetune.folder.value = str(folder)
        self.finetune.look()
        self.segment.list_results()

    def _finder(self, image: Path) -> tuple[Any, Callable[[], Suggestion]]:
        """What finds cells of an image by step 3 as it is, and before it what that depends on."""
        chosen = self.segment.form.chosen
        if chosen is None:
            raise self.segment.form.problem
        offered, model, settings = chosen

        def find() -> Suggestion:
            try:
                return find_cells(image, offered.title.removeprefix("Yours: "), model, settings)
            except ImageError as error:
                self.segment.ask_channels(image, error)
                raise

        return (image, self.segment.form.loaded, settings), find

    def _on_sized(self, change: dict[str, Any]) -> None:
        """The disk that was set beside the cells is the size that images are segmented at."""
        if change["new"] > 0:
            self.segment.form.diameter.value = change["new"]

    def _on_turned(self, tab: int) -> None:
        """Bring what other panels may have changed up to date."""
        self.message.tell("")
        self.annotate.list.place = self.annotate.list.place | {"tab": tab}
        with self.message.tell_errors():
            self.annotate.keep()
        if tab == FINETUNE and self.finetune.folder.value:
            self.finetune.look()
        elif tab == SEGMENT:
            self.segment.check()
        elif tab == INSPECT:
            with self.message.tell_errors():
                self._fill_inspector()
        elif tab == EXPORT:
            self.export.look()

    def _correct_inspected(self, entry: FoundCells) -> None:
        if result := self._results.get(entry.name):
            self.message.tell("")
            with self.message.tell_errors():
                self.annotate.correct(result, entry.predicted, entry.prediction)
                self.tabs.selected_index = ANNOTATE

    def _use_thresholds(self, entry: FoundCells) -> None:
        if entry.decoding is not None:
            self.segment.form.take_thresholds(entry.decoding)
            self.tabs.selected_index = SEGMENT
            self.segment.message.tell(USED)


def start_folder(named: str = "") -> Path:
    """Folder to begin with: one named here or by ``SCELLSEG_FOLDER``, else the example."""
    named = named or os.environ.get(FOLDER, "")
    return Path(named).expanduser().resolve() if named else make_example(paths.RUNS / "example")


def make_example(folder: Path) -> Path:
    """Write eight images of worms into a folder, three of them annotated; files there stay."""
    worms = synthetic.make_dataset("synthetic_worms", n_shot=3, n_query=5)
    for number, sample in enumerate(worms, 1):
        image = folder / f"worms_{number}.tif"
        if image.exists():
            continue
        if sample.split == "shot":
            write_labels(folder / f"worms_{number}{layout.MASKS}.tif", sample.masks)
        write_labels(image, np.round(sample.image[0]).astype(np.uint16))  # a TIFF like another
    return folder


def _count_seconds(process: Any) -> float:
    """Count what processors have worked for a process (`psutil.Process`) and all that it began."""
    seconds = 0.0
    for one in [process, *process.children(recursive=True)]:
        with suppress(Exception):  # it ends just now, and is counted by its parent
            seconds += sum(one.cpu_times()[:4])  # those of children that have ended, too
    return seconds


def serve(arguments: list[str]) -> None:
    """Serve the workbench by Voila, for this machine alone and by a token, until it is stopped.

    It answers under this machine's names alone (but where an option gives another address), gives
    its files too only to who has logged in, and its pages load nothing from elsewhere. The
    arguments are a folder to open, if any, then options of Voila, such as ``--no-browser``.
    """
    import psutil
    from tornado.ioloop import IOLoop
    from tornado.routing import HostMatches
    from tornado.web import HTTPError, RequestHandler, StaticFileHandler, authenticated
    from voila.app import Voila, VoilaKernelWebsocketHandler, VoilaShutdownKernelHandler

    async def end_kernel(manager: Any, key: str) -> None:
        """End the kernel of a page that is closed, once nothing is computed there any more."""
        with suppress(psutil.Error, KeyError):
            kernel, before = psutil.Process(manager.get_kernel(key).provisioner.pid), inf
            while abs((now := _count_seconds(kernel)) - before) > QUIET:
                before = now
                await asyncio.sleep(LOOK)
        with suppress(KeyError):  # a page may say twice that it is closed
            await manager.shutdown_kernel(key)

    class Line(VoilaKernelWebsocketHandler):  # type: ignore[misc]
        def on_close(self) -> None:
            super().on_close()
            if self.close_code:  # else the line is lost, and may come back
                IOLoop.current().add_callback(end_kernel, self.kernel_manager, self.kernel_id)

    class Left(VoilaShutdownKernelHandler):  # type: ignore[misc]
        def check_xsrf_cookie(self) -> None:
            """A page that is left sends none; whose it is, its login and its origin say."""

        @authenticated
        async def post(self, kernel_id: str) -> None:
            await self.finish()
            await end_kernel(self.kernel_manager, kernel_id)

    ours: dict[type, type] = {VoilaKernelWebsocketHandler: Line, VoilaShutdownKernelHandler: Left}

    def guard(handler: type[RequestHandler]) -> type[RequestHandler]:
        if not issubclass(handler, StaticFileHandler):
            return ours.get(handler, handler)

        class Guarded(handler):  # type: ignore[misc, valid-type]
            def prepare(self) -> None:
                if self.settings["identity_provider"].get_user_cookie(self) is None:
                    raise HTTPError(403)

        return Guarded

    class Served(Voila):  # type: ignore[misc]
        def init_settings(self) -> dict[str, Any]:
            return super().init_settings() | {"headers": {"Content-Security-Policy": POLICY}}

        def init_handlers(self) -> list[Any]:
            known = super().init_handlers()
            rules = [(path, guard(one), *options) for path, one, *options in known]
            own = r"127\.0\.0\.1|localhost|\[::1\]" if self.ip == "127.0.0.1" else ".*"
            return [(HostMatches(own), rules)]

    if arguments and not arguments[0].startswith("-"):
        os.environ[FOLDER] = str(Path(arguments.pop(0)).expanduser().resolve())
    own = ["--Voila.ip=127.0.0.1", "--Voila.auto_token=True"]
    own += [f"--MappingKernelManager.cull_idle_timeout={IDLE_HOURS * 3600}"]
    Served.launch_instance([str(NOTEBOOK), *own, *arguments])
