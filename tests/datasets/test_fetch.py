"""Fetching, against a server on this machine that misbehaves on demand."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import imagecodecs
import numpy as np
import pytest
import yaml

from scellseg_lib import paths
from scellseg_lib.datasets import download, fetch, manifest, weights
from scellseg_lib.errors import DatasetError, FetchError, ModelError
from scellseg_lib.files import images as readers

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 50), dtype=np.uint16)
MASKS = (np.arange(2000, dtype=np.uint16).reshape(40, 50) // 500).astype(np.uint16)


@dataclass
class Server:
    """What the server holds and how it fails; ``requests`` are (path, Range header)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cut_after: int | None = None  # bytes of the first answer, after which the connection is cut
    go_on: Event | None = None  # what it waits for instead of cutting
    modified: float = 0.0  # when its files were, in seconds since 1970
    busy: int = 0  # answers of 503 before it serves
    requests: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            content = state.files.get(self.path)
            if content is None or state.busy:
                state.busy -= 1 if content is not None else 0
                self.send_error(503 if content is not None else 404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            since = self.headers.get("If-Unmodified-Since")
            if since and parsedate_to_datetime(since).timestamp() < state.modified:
                self.send_error(412)
                return
            if start and state.ranges and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = start if state.ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = state.cut_after
            state.cut_after = None
            self.wfile.write(content[start:][:cut])
            if cut and state.go_on is not None:
                state.go_on.wait(60)
                with suppress(OSError):  # nobody listens if the other side was killed
                    self.wfile.write(content[start:][cut:])

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty cache, data and manifests folders; no waiting between attempts."""
    (tmp_path / "manifests").mkdir()
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SCELLSEG_OFFLINE", raising=False)
    monkeypatch.setattr(paths, "manifests", lambda: tmp_path / "manifests")
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    manifest._parse.cache_clear()
    return tmp_path


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"cells/{name}.png", content)
    return stream.getvalue()


GOOD = zipped(
    a_img=imagecodecs.png_encode(IMAGE),
    a_masks=imagecodecs.png_encode(MASKS),
    unwanted=b"this member is not unpacked",
)


def describe(home: Path, url: str, **changes: Any) -> str:
    """Write the manifest of a set with one image; returns its name."""
    name = "cells"
    entry = {
        "image": "a_img.png",
        "masks": "a_masks.png",
        "splits": ["shot"],
        "shape": [40, 50],
        "dtype": "uint16",
        "image_sha256": readers.pixel_hash(IMAGE),
        "masks_sha256": readers.pixel_hash(MASKS),
        "source": "cells/a",
    }
    content = {
        "name": name,
        "title": "One image",
        "citation": "nobody",
        "licence": "CC0",
        "licence_url": None,
        "access": "open",
        "archives": [{"url": url, "file": "a.zip", "sha256": None, "members": "*_*"}],
        "converter": "cellpose",
        "channels": ["gray", "none"],
        "files": [entry],
    }
    sha256 = changes.pop("sha256", None)
    content["archives"][0]["sha256"] = sha256
    entry |= changes.pop("entry", {})
    text = yaml.safe_dump(content | changes, sort_keys=False)
    (home / "manifests" / f"{name}.yaml").write_text(text)
    return name


def files_under(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def leftovers(home: Path) -> list[str]:
    """All that a failed fetch left, half-written or whole."""
    return files_under(home / "cache") + files_under(home / "data")


def test_fetched_files_are_the_pixels_of_the_manifest(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip")
    folder = fetch.fetch(name)
    assert folder == manifest.load_manifest(name).folder == home / "data" / name
    assert files_under(home / "data") == [f"{name}/a_img.png", f"{name}/a_masks.png"]
    assert np.array_equal(readers.read_pixels(folder / "a_img.png"), IMAGE)
    assert np.array_equal(readers.read_pixels(folder / "a_masks.png"), MASKS)
    assert [f.state for f in fetch.verify(name).files] == ["ok", "ok"]


def test_what_is_there_is_not_fetched_again(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip")
    folder = fetch.fetch(name)
    fetch.fetch(name)
    assert len(server.requests) == 1
    # A lost file comes back from the downloaded archive, offline.
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    (folder / "a_masks.png").unlink()
    fetch.fetch(name)
    assert fetch.verify(name).complete
    assert len(server.requests) == 1


def test_offline_never_touches_the_network(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.zip"] = GOOD
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    with pytest.raises(FetchError, match="SCELLSEG_OFFLINE forbids"):
        fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert server.requests == []
    assert leftovers(home) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_connection_is_taken_up_again(
    ranges: bool, home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK", 250)
    server.files["/a.zip"], server.ranges, server.cut_after = GOOD, ranges, 1000
    fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert server.requests == [("/a.zip", None), ("/a.zip", "bytes=1000-")]
    assert next((home / "cache").rglob("a.zip")).read_bytes() == GOOD


def begun(home: Path, content: bytes) -> Path:
    """A file to download, of which an earlier run left a part."""
    (home / "a.zip.part").write_bytes(content)
    return home / "a.zip"


def test_a_beginning_longer_than_the_file_is_thrown_away(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    file = begun(home, GOOD + b"of another file")
    download.download(f"{server.url}/a.zip", file)
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(GOOD) + 15}-", None]
    assert file.read_bytes() == GOOD
    assert files_under(home) == ["a.zip"]


def test_a_part_that_lacks_nothing_is_not_fetched_again(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    file = begun(home, GOOD)
    download.download(f"{server.url}/a.zip", file)
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(GOOD)}-"]
    assert file.read_bytes() == GOOD


@pytest.mark.parametrize("replaced", [False, True])
def test_a_beginning_of_another_file_is_found_out(
    replaced: bool, home: Path, server: Server
) -> None:
    """By its hash, or, where none is known, because the file has changed since."""
    server.files["/a.zip"], server.modified = GOOD, time.time() + 9 if replaced else 0.0
    file = begun(home, bytes(300))
    known = None if replaced else hashlib.sha256(GOOD).hexdigest()
    download.download(f"{server.url}/a.zip", file, known)
    assert [wanted for _, wanted in server.requests] == ["bytes=300-", None]
    assert file.read_bytes() == GOOD


def test_a_wrong_file_is_fetched_anew_once(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    with pytest.raises(FetchError, match="does not have the SHA-256 0000"):
        download.download(f"{server.url}/a.zip", begun(home, GOOD[:300]), "0" * 64)
    assert [wanted for _, wanted in server.requests] == ["bytes=300-", None]
    assert files_under(home) == []


KILLED = """
import sys
from pathlib import Path
from scellseg_lib.datasets.download import download
download(sys.argv[1], Path(sys.argv[2]))
"""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_download_goes_on_where_it_was(home: Path, server: Server) -> None:
    content = np.random.default_rng(0).bytes(4 * download.CHUNK)
    server.files["/a.zip"], server.go_on = content, Event()
    server.cut_after = 2 * download.CHUNK + 1000
    url, file, part = f"{server.url}/a.zip", home / "a.zip", home / "a.zip.part"
    child = subprocess.Popen([sys.executable, "-c", KILLED, url, str(file)])
    try:
        until(lambda: part.is_file() and part.stat().st_size == 2 * download.CHUNK)
    finally:
        child.kill()
        child.wait()
        server.go_on.set()
    assert not file.exists()
    download.download(url, file)
    assert server.requests == [("/a.zip", None), ("/a.zip", f"bytes={2 * download.CHUNK}-")]
    assert file.read_bytes() == content
    assert files_under(home) == ["a.zip"]


def test_what_a_bad_line_let_through_is_kept_for_the_next_run(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "CHUNK", 250)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.files["/a.zip"], server.cut_after = GOOD, 1000
    name = describe(home, f"{server.url}/a.zip")
    with pytest.raises(FetchError, match="goes on where it broke"):
        fetch.fetch(name)
    assert leftovers(home) == [f"downloads/{name}/a.zip.part"]
    fetch.fetch(name)
    assert server.requests[1:] == [("/a.zip", "bytes=1000-")]


def test_two_at_once_fetch_a_file_once(home: Path, server: Server) -> None:
    server.files["/a.zip"], server.go_on, server.cut_after = GOOD, Event(), 500
    file = home / "a.zip"
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(download.download, f"{server.url}/a.zip", file) for _ in range(2)
        )
        until(lambda: bool(server.requests))
        time.sleep(0.3)  # in which the second would ask too
        asked = len(server.requests)
        server.go_on.set()
    assert asked == len(server.requests) == 1
    assert first.result().read_bytes() == second.result().read_bytes() == GOOD
    assert files_under(home) == ["a.zip"]


def test_a_busy_server_is_asked_again(home: Path, server: Server) -> None:
    server.files["/a.zip"], server.busy = GOOD, 2
    fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_is_given_up(home: Path, server: Server) -> None:
    server.files["/a.zip"], server.busy = GOOD, 99
    with pytest.raises(FetchError, match="503"):
        fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert len(server.requests) == download.ATTEMPTS
    assert leftovers(home) == []


def test_a_missing_file_is_asked_for_once(home: Path, server: Server) -> None:
    with pytest.raises(FetchError, match="404") as caught:
        fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert f"{server.url}/a.zip" in str(caught.value)
    assert len(server.requests) == 1
    assert leftovers(home) == []


def test_no_server_at_all_is_an_error_that_names_the_address(home: Path, server: Server) -> None:
    name = describe(home, "http://127.0.0.1:9/a.zip")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/a\.zip: the download failed"):
        fetch.fetch(name)
    assert leftovers(home) == []


def test_another_archive_than_promised_is_refused(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    with pytest.raises(FetchError, match="does not have the SHA-256 0000"):
        fetch.fetch(describe(home, f"{server.url}/a.zip", sha256="0" * 64))
    assert leftovers(home) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_sha256": "0" * 64}, r"different: a_img\.png \(its pixels\)"),
        ({"shape": [50, 40]}, r"uint16 \(40, 50\) instead of uint16 \(50, 40\)"),
        ({"dtype": "uint8"}, "instead of uint8"),
    ],
)
def test_other_pixels_than_promised_are_not_kept(
    entry: dict[str, Any], message: str, home: Path, server: Server
) -> None:
    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip", entry=entry)
    with pytest.raises(FetchError, match=message):
        fetch.fetch(name)
    assert files_under(home / "data") == []


def test_a_page_in_place_of_the_archive_is_not_kept(home: Path, server: Server) -> None:
    server.files["/a.zip"] = b"<html>Please log in</html>"
    name = describe(home, f"{server.url}/a.zip")
    with pytest.raises(FetchError, match="not an archive"):
        fetch.fetch(name)
    assert leftovers(home) == []
    server.files["/a.zip"] = GOOD
    fetch.fetch(name)


def test_an_archive_laid_out_otherwise_is_an_error(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip", entry={"source": "plates/a"})
    with pytest.raises(FetchError, match=r"do not hold what they should.*plates/a"):
        fetch.fetch(name)
    assert files_under(home / "data") == []


LIMITED = """
import resource, sys
from pathlib import Path
from scellseg_lib import paths
from scellseg_lib.datasets import fetch
from scellseg_lib.errors import FetchError
paths.manifests = lambda: Path(sys.argv[1])
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    fetch.fetch(sys.argv[2])
except FetchError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize(
    ("noise", "limit"),
    [(True, 20_000), (False, 100_000)],
    ids=["while downloading", "while unpacking"],
)
def test_full_disk_leaves_nothing_half_written(
    home: Path, server: Server, noise: bool, limit: int
) -> None:
    # Noise does not compress, so that the archive is over the limit; zeros only when unpacked.
    image = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8) * np.uint8(noise)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cells/a_img.tif", imagecodecs.tiff_encode(image))
        archive.writestr("cells/a_masks.png", imagecodecs.png_encode(MASKS))
    assert (len(stream.getvalue()) > limit) == noise
    server.files["/a.zip"] = stream.getvalue()
    name = describe(home, f"{server.url}/a.zip")
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(home / "manifests"), name, str(limit)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(home / "numba")},
    )
    assert result.returncode == 7, result.stderr
    assert "the disk is full" in result.stdout
    assert "Free some space" in result.stdout
    assert files_under(home / "data") == []
    whole = [] if noise else [f"downloads/{name}/a.zip"]
    assert files_under(home / "cache") == whole


