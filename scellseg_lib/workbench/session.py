"""Look at one image: what the network says of it, at which settings."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scellseg_lib.files import images as readers
from scellseg_lib.model import Model
from scellseg_lib.representation import Decoding
from scellseg_lib.segmentation import Prediction, predict


@dataclass(frozen=True)
class SegmentationSettings:
    """How images are segmented."""

    diameter: float
    decoding: Decoding = field(default_factory=Decoding)
    resample: bool = True
    flips: bool = False
    channels: tuple[str, str] | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `readers.read_image`."""
        return {"channels": self.channels, "axes": None, "page": None}

    @property
    def seen(self) -> tuple[Any, ...]:
        """What the network's answer depends on; the rest is decoded without it."""
        return self.diameter, self.flips, self.channels


def predict_one(model: Model, image: Path, settings: SegmentationSettings) -> Prediction:
    """What the network says of one file; ImageError where it cannot be read."""
    planes = readers.read_image(image, **settings.reading)
    options: dict[str, Any] = {"diameter": settings.diameter, "flips": settings.flips}
    return replace(next(predict(model, [planes], **options)), name=image.name)
