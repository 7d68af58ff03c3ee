"""The paper's claims against our results: a verdict each, with numbers and a reason.

The rules were written before the runs that test them.
"""

from scellseg_lib.paper.claims import rules  # noqa: F401  registers them
