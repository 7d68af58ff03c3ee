"""The paper's claims against our results: a verdict each, with numbers and a reason.

Each claim of ``data_manifests/paper_claims.yaml`` has one rule, whose docstring says what counts.
The rules were written before the runs that test them. Where a difference is too small for the
number of random states, the claim is not tested at this scale.
"""

from scellseg_lib.paper.claims import rules  # noqa: F401  registers them
