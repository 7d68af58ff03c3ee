"""Run the benchmarks named on the command line, or all: modules of this package."""

import sys
from importlib import import_module

BENCHMARKS = ("metrics", "flows", "segment", "training", "workbench")

if __name__ == "__main__":
    for name in sys.argv[1:] or BENCHMARKS:
        import_module(f"tests.benchmarks.bench_{name}").main()
