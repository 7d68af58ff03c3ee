"""How fast the library is beside Cellpose 3.1.1.2, and how closely the two agree.

``python -m tests.benchmarks`` runs all benchmarks, ``python -m tests.benchmarks metrics`` one.
Each prints the seconds of both sides, by the wall and by the processor, their ratio and the
agreement. The test suite times nothing, since a busy machine would fail it. The flows are those of
the real images (``SCELLSEG_DATA``). Both sides have two threads.
"""
