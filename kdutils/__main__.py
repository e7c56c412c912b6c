"""The command line: `python -m kdutils --help`."""

import argparse
import atexit
import errno
import gc
import os
import signal
import sys
from pathlib import Path

from kdutils.errors import InputError
from kdutils.settings import ROOT, absolute, pin_settings, settings

# nbformat imports jsonschema, which would spend seconds building a grammar of web addresses, not needed for notebooks
sys.modules.setdefault("rfc3987_syntax", None)

_EPILOG = """\
examples:
  python -m kdutils report                              the whole suite, profile quick
  python -m kdutils report --profile paper --seeds 0,1,2
  python -m kdutils report --only 01,03 -p 03.temperature=4 -p 03.kd_weight=0.9
  python -m kdutils run 03_one_teacher -p temperature=4
  python -m kdutils data                                what data there is; `data cifar10` fetches it
  python -m kdutils data add flowers photos/flowers     one's own images, photos/flowers/<class>/*
  python -m kdutils export my_executed_notebook.ipynb   HTML and PDF beside it
  python -m kdutils compare reports/quick reports/reference/quick
  python -m kdutils pack wrn_10_1-b3e1d31d3525aa11 bonn.safetensors

environment (folders are relative to the current folder; empty means not set):
  KD_DATA_DIR   data sets and pretrained weights (default: data/ of the project)
  KD_RUNS_DIR   finished runs and teacher tables (default: runs/ of the project)
  KD_WORKERS    worker processes (default: one for each core; on a GPU one)
  KD_SCHEDULER  a Dask scheduler, like --scheduler (default: none, all runs on this machine)

A run that is recorded is never run again; an interrupted suite goes on where it was when the command is repeated.
"""

