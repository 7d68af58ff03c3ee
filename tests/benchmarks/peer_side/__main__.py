"""Load the inputs, run one script's ``main``, save what it returns."""

import os
import runpy
import sys

import numpy as np
import torch

script, given, answer = sys.argv[1:]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
main = runpy.run_path(script)["main"]
with np.load(given, allow_pickle=False) as inputs:
    outputs = main(dict(inputs))
np.savez(answer, allow_pickle=False, **outputs)
