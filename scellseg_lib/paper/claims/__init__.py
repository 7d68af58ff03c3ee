"""The paper's claims against our results, by rules that were written before the runs."""

from scellseg_lib.paper.claims import rules  # noqa: F401  registers them