_REMEDIES = {
    errno.EACCES: "give a folder that you may read and write",
    errno.ENOSPC: "free space there (for drafts, TMPDIR names another folder)",
    errno.ENAMETOOLONG: "give a shorter name",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns 0, or 1 if a notebook failed or reports differ, or 2 if the input cannot be used."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal may lack a character of a path or progress bar
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["data"]:  # argparse accepts no option between names
        arguments = sorted(arguments, key="--rebuild".__eq__)
    options = vars(_parser().parse_args(arguments))
    try:
        scheduler = options.pop("scheduler", None)
        pin_settings(**({} if scheduler is None else {"scheduler": scheduler}))
        code = options.pop("command")(**options)
        sys.stdout.flush()  # here, because a failure can still be reported
        return code
    except InputError as error:
        print(f"kdutils: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nkdutils: interrupted; finished runs are kept, the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        print(f"kdutils: {error}: {_REMEDIES[error.errno]}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m kdutils", epilog=_EPILOG, formatter_class=layout)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, explanation: str):
        added = commands.add_parser(name, help=explanation)
        added.set_defaults(command=function)
        return added.add_argument

    report = command("report", _report, "run the notebooks and make the report")
    report(
        "--only",
        type=lambda names: [name.strip() for name in names.split(",")],
        help="numbers or names, separated by commas",
    )
    run = command("run", _report, "run one notebook and export it")
    run("only", metavar="NOTEBOOK", nargs=1, help="number, name or path")
    for add in (report, run):
        add("--profile", help="smoke (a test), quick (the default), overnight, or paper (all of it)")
        add(
            "--dataset",
            help="cifar, synthetic, one's own (`data add`), or auto (the default): cifar if available",
        )
        add("--seeds", help="seeds separated by commas, such as 0,1,2 (default: the profile's)")
        explanation = "a parameter of one notebook, or of all that have it"
        add("-p", dest="given", action="append", default=[], metavar="[NOTEBOOK.]NAME=VALUE", help=explanation)
        add("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers do the runs, e.g. tcp://host:8786")
    command("lab", _lab, "open the notebooks in JupyterLab")
    data = command("data", _data, "fetch, check and list data sets")
    data("names", nargs="*", metavar="NAME", help="cifar10, cifar100, synthetic, or add NAME FOLDER; no name: list all")
    data("--rebuild", action="store_true", help="rebuild the cache; with add, replace the set of that name")
    export = command("export", _export, "write executed notebooks as HTML and PDF, beside them")
    export("notebooks", nargs="+", metavar="NOTEBOOK")
    compare = command(
        "compare", _compare, "compare two reports; exit code 1 if numbers differ, or no number is in both"
    )
    compare("first", metavar="A", help="the folder of a report, with its results.json")
    reference = ROOT / "reports" / "reference" / "quick"
    compare("second", metavar="B", nargs="?", default=reference, help="default: reports/reference/quick")
    pack = command("pack", _pack, "write a recorded binary network at one bit for each binary weight")
    pack("run", metavar="RUN", help="a run's key in KD_RUNS_DIR, or a record's folder")
    pack("out", metavar="OUT", help="the file to write, such as bonn.safetensors")
    return parser


def _report(only: list[str] | None, seeds: str | None, given: list[str], **values: str | None) -> int:
    from kdutils import suite

    try:
        numbers = {} if seeds is None else {"seeds": [int(seed) for seed in seeds.split(",")]}
    except ValueError:
        raise InputError(f"--seeds takes whole numbers separated by commas, got {seeds!r}") from None
    asked = {name: value for name, value in values.items() if value is not None}  # else the notebooks' defaults
    plan = suite.make_plan(asked | numbers, only, given)
    if plan.profile in ("overnight", "paper"):
        print("measured on a few batches of each network; whole studies come one after the other:", flush=True)
        for line in suite.foretell(plan):
            print(f"  {line}", flush=True)
    results = suite.report(plan)
    width = max(len(result.notebook.stem) for result in results)
    print(f"\n{'notebook':<{width}}  {'seconds':>7}  result")
    for result in results:
        print(f"{result.notebook.stem:<{width}}  {result.seconds:>7.1f}  {result.error or result.outcome}")
    print(f"\nThe report: {plan.folder / 'index.html'}")
    return 1 if any(result.error for result in results) else 0


def _lab() -> int:
    from jupyterlab.labapp import LabApp

    from kdutils.suite import list_notebooks

    os.chdir(list_notebooks()[0].parent)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this interpreter's kernel, not one that the user has installed
    LabApp.launch_instance(["--allow-root"])
    return 0


def _data(names: list[str], rebuild: bool) -> int:
    from kdutils.data import datasets

    if names[:1] == ["add"]:
        return _add(names[1:], rebuild)
    if rebuild and not names:
        raise InputError("--rebuild needs the names of the data sets: `data cifar10 --rebuild`")
    for name in names:
        if rebuild and name in datasets.own_datasets():
            raise InputError(f"{name} is made of your own files: give them, `data add {name} FOLDER --rebuild`")
        if rebuild:
            datasets.build_dataset(name)
        datasets.load_dataset(name)
    print(f"{settings().data_dir}:")
    known = (*datasets.DATASETS, *datasets.own_datasets())
    for name in known:
        what = f"not here; `python -m kdutils data {name}` gets it"
        if datasets.is_cached(name):
            found = datasets.load_dataset(name)
            sizes = f"{len(found.train_labels):>6,} training and {len(found.test_labels):>6,} test images"
            what = f"{sizes}, {len(found.classes)} classes, digest {found.digest}"
        print(f"  {name:<{max(map(len, known))}} {what}")
    return 0


def _add(given: list[str], replace: bool) -> int:
    from kdutils.data.datasets import load_dataset
    from kdutils.data.own import add
    from kdutils.report.tables import dataset_table
    from kdutils.specs import DataSpec

    if len(given) != 2:
        raise InputError(f"data add takes a name and a folder, such as `data add flowers photos/`, got {given}")
    skipped = add(given[0], absolute(given[1]), replace)
    found = load_dataset(given[0])
    spec = DataSpec(name=found.name, classes=len(found.classes), digest=found.digest)
    print(dataset_table(found, spec).drop(columns="validation").to_string(index=False))
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(skipped.items()))
    print(f"skipped files that are no PNG, JPEG or WebP: {skipped.total():,} ({kinds})\n" * bool(skipped), end="")
    print(f"{found.title}: {len(found.classes):,} classes, digest {found.digest}; use it with --dataset {found.name}")
    return 0


def _export(notebooks: list[str]) -> int:
    from kdutils.report.publish import export

    for notebook in map(absolute, notebooks):
        print(*export(notebook, notebook.parent), sep="\n")
    return 0


def _compare(first: str, second: str | Path) -> int:
    from kdutils.report.comparison import compare_reports
    from kdutils.report.results import read_results

    folders = absolute(first), absolute(second)
    text, differ = compare_reports(*map(read_results, folders))
    print(f"A: {folders[0]}\nB: {folders[1]}\n\n{text}")
    return int(differ)


def _pack(run: str, out: str) -> int:
    from kdutils.data.datasets import first_test_images, load_dataset
    from kdutils.networks import counting, packed
    from kdutils.runs.records import Store

    record, path = Store().read(run), absolute(out)
    if record.diverged:
        raise InputError(f"{record.spec.key} diverged in epoch {record.summary['diverged']}: pack a run that did not")
    data, model = record.spec.data, record.load_model()
    images = first_test_images(load_dataset(data.name), 8, data.normalisation)  # first: no file without data
    packed.pack(model, record.network, path)
    exact = packed.check_exactness(model, packed.load_packed(path), images)
    print(counting.accounting_totals(counting.accounting(model)).to_string(index=False, float_format="{:,.0f}".format))
    compared = f"{exact['differ'].sum()} of {exact['outputs compared'].sum():,} outputs differ from the float network's"
    print(f"{compared}, over {len(exact) - 1} binary layers and the logits of {len(images)} test images")
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def _forgo_collections() -> None:
    """Collect garbage seldom, and not at exit, because searching all imported modules takes long and finds nothing.

    If Triton was imported, garbage is collected at exit, because its bindings complain of objects that are not freed.
    """
    gc.set_threshold(100_000, 50, 50)
    atexit.register(lambda: "triton" in sys.modules or gc.freeze())


_ENDS = signal.SIGINT, signal.SIGTERM  # SIGTERM, which ends a job, tidies up as Ctrl-C does


def _interrupt(*_) -> None:
    """Raise `KeyboardInterrupt`, and ignore more signals, which would break off the tidying up that follows."""
    for number in _ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    _forgo_collections()
    for number in _ENDS:
        signal.signal(number, _interrupt)
    sys.exit(main())
