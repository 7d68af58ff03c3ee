"""Raw archives, as their publishers lay them out, to images and instance masks.

A converter gives a `Picture` of each image in a folder of raw files that matches ``source``.
"""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
from natsort import natsorted
from skimage.draw import polygon2mask

from scellseg_lib.errors import DatasetError, ImageError, telling
from scellseg_lib.files.images import read_masks, read_pixels, write_labels
from scellseg_lib.samples import check_size

_AGAIN = "Get the raw files from their publisher again; these are damaged or of another version."


class Picture(NamedTuple):
    """An image as stored, uint8 or uint16 [H, W] or [H, W, 3], and its masks, int32[H, W]."""

    name: str
    image: np.ndarray
    masks: np.ndarray


def convert_bbbc010(raw: Path, source: str) -> Iterator[Picture]:
    """BBBC010, by wells such as ``"B05"``: the bright field, worms by decreasing area."""
    for path in _find(raw, f"*_{source}_w2_*.tif"):
        # The well stands before w2, which is the bright field; w1 is the fluorescence.
        well = path.name.partition("_w2_")[0].rpartition("_")[2]
        image = read_pixels(path)
        worms = [_read_layer(file, image) for file in _find(raw, f"{well}_*_ground_truth.png")]
        worms.sort(key=np.count_nonzero, reverse=True)
        yield Picture(well, image, paint(worms, image.shape[:2]))


def convert_dsb2018(raw: Path, source: str) -> Iterator[Picture]:
    """2018 Data Science Bowl, by identifier; three planes that are equal are kept as one."""
    for path in _find(raw, f"stage1_train/{source}/images/*.png"):
        image = read_pixels(path)
        if image.ndim == 3 and (image == image[..., :1]).all():
            image = image[..., 0]
        # Plain order, not natural: the names are hexadecimal.
        files = sorted(_find(raw, f"stage1_train/{path.stem}/masks/*.png"))
        nuclei = [_read_layer(file, image) for file in files]
        yield Picture(path.stem, image, paint(nuclei, image.shape[:2]))


def convert_livecell(raw: Path, source: str) -> Iterator[Picture]:
    """LIVECell, by its COCO JSON file of polygons (it has no run lengths)."""
    path = _find(raw, source)[0]
    with telling("this is not COCO JSON with polygons", path, _AGAIN):
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        cells: dict[int, list[list[np.ndarray]]] = {number: [] for number in names}
        # A list in COCO, keyed by id in LIVECell's single-cell files.
        notes = content["annotations"]
        for note in notes.values() if isinstance(notes, dict) else notes:
            if not note.get("iscrowd"):
                outlines = [np.reshape(points, (-1, 2)) for points in note["segmentation"]]
                cells[note["image_id"]].append(outlines)
    for number in natsorted(names, key=names.__getitem__):
        image = read_pixels(_find(raw, names[number])[0])
        drawn = [draw_polygons(outlines, image.shape[:2]) for outlines in cells[number]]
        yield Picture(Path(names[number]).stem, image, paint(drawn, image.shape[:2]))


def convert_cellpose(raw: Path, source: str) -> Iterator[Picture]:
    """Cellpose layout, by ``"FOLDER/NAME"``: ``NAME_img.png`` and ``NAME_masks.png`` (or TIFF)."""
    for path in _find(raw, f"{source}_img.*"):
        name = path.stem.removesuffix("_img")
        masks = _find(raw, f"{path.parent.relative_to(raw).as_posix()}/{name}_masks.*")[0]
        yield Picture(name, read_pixels(path), read_masks(masks))


def paint(cells: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Label image, int32[H, W], of cells, bool[H, W]: 1, 2, ..; overlaps go to the smaller cell."""
    labels = np.zeros(shape, np.int32)
    for k in sorted(range(len(cells)), key=lambda k: -np.count_nonzero(cells[k])):
        labels[cells[k]] = k + 1
    return labels


def draw_polygons(outlines: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels, bool[H, W], whose centre is inside one of COCO's polygons, float[n, 2] (x, y)."""
    mask = np.zeros(shape, bool)
    for points in outlines:
        mask |= polygon2mask(shape, points[:, ::-1] - 0.5)  # pixel (0, 0) spans 0 to 1
    return mask


def write_picture(picture: Picture, image_path: Path, masks_path: Path) -> None:
    """Store image and masks as PNG; ImageError if a PNG does not hold them whole."""
    image, size = picture.image, picture.masks.shape
    if image.dtype not in (np.uint8, np.uint16) or image.shape not in (size, (*size, 3)):
        what = f"the image is {image.dtype}{list(image.shape)}, its masks are {list(size)}"
        remedy = "A PNG holds uint8 or uint16, one plane or three, of the size of the masks."
        raise ImageError(what, where=picture.name, remedy=remedy)
    write_labels(masks_path, picture.masks)
    image_path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image)))


def _find(raw: Path, pattern: str) -> list[Path]:
    """Files whose path ends in a shell pattern (``*`` crosses folders), in natural order."""
    found = [raw / name for name in _list_files(raw) if fnmatchcase(f"/{name}", f"*/{pattern}")]
    if not found:
        what = f"there is no file {pattern!r} among the {len(_list_files(raw))} raw files"
        remedy = "Check that these are the archives that the manifest names."
        raise DatasetError(what, where=raw, remedy=remedy)
    return found


@cache
def _list_files(raw: Path) -> list[str]:
    """All files below a folder, listed once, without what macOS adds to archives."""
    found = (path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file())
    return natsorted(n for n in found if "__MACOSX/" not in n and not Path(n).name.startswith("._"))


def _read_layer(path: Path, image: np.ndarray) -> np.ndarray:
    """The pixels of one cell's mask file, bool[H, W]."""
    layer: np.ndarray = np.atleast_3d(read_pixels(path)).max(axis=2) > 0
    check_size(image.shape[:2], layer.shape, "the mask", path)
    return layer
