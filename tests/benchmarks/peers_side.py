"""What runs in each peer's environment: learn from the shots, then segment the queries.

Each function gets shots float32[2, H, W] with their masks int32[H, W], and a setting, and returns
what segments an image.
"""

import logging
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.benchmarks.peer import answer, listed, numbered

Arrays = dict[str, np.ndarray]
Images = list[np.ndarray]
Segmenter = Callable[[np.ndarray], np.ndarray]
CELLPOSE = {
    "window": {"learning_rate": 0.1, "weight_decay": 1e-4, "n_epochs": 100},
    "command line": {"learning_rate": 0.2, "weight_decay": 1e-5, "n_epochs": 500},
}
"""Settings of Cellpose's training in its window, and by its command line."""


def ours(given: Arrays, shots: Images, masks: Images, setting: str) -> Segmenter:
    """Scellseg by this library, from the authors' weights, by a recipe; "paper" decoded so too."""
    import scellseg_lib as scellseg

    pairs = [(partial(np.copy, a), partial(np.copy, b)) for a, b in zip(shots, masks, strict=True)]
    samples = [scellseg.Sample(str(k), *pair) for k, pair in enumerate(pairs)]
    queries = [scellseg.Sample("", partial(np.copy, one)) for one in listed(given, "query")]
    start = scellseg.load_model("scellseg", "released")
    tuned = scellseg.finetune(start, samples, queries, setting, seed=int(given["seed"]))
    how: dict[str, Any] = {"resample": setting != "paper", "progress": False}
    return lambda image: scellseg.segment(tuned, [image], **how)[0].masks


def cellpose(given: Arrays, shots: Images, masks: Images, setting: str) -> Segmenter:
    """Cellpose's own training, from the weights under ``weight:KEY``, and its own inference."""
    import torch
    from cellpose.models import CellposeModel
    from cellpose.train import train_seg

    torch.manual_seed(int(given["seed"]))
    np.random.seed(int(given["seed"]))  # noqa: NPY002  which it draws from
    weights = {k[7:]: torch.from_numpy(v) for k, v in given.items() if k.startswith("weight:")}
    torch.save(weights, file := f"{given['folder']}/start")
    model = CellposeModel(gpu=False, pretrained_model=file)
    how: dict[str, Any] = CELLPOSE[setting] | {"save_path": given["folder"].item(), "SGD": True}
    how |= {"min_train_masks": 0, "nimg_per_epoch": max(8, len(shots))}
    planes = {"channels": [1, 2], "channel_axis": 0}
    train_seg(model.net, shots, masks, **planes, **how)
    diameter = float(model.net.diam_labels.item())  # which its window segments with
    return lambda image: model.eval(image, diameter=diameter, **planes)[0]


