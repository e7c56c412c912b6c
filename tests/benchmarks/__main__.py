"""`python -m tests.benchmarks [NAME] [--json FILE]`: measure, print, keep; the names are those of `BENCHMARKS`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .benchmark import benchmark, benchmark_binary, benchmark_cifar100
from .captured import benchmark_captured
from .methods import benchmark_methods
from .scaling import benchmark_scaling

BENCHMARKS = {"distillation": benchmark, "cifar100": benchmark_cifar100, "binary": benchmark_binary}
BENCHMARKS |= {"methods": benchmark_methods, "scaling": benchmark_scaling, "captured": benchmark_captured}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Measure the suite's training speed."
    )
    parser.add_argument("what", nargs="?", choices=BENCHMARKS, default="distillation")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args(arguments)
    BENCHMARKS[options.what](json_file=options.json)


if __name__ == "__main__":
    main()
