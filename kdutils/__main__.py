"""The command line: `python -m kdutils --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from kdutils.errors import InputError

_EPILOG = """\
examples:
  python -m kdutils report                              the whole suite, profile quick
  python -m kdutils report --profile paper --seeds 0,1,2
  python -m kdutils report --only 01,03 -p 03.temperature=4 -p 03.kd_weight=0.9
  python -m kdutils run 03_one_teacher -p temperature=4
  python -m kdutils report --scheduler tcp://host:8786  the runs on a Dask cluster
  python -m kdutils data                                what data there is; `data cifar10` fetches it
  python -m kdutils export my_executed_notebook.ipynb   HTML and PDF beside it
  python -m kdutils pack wrn_22-d4884a27c5571bbd bonn.safetensors

folders, by environment variable:
  KD_DATA_DIR   data sets and pretrained weights (default: data/ of the project)
  KD_RUNS_DIR   finished runs and teacher tables (default: runs/ of the project)
  KD_WORKERS    worker processes (default: one for each core)
  KD_SCHEDULER  a Dask scheduler, as --scheduler (default: none, all runs on this machine)

A run that is recorded is never run again; an interrupted suite goes on where it was when the command is repeated.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code: 0, 1 if a notebook failed, 2 if the input cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        print(f"kdutils: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nkdutils: interrupted; finished runs are kept, the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m kdutils",
        description="Course reports on knowledge distillation.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    report = commands.add_parser("report", help="run the notebooks and make the report")
    report.add_argument("--only", help="notebooks by number or name, separated by commas")
    report.set_defaults(command=_report)
    run = commands.add_parser("run", help="run one notebook and export it")
    run.add_argument("only", metavar="NOTEBOOK", help="number, name or path")
    run.set_defaults(command=_report)
    for command in (report, run):
        command.add_argument(
            "--profile",
            default="quick",
            help="smoke (seconds), quick (minutes; the default), overnight (two CPU cores) or paper (the full protocol)",
        )
        command.add_argument(
            "--dataset",
            default="auto",
            help="cifar (each study's own: CIFAR-10 or CIFAR-100), synthetic, or auto (default): CIFAR where it can be had",
        )
        command.add_argument("--seeds", help="seeds separated by commas, such as 0,1,2 (default: the profile's)")
        command.add_argument(
            "-p",
            dest="settings",
            action="append",
            default=[],
            metavar="[NOTEBOOK.]NAME=VALUE",
            help="a parameter of one notebook, or of all that have it",
        )
        command.add_argument(
            "--scheduler",
            metavar="ADDRESS",
            help="a Dask scheduler such as tcp://host:8786, whose workers do the runs (default: KD_SCHEDULER, else this machine's processes)",
        )

    data = commands.add_parser("data", help="fetch, check and list data sets")
    data.add_argument(
        "names", nargs="*", metavar="NAME", help="cifar10, cifar100 or synthetic; none: list what is here"
    )
    data.add_argument("--rebuild", action="store_true", help="build the cache anew")
    data.set_defaults(command=_data)

    export = commands.add_parser("export", help="executed notebooks to HTML and PDF, beside them")
    export.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    export.set_defaults(command=_export)

    pack = commands.add_parser("pack", help="write a recorded binary network at one bit for each binary weight")
    pack.add_argument("run", metavar="RUN", help="a run's key in KD_RUNS_DIR, or a record's folder")
    pack.add_argument("out", metavar="OUT", type=Path, help="the file to write, such as bonn.safetensors")
    pack.set_defaults(command=_pack)

    benchmark = commands.add_parser("benchmark", help="measure training speed against the usual loop")
    benchmark.add_argument(
        "what",
        nargs="?",
        choices=("distillation", "cifar100", "binary"),
        default="distillation",
        help="distillation on CIFAR-10 (default) or CIFAR-100, or binary networks beside their full-precision twins",
    )
    benchmark.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    benchmark.set_defaults(command=_benchmark)

    return parser


def _report(options: argparse.Namespace) -> int:
    from kdutils import suite

    if options.scheduler is not None:
        os.environ["KD_SCHEDULER"] = options.scheduler  # the notebooks' kernels inherit it
    only = options.only.split(",") if options.only is not None else None
    values = {"profile": options.profile, "dataset": options.dataset}
    if options.seeds is not None:
        values["seeds"] = _seeds(options.seeds)
    if options.command is _report and only and len(only) == 1:  # for a single notebook its name may be left out
        settings = [s if "." in s.partition("=")[0] else f"{only[0]}.{s}" for s in options.settings]
    else:
        settings = options.settings
    order = suite.make_order(values, only, settings)
    results = suite.report(order)
    _print_summary(results)
    print(f"\nThe report: {order.folder / 'index.html'}")
    return 1 if any(result.error for result in results) else 0


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds takes whole numbers separated by commas, got {text!r}") from None


def _print_summary(results: list) -> None:
    width = max(len(result.notebook.stem) for result in results)
    print(f"\n{'notebook':<{width}}  {'seconds':>7}  result")
    for result in results:
        outcome = result.error or ("unchanged" if result.reused else "done")
        print(f"{result.notebook.stem:<{width}}  {result.seconds:>7.1f}  {outcome}")


def _data(options: argparse.Namespace) -> int:
    from kdutils.data import datasets as data
    from kdutils.data.datasets import DATASETS
    from kdutils.settings import settings

    for name in options.names:
        if name not in DATASETS:
            raise InputError(f"unknown data set {name!r}: allowed are {', '.join(DATASETS)}")
        if options.rebuild:
            data.build_dataset(name)
        data.load_dataset(name)
    print(f"{settings().data_dir}:")
    for name in DATASETS:
        if data.is_cached(name):
            found = data.load_dataset(name)
            print(
                f"  {name:<10} {len(found.train_labels):>6,} training and {len(found.test_labels):>6,} test images, {len(found.classes)} classes, digest {found.digest}"
            )
        else:
            print(f"  {name:<10} not here; `python -m kdutils data {name}` gets it")
    return 0


def _export(options: argparse.Namespace) -> int:
    from kdutils.report.export import export_notebook

    for notebook in options.notebooks:
        for path in export_notebook(notebook, notebook.parent):
            print(path)
    return 0


def _pack(options: argparse.Namespace) -> int:
    from kdutils.data.datasets import first_test_images, load_dataset
    from kdutils.networks import counting
    from kdutils.networks import packed as packing
    from kdutils.runs.records import recorded

    record = recorded(options.run)
    images = first_test_images(
        load_dataset(record.spec.data.name), 8, record.spec.data.normalisation
    )  # first: without data, no file
    packing.pack(record.load_model(), record.network, options.out)
    model, packed = record.load_model(), packing.load_packed(options.out)
    exact = packing.check_exactness(model, packed, images)
    print(counting.accounting_totals(counting.accounting(model)).to_string(index=False, float_format="{:,.0f}".format))
    print(
        f"{exact['differ'].sum()} of {exact['outputs compared'].sum():,} outputs differ from the float network's, over {len(exact) - 1} binary layers and the logits of 8 test images"
    )
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    from tests.benchmarks import benchmark

    measure = {
        "distillation": benchmark.benchmark,
        "cifar100": benchmark.benchmark_cifar100,
        "binary": benchmark.benchmark_binary,
    }
    measure[options.what](json_file=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
