"""The authors' weights: the way through pip's index, and what our networks make of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from scellseg_lib.datasets import download, weights
from scellseg_lib.errors import ModelError
from scellseg_lib.network import build_network
from tests import functional_network

NAMES = ("scellseg", "cellpose")
MIB = 1 << 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The networks


def assert_equal_forward(name: str, ours: dict, theirs: dict) -> None:
    """Our network on our keys against the functional pass on theirs, in double precision."""
    network = build_network(name).eval().double()
    network.load_state_dict(ours, strict=True)
    theirs = {k: v.double() if v.is_floating_point() else v for k, v in theirs.items()}
    images = torch.rand(2, 2, 32, 24, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        output = network(images)
    maps, style = functional_network.forward(theirs, images)
    assert maps.std() > 0.05
    torch.testing.assert_close(output.maps, maps, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(output.style, style, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_network_equals_the_functional_pass_on_random_weights(name):
    theirs = functional_network.random_state(name)
    assert len(theirs) == {"scellseg": 423, "cellpose": 311}[name]
    ours = {weights.rename(key): tensor for key, tensor in theirs.items()}
    assert_equal_forward(name, ours, theirs)


@pytest.mark.released_weights
@pytest.mark.parametrize("name", NAMES)
def test_network_equals_the_functional_pass_on_released_weights(name):
    try:
        archive = weights.fetch_archive()
    except ModelError as error:
        pytest.skip(f"the authors' weights cannot be had: {error}")
    content = weights._member(archive, name, weights.RELEASED[name])
    theirs = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    assert {k: v.shape for k, v in theirs.items()} == {
        k: v.shape for k, v in functional_network.random_state(name).items()
    }
    assert_equal_forward(name, weights.released_weights(name), theirs)


def test_keys_of_official_cellpose_weights_are_known():
    theirs = functional_network.random_state("cellpose")
    cellpose = {
        key: key.removeprefix("extractor.")
        .replace("tasker.base_bn", "output.0")
        .replace("tasker.base_conv", "output.2")
        for key in theirs
    }
    assert all(weights.rename(cellpose[key]) == weights.rename(key) for key in theirs)


def test_unknown_key_is_refused():
    with pytest.raises(ModelError, match="conv1x1"):
        weights.rename("extractor.upsample.up.res_up_0.conv.conv1x1.weight")


@pytest.mark.parametrize(("name", "reason"), [("hover", "attention"), ("unet2", "no weights")])
def test_weights_that_do_not_fit_are_refused_before_any_fetch(name, reason, monkeypatch):
    monkeypatch.setattr(weights, "fetch_archive", lambda: pytest.fail("went for the archive"))
    with pytest.raises(ModelError, match=reason):
        weights.released_weights(name)


# The index


class Index(ThreadingHTTPServer):
    """A package index on this machine, whose answers a test can spoil."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.links = f'<a href="../../files/{weights.ARCHIVE}#sha256=0">{weights.ARCHIVE}</a>'
        self.page_type = "text/html"
        self.cuts: list[int] = []  # bytes after which to cut the next downloads
        self.statuses: list[int] = []  # errors with which to answer the next downloads
        self.resumes = True
        self.ranges: list[str | None] = []  # what the downloads asked for
        self.url = f"http://127.0.0.1:{self.server_port}/simple"


class Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if self.path == "/simple/scellseg/":
            self.answer(200, self.server.links.encode(), self.server.page_type)
        elif self.path == f"/files/{weights.ARCHIVE}":
            self.download()
        else:
            self.send_error(404)

    def download(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        if self.server.statuses:
            return self.send_error(self.server.statuses.pop(0))
        start = int(asked[6:-1]) if asked and self.server.resumes else 0
        content = self.server.content[start:]
        keep = self.server.cuts.pop(0) if self.server.cuts else len(content)
        self.answer(206 if start else 200, content, "application/gzip", keep)

    def answer(self, status: int, content: bytes, kind: str, keep: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:keep])

    def log_message(self, *_: object) -> None:
        pass


THEIRS = {"tasker.base_bn.weight": torch.arange(32.0), "tasker.base_conv.bias": torch.ones(3)}


def make_archive(folder: Path, members: dict[str, bytes]) -> bytes:
    path = folder / "made.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path.read_bytes()


