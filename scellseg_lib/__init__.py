"""Scellseg: style-aware cell instance segmentation by pre-training and contrastive fine-tuning.

Five verbs do the whole job::

    worms = scellseg.load_dataset("bbbc010_elegans")
    model = scellseg.load_model("scellseg")
    tuned = scellseg.finetune(model, worms.shots(8, seed=0), queries=worms.query)
    cells = scellseg.segment(tuned, worms.query)
    scores = scellseg.evaluate(cells, worms.query)
"""

from scellseg_lib.datasets.load import load_dataset
from scellseg_lib.datasets.weights import load_model
from scellseg_lib.errors import ScellsegError
from scellseg_lib.finetuning import finetune
from scellseg_lib.metrics import evaluate
from scellseg_lib.model import Model
from scellseg_lib.pretraining import pretrain
from scellseg_lib.samples import Dataset, Sample
from scellseg_lib.segmentation import segment

__all__ = [
    "Dataset",
    "Model",
    "Sample",
    "ScellsegError",
    "evaluate",
    "finetune",
    "load_dataset",
    "load_model",
    "pretrain",
    "segment",
]