def stardist(given: Arrays, shots: Images, masks: Images, setting: str) -> Segmenter:
    """StarDist from nothing, for so many processor minutes by its example; or its ceiling."""
    if setting == "ceiling":
        return as_stars
    import tensorflow as tf
    from csbdeep.utils import normalize
    from stardist import fill_label_holes
    from stardist.models import Config2D, StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(seed := int(given["seed"]))
    rng, end = np.random.default_rng(seed), time.process_time() + 60 * float(setting.split()[0])

    def scale(image: np.ndarray) -> np.ndarray:
        return normalize(np.dstack([plane for plane in image if plane.any()]), 1, 99.8, (0, 1))

    images, cells = [*map(scale, shots)], [*map(fill_label_holes, masks)]
    side = min(256, *(16 * (length // 16) for one in cells for length in one.shape))
    how = {"train_patch_size": (side, side), "train_epochs": 10_000, "train_tensorboard": False}
    config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=images[0].shape[2], **how)
    model = StarDist2D(config, name="tuned", basedir=given["folder"].item())

    class Clock(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.model.stop_training = time.process_time() > end

    def augment(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flips, quarter turns and intensities, as in StarDist's example."""
        axes, turned = rng.permutation(2), tuple(np.s_[:: rng.choice((1, -1))] for _ in range(2))
        image = image.transpose(*axes, 2)[turned] * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
        noise = 0.02 * rng.uniform() * rng.normal(size=image.shape)
        return image + noise, labels.transpose(axes)[turned]

    model.prepare_for_training()
    model.callbacks.append(Clock())
    some = max(1, len(shots) // 8)  # it validates on images: on some of those it learns from
    model.train(images, cells, validation_data=(images[:some], cells[:some]), augmenter=augment)
    model.optimize_thresholds(images, cells)
    return lambda image: model.predict_instances(scale(image))[0]


def as_stars(labels: np.ndarray) -> np.ndarray:
    """True cells as StarDist would have them at best: polygons seen from the innermost pixels."""
    from stardist import edt_prob, polygons_to_label, star_dist

    depth = edt_prob(labels)
    cells = np.unique(labels[labels > 0])
    middles = [np.argmax(np.where(labels == cell, depth, -1)) for cell in cells]
    points = np.stack(np.unravel_index(middles, labels.shape), axis=1)
    return polygons_to_label(star_dist(labels, 32)[tuple(points.T)], points, labels.shape)


def forest(given: Arrays, shots: Images, masks: Images, setting: str) -> Segmenter:
    """A random forest on pixels' features, then a watershed from distances or from the insides."""
    from scipy import ndimage
    from skimage.feature import multiscale_basic_features
    from skimage.morphology import remove_small_objects
    from skimage.segmentation import find_boundaries, watershed
    from sklearn.ensemble import RandomForestClassifier

    def describe(image: np.ndarray) -> np.ndarray:
        scaled = [(plane - plane.mean()) / plane.std() for plane in image if plane.any()]
        return np.dstack([multiscale_basic_features(plane, sigma_max=16) for plane in scaled])

    borders = setting == "inside and border"
    edges = [borders & find_boundaries(labels, mode="inner") for labels in masks]
    classes = [1 * (labels > 0) + edge for labels, edge in zip(masks, edges, strict=True)]
    how = {"max_depth": 20, "max_samples": 0.05, "random_state": int(given["seed"])}
    features = np.concatenate([describe(image).reshape(image[0].size, -1) for image in shots])
    known = np.concatenate([one.ravel() for one in classes]).astype(int)
    learnt = RandomForestClassifier(100, **how).fit(features, known)
    areas = np.concatenate([np.bincount(labels.ravel())[1:] for labels in masks])
    area = np.median(areas[areas > 0])
    width = np.sqrt(area / np.pi)

    def segment(image: np.ndarray) -> np.ndarray:
        found = learnt.predict(describe(image).reshape(image[0].size, -1)).reshape(image[0].shape)
        cells = remove_small_objects(found > 0, max_size=int(area / 10))
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(cells), width / 4)
        tops = depth == ndimage.maximum_filter(depth, int(width))
        seeds = ndimage.label((found == 1 if borders else tops) & cells)[0]
        return watershed(-depth, seeds, mask=cells)

    return segment


def learn_and_segment(learn: Callable[..., Segmenter], given: Arrays) -> Arrays:
    """``found_K`` int32[H, W], processor seconds of both, and the peak of ``megabytes``."""
    began = time.process_time()
    pairs = listed(given, "shot"), listed(given, "masks")
    segment = learn(given, *pairs, given["setting"].item())
    learnt = time.process_time()
    found = [np.asarray(segment(image), np.int32) for image in listed(given, "query")]
    facts = {"learning": learnt - began, "segmenting": time.process_time() - learnt}
    facts["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return numbered(found=found) | {name: np.array(value) for name, value in facts.items()}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    peers = (ours, cellpose, stardist, forest)
    answer({peer.__name__: partial(learn_and_segment, peer) for peer in peers})
