"""Random pairs of label images: shifted, split, merged, lost and invented objects."""

import random

import numpy as np
from skimage.segmentation import relabel_sequential


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a true and a predicted label image, int32[H, W], with contiguous labels.

    Only `random.Random.random` is drawn from: its sequence is the same on all versions of Python,
    so that recorded counts stay valid. Halved rectangles give IoUs of exactly one half.
    """
    draw = random.Random(seed).random
    shape = 24 + int(draw() * 60), 24 + int(draw() * 60)
    true, predicted = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    jitter = int(draw() * 4)
    for label in range(1, int(draw() * 32) - 1):  # none in some
        corner = [int(draw() * (side - 4)) for side in shape]
        size = [2 * (1 + int(draw() * 6)) for _ in shape]
        box = tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))
        fate = draw()
        if fate < 0.9:
            true[box] = label
        shift = [int(draw() * (2 * jitter + 1)) - jitter for _ in shape]
        pairs = zip(box, shift, strict=True)
        moved = tuple(slice(max(0, one.start + by), one.stop + by) for one, by in pairs)
        if fate < 0.1:  # lost
            continue
        predicted[moved] = label if fate < 0.8 or label == 1 else label - 1  # merged
        if 0.5 < fate < 0.65:  # split in halves
            predicted[box] = label
            predicted[box[0].start : box[0].start + size[0] // 2, box[1]] = 100 + label
    whole = draw()
    if whole < 0.1:  # all invented, or all lost
        (true if whole < 0.05 else predicted)[:] = 0
    return relabel_sequential(true)[0], relabel_sequential(predicted)[0]


def disc_grid(n: int, seed: int, jitter: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``n`` discs of radius 12 on a grid of 32 pixels, and the same moved by some pixels."""
    generator = np.random.default_rng(seed)
    columns = int(np.ceil(np.sqrt(n)))
    true = np.zeros((32 * columns, 32 * columns), np.int32)
    predicted = true.copy()
    y, x = np.mgrid[-16:16, -16:16]
    disc = y * y + x * x <= 12 * 12
    for label in range(1, n + 1):
        row, column = divmod(label - 1, columns)
        dy, dx = generator.integers(-jitter, jitter + 1, 2)
        tile = slice(32 * row, 32 * row + 32), slice(32 * column, 32 * column + 32)
        true[tile][disc] = label
        predicted[tile][np.roll(disc, (dy, dx), (0, 1))] = label
    return true, predicted