def test_a_folder_that_cannot_be_written_is_a_fetch_error(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/a.zip"] = GOOD
    (home / "file").touch()
    monkeypatch.setenv("SCELLSEG_DATA", str(home / "file"))
    with pytest.raises(FetchError, match="cannot be stored"):
        fetch.fetch(describe(home, f"{server.url}/a.zip"))


def test_manual_access_tells_what_to_do_and_where_to_put_it(home: Path, server: Server) -> None:
    name = describe(
        home, f"{server.url}/a.zip", access="manual", instructions="Sign the form first."
    )
    place = home / "cache/downloads" / name
    with pytest.raises(FetchError, match=r"Sign the form first\.") as caught:
        fetch.fetch(name)
    assert str(place) in str(caught.value)
    place.mkdir(parents=True)
    (place / "a.zip").write_bytes(GOOD)
    fetch.fetch(name)
    assert fetch.verify(name).complete
    assert server.requests == []


def test_manual_access_without_a_converter_gives_the_instructions(home: Path) -> None:
    changes = {"access": "manual", "archives": [], "converter": None}
    name = describe(home, "https://example.org/", **changes, instructions="Crop by hand.")
    with pytest.raises(FetchError, match=r"Crop by hand\.$"):
        fetch.fetch(name)


def test_the_package_scheme_goes_through_the_module_of_the_weights(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = home / "released.tar.gz"
    with tarfile.open(source, "w:gz") as tar:
        for stem, pixels in (("a_img", IMAGE), ("a_masks", MASKS)):
            content = imagecodecs.png_encode(pixels)
            info = tarfile.TarInfo(f"package-1/assets/cells/{stem}.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(weights, "fetch_archive", lambda: source)
    name = describe(home, "pip:package==1", sha256=download.hash_file(source))
    fetch.fetch(name)
    assert fetch.verify(name).complete

    def unreachable() -> Path:
        raise ModelError("the index does not answer", remedy="Try later.")

    monkeypatch.setattr(weights, "fetch_archive", unreachable)
    (manifest.load_manifest(name).folder / "a_img.png").unlink()
    with pytest.raises(FetchError, match=r"the index does not answer\. Try later\."):
        fetch.fetch(name)


def test_groups_are_named_counted_and_reported_without_hashes(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    group = {"source": "cells/*", "prefix": "train_", "splits": ["shot"], "count": 2}
    name = describe(home, f"{server.url}/a.zip", files=[], groups=[group])
    with pytest.raises(FetchError, match="1 of 2 images"):
        fetch.fetch(name)
    two = zipped(**{k: imagecodecs.png_encode(IMAGE) for k in ("a_img", "b_img")})
    stream = io.BytesIO(two)
    with zipfile.ZipFile(stream, "a") as archive:
        for k in ("a", "b"):
            archive.writestr(f"cells/{k}_masks.png", imagecodecs.png_encode(MASKS))
    (home / "cache/downloads" / name / "a.zip").write_bytes(stream.getvalue())
    fetch.fetch(name)
    report = fetch.verify(name)
    assert report.complete
    assert {f.state for f in report.files} == {"present, no hash published here"}
    assert [f.file for f in report.files] == [
        f"train_{k}_{what}.png" for k in "ab" for what in ("img", "masks")
    ]
    assert "4 present, no hash published here" in str(report)


def test_verify_tells_missing_damaged_and_changed_files_apart(home: Path, server: Server) -> None:
    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip")
    assert [f.state for f in fetch.verify(name).files] == ["missing", "missing"]
    folder = fetch.fetch(name)
    (folder / "a_img.png").write_bytes((folder / "a_img.png").read_bytes()[:200])
    changed = MASKS.copy()
    changed[3, 4] += 1
    (folder / "a_masks.png").write_bytes(imagecodecs.png_encode(changed))
    report = fetch.verify(name)
    assert [f.state for f in report.files] == ["different", "different"]
    assert "damaged" in report.files[0].detail
    assert report.files[1].detail == "its pixels"
    assert not report.complete
    assert "different: a_img.png (" in str(report)
    # Another container with the same pixels is the same.
    (folder / "a_masks.png").write_bytes(imagecodecs.tiff_encode(MASKS))
    assert [f.state for f in fetch.verify(name).files] == ["different", "ok"]


def test_a_bar_counts_the_images_that_are_checked(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = []

    def bar(items: Sequence[Any], total: int, label: str) -> Iterator[Any]:
        seen = list(items)
        bars.append((label, total, len(seen)))
        yield from seen

    server.files["/a.zip"] = GOOD
    name = describe(home, f"{server.url}/a.zip")
    fetch.fetch(name)
    monkeypatch.setattr(fetch, "progress_bar", bar)
    assert fetch.verify(name).complete
    assert bars == [(f"Checking {name}", 1, 1)]


def test_an_unknown_data_set_is_an_error() -> None:
    for verb in (fetch.fetch, fetch.verify):
        with pytest.raises(DatasetError, match="no data set is called 'cheese'"):
            verb("cheese")


@pytest.mark.real_data
def test_the_real_images_are_those_of_the_manifests(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCELLSEG_DATA", str(real_data))
    for name in manifest.list_manifests():
        card = manifest.load_manifest(name)
        if not card.folder.is_dir():
            continue
        entries = {entry.image: entry for entry in card.files}
        for finding in fetch.verify(name).files:
            entry = entries.get(finding.file)
            if finding.state == "different" and name == "dsb2018" and entry is not None:
                # A copy of an image that is narrower than its own masks is truncated.
                image = readers.read_pixels(card.folder / entry.image)
                masks = readers.read_pixels(card.folder / entry.masks)
                assert image.shape[:2] != masks.shape
            else:
                assert finding.state in ("ok", "present, no hash published here"), finding


@pytest.mark.real_data
def test_bbbc010_comes_whole_from_its_raw_samples(
    home: Path, real_data: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = real_data / "raw_samples/bbbc010"
    card = manifest.load_manifest(paths.REPOSITORY / "data_manifests" / "bbbc010_elegans.yaml")
    for archive in card.archives:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as opened:
            for path in (samples / Path(archive.file).stem).iterdir():
                opened.write(path, f"{path.parent.name}/{path.name}")
        server.files[f"/{archive.file}"] = stream.getvalue()
    wells = [e for e in card.files if (e.name in ("B05", "C19", "B18"))]
    moved = [a.model_copy(update={"url": f"{server.url}/{a.file}"}) for a in card.archives]
    local = card.model_copy(update={"files": tuple(wells), "archives": tuple(moved)})
    monkeypatch.setattr(fetch, "load_manifest", lambda _: local)
    fetch.fetch("bbbc010_elegans")
    assert [f.state for f in fetch.verify("bbbc010_elegans").files] == ["ok"] * 6


def unsafe_zip(path: Path, name: str, mode: int = 0) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", b"good")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd" if mode else "evil")


def unsafe_tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("good.png"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "../../evil"
        archive.addfile(info)


@pytest.mark.parametrize(
    ("build", "name", "kind"),
    [
        (unsafe_zip, "../evil.png", 0),
        (unsafe_zip, "a/../../evil.png", 0),
        (unsafe_zip, "/evil.png", 0),
        (unsafe_zip, "..\\evil.png", 0),
        (unsafe_zip, "C:/evil.png", 0),
        (unsafe_zip, "evil.png", stat.S_IFLNK | 0o777),
        (unsafe_tar, "../evil.png", tarfile.REGTYPE),
        (unsafe_tar, "/evil.png", tarfile.REGTYPE),
        (unsafe_tar, "evil.png", tarfile.SYMTYPE),
        (unsafe_tar, "evil.png", tarfile.LNKTYPE),
        (unsafe_tar, "evil.png", tarfile.CHRTYPE),
        (unsafe_tar, "evil.png", tarfile.FIFOTYPE),
    ],
)
def test_unsafe_archives_are_refused_whole(
    build: Any, name: str, kind: Any, tmp_path: Path
) -> None:
    archive = tmp_path / "in" / "evil.archive"
    archive.parent.mkdir()
    build(archive, name, kind)
    with pytest.raises(FetchError, match="leads elsewhere"):
        fetch.unpack(archive, tmp_path / "in" / "out")
    assert files_under(tmp_path) == ["in/evil.archive"]


def test_a_download_tells_how_far_it_is(home: Path, server: Server, monkeypatch) -> None:
    shown = []

    class Bar(nullcontext):
        def __init__(self, total: int, label: str, unit: str, initial: int, **_: object) -> None:
            super().__init__(self)
            self.total, self.label, self.unit, self.n = total, label, unit, initial
            shown.append(self)

        def update(self, n: int) -> None:
            self.n += n

    monkeypatch.setattr(download, "bar", Bar)
    content = np.random.default_rng(0).bytes(300_000)
    server.files["/a.bin"], server.cut_after = content, 100_000
    download.download(f"{server.url}/a.bin", home / "a.bin")
    assert [(bar.label, bar.unit, bar.total) for bar in shown] == [("a.bin", "byte", 300_000)] * 2
    assert 0 < shown[0].n <= 100_000  # where the connection was cut
    assert shown[1].n == 300_000


@pytest.mark.released_weights
def test_the_contrast_images_come_out_of_the_authors_archive(tmp_path: Path, monkeypatch) -> None:
    try:
        weights.fetch_archive()  # in the user's cache, through pip's index
    except ModelError as error:
        pytest.skip(f"the authors' archive cannot be had: {error}")
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    fetch.fetch("cellpose_contrast35")
    report = fetch.verify("cellpose_contrast35")
    assert report.complete
    assert len([f for f in report.files if f.state == "ok"]) == 70


def test_an_unsafe_download_leaves_no_data(home: Path, server: Server) -> None:
    unsafe_zip(home / "evil.zip", "../../evil.png")
    server.files["/a.zip"] = (home / "evil.zip").read_bytes()
    with pytest.raises(FetchError, match="leads elsewhere"):
        fetch.fetch(describe(home, f"{server.url}/a.zip"))
    assert files_under(home / "data") == []
    assert not list(home.rglob("evil.png"))


def test_an_archive_larger_than_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.png", bytes(10**6))
    monkeypatch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=10**5))
    with pytest.raises(FetchError, match=r"needs 0\.0 GB"):
        fetch.unpack(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == []
    fetch.unpack(archive, tmp_path / "out", members="*.tif")


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("zip", "cut"), ("zip", "flipped"), ("tar.gz", "cut"), ("tar.xz", "flipped")],
)
def test_a_damaged_archive_raises_what_fetch_expects(
    kind: str, damage: str, tmp_path: Path
) -> None:
    whole = tmp_path / f"a.{kind}"
    noise = np.random.default_rng(0).bytes(50_000)
    (tmp_path / "noise").write_bytes(noise)
    if kind == "zip":
        with zipfile.ZipFile(whole, "w") as opened:
            opened.write(tmp_path / "noise", "noise")
    else:
        with tarfile.open(whole, f"w:{kind[-2:]}") as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "noise", "noise")
    content = bytearray(whole.read_bytes())
    content[25_000] ^= 255
    whole.write_bytes(content if damage == "flipped" else content[:20_000])
    with pytest.raises(fetch.ArchiveDamaged):
        fetch.unpack(whole, tmp_path / "out")
