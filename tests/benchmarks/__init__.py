"""How fast the library is beside Cellpose 3.1.1.2, and how closely the two agree.

``python -m tests.benchmarks`` runs all benchmarks, ``python -m tests.benchmarks metrics`` one.
Each prints the seconds of both sides, by the wall and by the processor, their ratio and the
agreement. The test suite times nothing, since a busy machine would fail it. The flows are those of
the real images (``SCELLSEG_DATA``).

- `peer` makes the environment of the peer under ``runs/peer`` (git-ignored, once, some hundred
  megabytes) and runs scripts in it; arrays travel as ``.npz`` without pickles.
- `peer_side` is what runs there: it sees Cellpose and not this library.
- `clock` takes the time on both sides alike. Both sides have two threads.
- `label_pairs` draws the random label images, also for ``tests/test_metrics.py``.
- ``bench_*`` are the benchmarks. ``python -m tests.benchmarks.bench_metrics --record`` rewrites
  ``tests/data/cellpose_counts.csv``, the peer's counts that every test run compares with.
"""
