"""How fast the library is beside Cellpose 3.1.1.2, and how closely the two agree.

``python -m tests.benchmarks`` runs all benchmarks, ``python -m tests.benchmarks metrics`` one, on
the real images (``SCELLSEG_DATA``) and by two threads on either side. No test measures a time.
"""
