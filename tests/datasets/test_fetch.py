"""Fetching, against a server on this machine that misbehaves on demand."""

import io
import os
import resource
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from unittest.mock import MagicMock

import imagecodecs
import numpy as np
import pytest
import yaml

from scellseg_lib.datasets import download, fetch, manifest, weights
from scellseg_lib.errors import FetchError, ModelError
from scellseg_lib.files.images import pixel_hash, read_pixels
from tests.datasets.test_manifest import VALID

IMAGE = np.random.default_rng(0).integers(0, 60_000, (40, 50), dtype=np.uint16)
MASKS = np.repeat(np.arange(4, dtype=np.uint16), 10)[:, None].repeat(50, axis=1)
NOISE = np.random.default_rng(0).bytes(4 * download.CHUNK)


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


IMAGE_PNG, MASKS_PNG = imagecodecs.png_encode(IMAGE), imagecodecs.png_encode(MASKS)
CELLS = {"cells/a_img.png": IMAGE_PNG, "cells/a_masks.png": MASKS_PNG, "cells/unwanted": b"x"}
GOOD = zipped(CELLS)

A = "/a.zip"  # where the server has its archive


@pytest.fixture
def home(tmp_path, server, monkeypatch):
    """Empty cache, data and manifests folders; a server with an archive, which is read slowly."""
    (tmp_path / "manifests").mkdir()
    monkeypatch.setenv("SCELLSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("scellseg_lib.paths.MANIFESTS", tmp_path / "manifests")
    monkeypatch.setattr(download, "CHUNK", 250)
    manifest._parse.cache_clear()
    server.files[A] = GOOD
    return tmp_path


def describe(home: Path, url: str, *, sha256: str | None = None, **changes) -> str:
    """Write the manifest of a set with one image; returns its name."""
    entry = {"image": "a_img.png", "masks": "a_masks.png", "splits": ["shot"], "source": "cells/a"}
    entry |= {"shape": [40, 50], "dtype": "uint16"}
    entry |= {"image_sha256": pixel_hash(IMAGE), "masks_sha256": pixel_hash(MASKS)}
    archive = {"url": url, "file": "a.zip", "sha256": sha256, "members": "*_*"}
    content = VALID | {"name": "cells", "archives": [archive]}
    content |= {"files": [entry | changes.pop("entry", {})]} | changes
    (home / "manifests" / "cells.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "cells"


def list_files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def leftovers(home: Path) -> list[str]:
    return list_files(home / "cache") + list_files(home / "data")


# What an earlier run has left, how the server fails, and what it is asked for.
PARTS = [
    (None, {}, [None]),
    (None, {"cut_after": 1000}, [None, "bytes=1000-"]),
    (None, {"cut_after": 1000, "ranges": False}, [None, "bytes=1000-"]),
    (None, {"busy": 2}, [None] * 3),
    (GOOD[:300], {}, ["bytes=300-"]),
    (GOOD, {}, [f"bytes={len(GOOD)}-"]),  # lacks nothing
    (GOOD + b"of another file", {}, [f"bytes={len(GOOD) + 15}-", None]),
    (bytes(300), {"modified": 2e9}, ["bytes=300-", None]),  # it has changed since
    (GOOD[:300], {"elsewhere": True}, ["bytes=300-", None]),
    *((None, {"length": said}, [None]) for said in ("abc", "-5", "9" * 5000)),
]


@pytest.mark.parametrize(("part", "fails", "asked"), PARTS)
def test_a_file_comes_whole(part, fails, asked, home, server):
    vars(server).update(fails)
    if part is not None:
        (home / "a.zip.part").write_bytes(part)
        os.utime(home / "a.zip.part", (1e9, 1e9))
    file = download.download(server.address + A, home / "a.zip")
    assert file.read_bytes() == GOOD
    assert server.asked[A] == asked
    assert list_files(home) == ["a.zip"]
    download.download(server.address + A, file, sha256(GOOD).hexdigest())
    assert server.asked[A] == asked  # what is there is not fetched again


def test_a_download_does_not_leave_tls(tmp_path, monkeypatch):
    monkeypatch.delenv("SCELLSEG_OFFLINE", raising=False)
    session = MagicMock()
    answer = session.get.return_value.__enter__.return_value
    answer.headers, answer.history, answer.url = {}, [], "http://b.org/a.zip"
    with pytest.raises(FetchError, match="an address without TLS"):
        download.download("https://a.org/a.zip", tmp_path / "a.zip", session=session)
    assert list_files(tmp_path) == []


def test_a_beginning_of_another_file_is_found_out_by_the_hash(home, server):
    (home / "a.zip.part").write_bytes(bytes(300))
    download.download(server.address + A, home / "a.zip", sha256(GOOD).hexdigest())
    assert (home / "a.zip").read_bytes() == GOOD
    (home / "b.zip.part").write_bytes(GOOD[:300])
    with pytest.raises(FetchError, match="does not have the SHA-256 0000"):
        download.download(server.address + A, home / "b.zip", "0" * 64)
    assert server.asked[A] == ["bytes=300-", None] * 2  # anew, once
    assert list_files(home) == ["a.zip"]


def test_two_at_once_fetch_a_file_once(home, server):
    server.pause = 0.5  # in which the second would ask too
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(download.download, [server.address + A] * 2, [home / "a.zip"] * 2)
    assert [file.read_bytes() for file in both] == [GOOD] * 2
    assert len(server.asked[A]) == 1
    assert list_files(home) == ["a.zip"]


def test_a_download_tells_how_far_it_is_and_a_kill_would_lose_little(home, server, monkeypatch):
    monkeypatch.setattr(download, "bar", bar := MagicMock())
    there, part, update = [], home / "a.zip.part", bar.return_value.update
    update.side_effect = lambda _: there.append(part.stat().st_size)
    server.files[A], server.cut_after = NOISE, 1000
    download.download(server.address + A, home / "a.zip")
    assert [call.args for call in bar.call_args_list] == [(len(NOISE), "a.zip", "byte")] * 2
    assert [call.kwargs["initial"] for call in bar.call_args_list] == [0, 1000]
    told = np.cumsum([call.args[0] for call in update.call_args_list])
    assert told[-1] == len(NOISE)
    assert (told - there).max() < 10_000


def test_fetched_files_are_the_pixels_of_the_manifest(home, server, monkeypatch):
    name = describe(home, server.address + A)
    assert [f.state for f in fetch.verify(name).files] == ["missing", "missing"]
    folder = fetch.fetch(name)
    assert folder == home / "data" / name
    assert list_files(home / "data") == [f"{name}/a_img.png", f"{name}/a_masks.png"]
    assert np.array_equal(read_pixels(folder / "a_img.png"), IMAGE)
    assert np.array_equal(read_pixels(folder / "a_masks.png"), MASKS)
    assert [f.state for f in fetch.verify(name).files] == ["ok", "ok"]
    # A lost file comes back from the downloaded archive, offline.
    monkeypatch.setenv("SCELLSEG_OFFLINE", "1")
    (folder / "a_masks.png").unlink()
    fetch.fetch(name)
    assert not fetch.verify(name).wrong
    assert len(server.asked[A]) == 1


@pytest.mark.parametrize(
    ("fails", "says", "message", "asked"),
    [
        ({}, {"SCELLSEG_OFFLINE": "1"}, "SCELLSEG_OFFLINE forbids", 0),
        ({}, {"SCELLSEG_DATA": __file__}, "cannot be stored", 1),
        ({"busy": 99}, {}, "503", download.ATTEMPTS),
        ({"files": {}}, {}, r"a\.zip: the download failed \(404", 1),
        ({}, {"url": "http://127.0.0.1:9/a.zip"}, r":9/a\.zip: the download failed", 0),
        ({}, {"sha256": "0" * 64}, "does not have the SHA-256 0000", 1),
        ({"files": {A: GOOD[:500]}}, {}, "not an archive at all", 1),
        ({}, {"entry": {"image_sha256": "0" * 64}}, r"different: a_img\.png \(its pixels\)", 1),
        ({}, {"entry": {"shape": [50, 40]}}, r"uint16 \(40, 50\) instead of uint16 \(50, 40\)", 1),
        ({}, {"entry": {"dtype": "uint8"}}, "instead of uint8", 1),
        ({}, {"entry": {"source": "plates/a"}}, r"not hold what they should.*plates/a", 1),
    ],
)
def test_what_was_not_promised_is_not_kept(fails, says, message, asked, home, server, monkeypatch):
    vars(server).update(fails)
    for name in says.keys() & {"SCELLSEG_OFFLINE", "SCELLSEG_DATA"}:
        monkeypatch.setenv(name, says[name])
    said = {name: value for name, value in says.items() if name.islower()}
    with pytest.raises(FetchError, match=message):
        fetch.fetch(describe(home, **{"url": server.address + A} | said))
    assert len(server.asked[A]) == asked
    is_whole = "entry" in says or "SCELLSEG_DATA" in says
    assert leftovers(home) == (["downloads/cells/a.zip"] if is_whole else [])


def test_what_a_bad_line_let_through_is_kept_for_the_next_run(home, server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.cut_after = 1000
    with pytest.raises(FetchError, match="goes on where it broke"):
        fetch.fetch(describe(home, server.address + A))
    assert leftovers(home) == ["downloads/cells/a.zip.part"]
    fetch.fetch("cells")
    assert server.asked[A][1:] == ["bytes=1000-"]


@pytest.mark.parametrize("when", ["downloading", "unpacking"])
def test_full_disk_leaves_nothing_half_written(when, home, server):
    # Noise does not compress, so that the archive is over the limit; zeros only when unpacked.
    content = NOISE if when == "downloading" else bytes(len(NOISE))
    server.files[A] = zipped({"cells/a_img.tif": content})
    name, before = describe(home, server.address + A), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(FetchError, match=r"stored \(File too large\)\. Free some space"):
            fetch.fetch(name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert leftovers(home) == ([] if when == "downloading" else [f"downloads/{name}/a.zip"])


def test_manual_access_tells_what_to_do_and_where_to_put_it(home, server):
    manual = {"access": "manual", "instructions": "Sign the form first."}
    name = describe(home, server.address + A, **manual)
    place = home / "cache/downloads" / name
    with pytest.raises(FetchError, match=rf"Sign the form first\. Put the archives into {place}"):
        fetch.fetch(name)
    place.mkdir(parents=True)
    (place / "a.zip").write_bytes(GOOD[:500])
    with pytest.raises(fetch.ArchiveDamaged):
        fetch.fetch(name)
    assert (place / "a.zip").is_file()  # what the user has put there is not deleted
    (place / "a.zip").write_bytes(GOOD)
    fetch.fetch(name)
    assert not fetch.verify(name).wrong
    assert server.asked[A] == []
    (home / "data" / name / "a_img.png").unlink()
    manifest._parse.cache_clear()
    describe(home, server.address + A, **manual, archives=[], converter=None)
    with pytest.raises(FetchError, match=r"Sign the form first\.$"):
        fetch.fetch(name)


def test_the_package_scheme_goes_through_the_module_of_the_weights(home, monkeypatch):
    (home / "released.zip").write_bytes(GOOD)
    monkeypatch.setattr(weights, "fetch_archive", lambda: home / "released.zip")
    fetch.fetch(describe(home, "pip:package==1"))
    assert not fetch.verify("cells").wrong


def test_groups_are_named_counted_and_reported_without_hashes(home, server):
    group = {"source": "cells/*", "prefix": "train_", "splits": ["shot"], "count": 2}
    name = describe(home, server.address + A, files=[], groups=[group])
    with pytest.raises(FetchError, match="1 of 2 images"):
        fetch.fetch(name)
    two = CELLS | {"cells/b_img.png": IMAGE_PNG, "cells/b_masks.png": MASKS_PNG}
    (home / "cache/downloads" / name / "a.zip").write_bytes(zipped(two))
    fetch.fetch(name)
    report = fetch.verify(name)
    assert {f.state for f in report.files} == {"present, no hash published here"}
    names = [f"train_{k}_{what}.png" for k in "ab" for what in ("img", "masks")]
    assert [f.file for f in report.files] == names
    assert "4 present, no hash published here" in str(report)


def test_verify_tells_damaged_and_changed_files_apart(home, server):
    name = describe(home, server.address + A)
    folder = fetch.fetch(name)
    (folder / "a_img.png").write_bytes(IMAGE_PNG[:200])
    (folder / "a_masks.png").write_bytes(imagecodecs.png_encode(MASKS + np.uint16(1)))
    report = fetch.verify(name)
    assert [f.state for f in report.files] == ["different", "different"]
    assert "damaged" in report.files[0].detail
    assert "different: a_masks.png (its pixels)" in str(report)
    # Another container with the same pixels is the same.
    (folder / "a_masks.png").write_bytes(imagecodecs.tiff_encode(MASKS))
    assert [f.state for f in fetch.verify(name).files] == ["different", "ok"]


def tarred(name, kind=tarfile.REGTYPE, content=b"", mode="w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        archive.addfile(tarfile.TarInfo("good.png"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, "../../evil", len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


FILLED = {"noise": NOISE[:50_000]}
WHOLE = {"zip": zipped(FILLED), "gz": tarred(*FILLED, content=NOISE[:50_000])}
WHOLE["xz"] = tarred(*FILLED, content=NOISE[:50_000], mode="w:xz")


@pytest.mark.parametrize(("kind", "is_cut"), [("zip", 1), ("zip", 0), ("gz", 1), ("xz", 0)])
def test_a_damaged_archive_is_told(kind, is_cut, tmp_path):
    damaged = bytearray(WHOLE[kind])
    damaged[25_000] ^= 255
    archive = tmp_path / "noise.zip"
    archive.write_bytes(damaged[:20_000] if is_cut else damaged)
    with pytest.raises(fetch.ArchiveDamaged, match="the archive is damaged") as caught:
        fetch.unpack(archive, tmp_path / "out")
    assert caught.value.archive == archive


@pytest.mark.released_weights
def test_the_contrast_images_come_out_of_the_authors_archive(tmp_path, monkeypatch):
    try:
        weights.fetch_archive()  # in the user's cache, through pip's index
    except ModelError as error:
        pytest.skip(f"the authors' archive cannot be had: {error}")
    monkeypatch.setenv("SCELLSEG_DATA", str(tmp_path))
    card = manifest.load_manifest("cellpose_contrast35")
    some = card.model_copy(update={"files": card.files[::5]})  # one of each style
    monkeypatch.setattr(fetch, "load_manifest", lambda _: some)
    fetch.fetch(card.name)
    assert [f.state for f in fetch.verify(card.name).files] == ["ok"] * 14