@pytest.fixture
def cache(temporary_cache, monkeypatch) -> Path:
    """An empty cache, no waiting, and settings of pip that lead nowhere."""
    monkeypatch.delenv("SCELLSEG_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    configure(monkeypatch, no_index="1")
    return temporary_cache / "released"


def configure(monkeypatch, **settings: str) -> None:
    options = {option.replace("_", "-"): value for option, value in settings.items()}
    monkeypatch.setattr(weights, "_pip_settings", lambda: options)


@pytest.fixture
def index(cache, tmp_path, monkeypatch):
    """An index with a small archive, to which the hashes are set."""
    stored = io.BytesIO()
    torch.save(THEIRS, stored)
    content = make_archive(
        tmp_path,
        {
            "scellseg-0.1.8/setup.py": b"raise SystemExit('set-up code was run')",
            "scellseg-0.1.8/padding": os.urandom(3 * MIB),
            f"{weights.WEIGHTS_FOLDER}/scellseg": stored.getvalue(),
        },
    )
    monkeypatch.setattr(weights, "ARCHIVE_SHA256", sha256(content))
    monkeypatch.setitem(weights.RELEASED, "scellseg", sha256(stored.getvalue()))
    with Index(content) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        configure(monkeypatch, index_url=server.url)
        yield server
        server.shutdown()


def assert_fetched(state: dict) -> None:
    assert set(state) == {"tasker.0.weight", "tasker.2.bias"}
    torch.testing.assert_close(state["tasker.0.weight"], torch.arange(32.0))


def test_fetched_once_then_served_from_the_cache(index, cache, monkeypatch):
    assert_fetched(weights.released_weights("scellseg"))
    assert {file.name for file in cache.iterdir()} == {weights.ARCHIVE, "scellseg.safetensors"}
    (cache / weights.ARCHIVE).unlink()
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    assert_fetched(weights.released_weights("scellseg"))
    assert index.ranges == [None]


def test_index_that_answers_in_json(index):
    index.page_type = "application/vnd.pypi.simple.v1+json"
    index.links = json.dumps({"files": [{"url": f"../../files/{weights.ARCHIVE}"}]})
    assert_fetched(weights.released_weights("scellseg"))


def test_broken_places_are_passed_over(index, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    configure(
        monkeypatch,
        find_links=f"{tmp_path / 'absent'} {tmp_path / 'empty'}",
        index_url=(tmp_path / "simple").as_uri(),
        extra_index_url=f"{index.url}/wrong {index.url}",
    )
    assert_fetched(weights.released_weights("scellseg"))


@pytest.mark.parametrize("as_page", [True, False])
def test_local_folder_of_links(index, as_page, monkeypatch, tmp_path):
    folder = tmp_path / "links"
    (folder / "files").mkdir(parents=True)
    place = folder / "files" / weights.ARCHIVE if as_page else folder / weights.ARCHIVE
    place.write_bytes(index.content)
    if as_page:
        (folder / "index.html").write_text(f'<a href="files/{weights.ARCHIVE}">it</a>')
    configure(monkeypatch, find_links=str(folder), no_index="1")
    assert_fetched(weights.released_weights("scellseg"))
    assert index.ranges == []


def test_cut_connection_is_resumed(index):
    index.cuts = [2 * MIB + 1000]
    assert weights.fetch_archive().read_bytes() == index.content
    assert index.ranges == [None, f"bytes={2 * MIB}-"]


def test_server_that_cannot_resume_starts_again(index):
    index.cuts, index.resumes = [2 * MIB + 1000], False
    assert weights.fetch_archive().read_bytes() == index.content


def test_server_that_fails_for_a_moment_is_asked_again(index):
    index.statuses = [503]
    assert weights.fetch_archive().read_bytes() == index.content


@pytest.mark.parametrize(
    ("spoil", "says", "downloads"),
    [
        (lambda index: setattr(index, "content", index.content[:-1] + b"?"), "SHA-256", 1),
        (lambda index: setattr(index, "links", "<a href='scellseg-0.1.7.tar.gz'>"), "lists no", 0),
        (lambda index: index.statuses.append(404), "404", 1),
        (lambda index: index.cuts.extend([10] * 9), "IncompleteRead", 5),
    ],
    ids=["wrong hash", "not listed", "missing file", "always cut"],
)
def test_archive_that_cannot_be_had_is_an_error(index, cache, spoil, says, downloads, monkeypatch):
    spoil(index)
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("an archive was opened"))
    with pytest.raises(ModelError, match=says) as caught:
        weights.released_weights("scellseg")
    assert "pip config list" in str(caught.value)
    assert weights.ARCHIVE_SHA256 in str(caught.value)
    assert len(index.ranges) == downloads
    assert list(cache.glob("*")) == []


def test_offline_is_an_error_that_says_so(index, monkeypatch):
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    with pytest.raises(ModelError, match="SCELLSEG_OFFLINE"):
        weights.released_weights("scellseg")
    assert index.ranges == []


def test_damaged_files_of_the_cache_are_replaced(index, cache):
    cache.mkdir(parents=True)
    (cache / weights.ARCHIVE).write_bytes(b"half")
    weights.released_file("scellseg").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert_fetched(weights.released_weights("scellseg"))
    assert_fetched(weights.released_weights("scellseg"))
    assert index.ranges == [None]


def test_weights_are_converted_again_when_our_names_change(index, monkeypatch):
    weights.released_weights("scellseg")
    monkeypatch.setattr(weights, "KEYS", ((r"tasker\.base_(?:bn|conv)\.", "head."),))
    assert set(weights.released_weights("scellseg")) == {"head.weight", "head.bias"}


def test_member_is_checked_too(index, monkeypatch):
    monkeypatch.setitem(weights.RELEASED, "scellseg", "0" * 64)
    with pytest.raises(ModelError, match="has SHA-256"):
        weights.released_weights("scellseg")
    with pytest.raises(ModelError, match="holds no"):
        weights.released_weights("cellpose")


def test_passwords_stay_out_of_the_message(index, monkeypatch):
    index.links = ""
    configure(monkeypatch, index_url=index.url.replace("//", "//me:secret@") + "/absent")
    with pytest.raises(ModelError, match="404") as caught:
        weights.released_weights("scellseg")
    assert "secret" not in str(caught.value)


# pip


def test_settings_come_from_the_files_and_the_environment_of_pip(tmp_path, monkeypatch):
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://a/simple\nextra-index-url = http://b/simple\n"
        "    http://c/simple\n[download]\nfind-links = /links\n[install]\nfind-links = /other\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://d/simple/")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert list(weights._pages(weights._pip_settings(), [])) == [
        "/links",
        "http://d/simple/scellseg/",
        "http://b/simple/scellseg/",
        "http://c/simple/scellseg/",
    ]


def test_without_pip_the_error_says_so(cache, monkeypatch):
    configure(monkeypatch)
    monkeypatch.setitem(sys.modules, "pip._internal.models.index", None)
    with pytest.raises(ModelError, match=r"pip.* is not installed here"):
        weights.released_weights("scellseg")


def test_public_index_is_what_pip_says(monkeypatch):
    from pip._internal.models.index import PyPI

    assert list(weights._pages({}, [])) == [PyPI.simple_url + "/scellseg/"]
