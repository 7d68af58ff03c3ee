"""Run the benchmarks named on the command line, or all."""

import argparse

from tests.benchmarks import (
    bench_flows,
    bench_metrics,
    bench_segment,
    bench_training,
    bench_workbench,
)

BENCHMARKS = {
    "metrics": bench_metrics.main,
    "flows": bench_flows.main,
    "segment": bench_segment.main,
    "training": bench_training.main,
    "workbench": bench_workbench.main,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in names:
        BENCHMARKS[name]()
