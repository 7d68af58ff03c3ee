"""A worked example for the workbench: images to try everything on at once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile

from scellseg_lib import paths
from scellseg_lib.atomic import whole
from scellseg_lib.datasets import synthetic
from scellseg_lib.files import images as readers

FOLDER = "SCELLSEG_FOLDER"
"""Variable that names the folder which the workbench opens with."""
N_ANNOTATED, N_OTHERS = 3, 5


def start_folder(named: str = "") -> Path:
    """Folder to begin with: one named here or by ``SCELLSEG_FOLDER``, else the example."""
    named = named or os.environ.get(FOLDER, "")
    return Path(named).expanduser().resolve() if named else make_example(paths.runs() / "example")


def make_example(folder: Path) -> Path:
    """Write synthetic worms into a folder: eight images, three of them annotated.

    Files that are there already stay as they are.

    Parameters
    ----------
    folder : Path
        Made if need be.

    Returns
    -------
    Path
        The folder.
    """
    worms = synthetic.make_dataset("synthetic_worms", n_shot=N_ANNOTATED, n_query=N_OTHERS)
    for number, sample in enumerate(worms, 1):
        image = folder / f"worms_{number}.tif"
        if image.exists():
            continue
        if number <= N_ANNOTATED:
            readers.write_labels(folder / f"worms_{number}_masks.tif", sample.masks)
        with whole(image) as scratch:
            tifffile.imwrite(scratch, np.round(sample.image[0]).astype(np.uint16))
    return folder
