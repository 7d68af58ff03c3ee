"""The packaged weights, and the run that made them (``python -m scellseg_lib.weights``)."""
