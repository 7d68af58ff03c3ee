"""Experiments of the paper: trials, where their results are kept, and how they are run."""
