"""Experiments: a trial says all of one run, the store keeps its scores, `run` computes it."""
