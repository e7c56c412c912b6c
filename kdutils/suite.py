"""The suite: notebooks run headlessly with checked parameters, and the report that they make.

papermill passes over three mistakes in silence; here they are errors: a notebook without exactly one cell tagged
`parameters` (its defaults would overwrite what is given), a name that this cell does not hold, and a cell that is only
looked at with regular expressions (here it is parsed).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kdutils.data.datasets import load_dataset, resolve_dataset
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.networks.weights import resolve_init
from kdutils.report.export import Cover, export_notebook, export_report, read_chapter, write_index
from kdutils.runs import cluster
from kdutils.runs.records import Store, read_record
from kdutils.runs.records import environment as current_environment
from kdutils.settings import settings, write_atomic
from kdutils.studies import assignment, binarised, cifar100, teacher_init
from kdutils.values import explain

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
_PROFILES = {
    "smoke": "a test that everything runs; its numbers mean nothing",
    "quick": "fewer images and epochs than the documents' protocols",
    "overnight": "what two CPU cores do in a night, on all images the documents use",
    "paper": "the documents' full protocols",
}
_STUDIES = {
    "05": binarised,
    "06": binarised,
    "07": teacher_init,
    "08": cifar100,
}  # by a chapter's number; all others: assignment
_OWN_DATA = {"08": "cifar100"}  # the CIFAR set of a chapter's study; of all others cifar10
_CELL_SECONDS = 24 * 3600  # a cell may train for a night, never for ever


class Parameters(BaseModel):
    """Every parameter that a notebook may have, and its allowed values."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    profile: Literal["smoke", "quick", "overnight", "paper"] = "quick"
    dataset: Literal["auto", "cifar", "cifar10", "cifar100", "synthetic"] = "auto"
    init: Literal["auto", "imagenet", "random", "pretrain:cifar100"] = "auto"
    seeds: list[Annotated[int, Field(ge=0)]] | None = None
    teacher_seeds: list[Annotated[int, Field(ge=0)]] | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    kd_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    teacher_file: str | None = None

    @field_validator("seeds", "teacher_seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
            raise ValueError("at least one seed is needed, and they must differ from each other")
        return seeds


def check_parameters(values: dict) -> None:
    """Raise `InputError` for the first unknown name or impossible value."""
    unknown = sorted(values.keys() - Parameters.model_fields.keys())
    if unknown:
        raise InputError(f"unknown parameter {unknown[0]!r}: allowed are {', '.join(Parameters.model_fields)}")
    try:
        Parameters(**values)
    except ValidationError as error:
        raise InputError(explain(error)) from None


def list_notebooks() -> list[Path]:
    """The chapters in their order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def find_notebook(name: str) -> Path:
    """The notebook that `name` means: its number (03), its stem, or a path; raises `InputError` naming those there are."""
    notebooks = list_notebooks()
    for path in notebooks:
        if name in (path.stem, path.name, path.stem.partition("_")[0]) or Path(name).absolute() == path:
            return path
    raise InputError(f"unknown notebook {name!r}: allowed are {', '.join(path.stem for path in notebooks)}")


def notebook_parameters(path: Path) -> dict:
    """Names and defaults of the notebook's tagged cell; raises `InputError` unless there is exactly one such cell of plain values."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged 'parameters': exactly one is needed")
    try:
        return {
            target.id: ast.literal_eval(node.value)
            for node in ast.parse(cells[0].source).body
            for [target] in [node.targets]
        }
    except (SyntaxError, ValueError, AttributeError):
        raise InputError(
            f"the cell tagged 'parameters' of {path.name} may only hold lines such as `name = value`"
        ) from None


@dataclass(frozen=True)
class Result:
    """How a notebook's run ended: its seconds, whether its last version still held, and what went wrong."""

    notebook: Path
    seconds: float
    reused: bool = False
    error: str | None = None


def execute(notebook: Path, values: dict, folder: Path) -> Result:
    """Run a notebook with those of `values` that it has, into `folder`/<name>.ipynb.

    Nothing is run where that file holds the same notebook, parameters and code, and the runs it used are still
    recorded. A notebook that fails is kept as `folder`/failed/<name>.ipynb, and nothing of it is published.
    """
    own = notebook_parameters(notebook)
    given = {name: value for name, value in values.items() if name in own}
    check_parameters(own | given)
    published, failed = folder / notebook.name, folder / "failed" / notebook.name
    fingerprint = _fingerprint(notebook, given)
    if _is_current(published, fingerprint):
        return Result(notebook, 0.0, reused=True)
    began = time.monotonic()
    for old in [*folder.glob(f"{notebook.stem}.*"), *folder.glob(f"*/{notebook.stem[:2]}_*")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        draft, used = Path(scratch) / notebook.name, Path(scratch) / "runs"
        error = _papermill(
            notebook,
            draft,
            given,
            {
                "KD_REPORT_DIR": str(folder.absolute()),
                "KD_CHAPTER": notebook.stem,
                "KD_USED_RUNS": str(used),
                "KD_SCHEDULER": cluster.scheduler() or "",
                "KD_PROGRESS": "bar" if sys.stderr.isatty() else "lines",
            },
        )
        executed = nbformat.read(draft, as_version=4)
        runs = sorted(set(used.read_text().split())) if used.exists() else []
    executed.metadata["kdutils"] = {"fingerprint": fingerprint, "runs": runs, "dataset": given.get("dataset")}
    write_atomic(failed if error else published, nbformat.writes(executed).encode())
    return Result(notebook, time.monotonic() - began, error=error)


def _papermill(notebook: Path, draft: Path, given: dict, settings: dict[str, str]) -> str | None:
    """Execute into `draft`; None, or what went wrong in one line."""
    before = dict(os.environ)
    paths = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
    os.environ.update(settings | {"PYTHONPATH": paths})  # the kernel inherits them
    try:
        papermill.execute_notebook(
            notebook, draft, given, kernel_name="python3", cwd=str(notebook.parent), execution_timeout=_CELL_SECONDS,
            progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr, extra_arguments=["--log-level=ERROR"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"cell {error.exec_count}: {error.ename}: {error.evalue}".splitlines()[0]
    except CellTimeoutError:
        return f"a cell took longer than {_CELL_SECONDS} s"
    except DeadKernelError:
        return "the kernel died (killed, or out of memory)"
    except RuntimeError as error:  # nbclient's word for a kernel that does not start in time
        return f"the kernel did not start: {error}".splitlines()[0]
    finally:
        os.environ.clear()
        os.environ.update(before)
    return None


def _fingerprint(notebook: Path, given: dict) -> str:
    """Of all that an executed notebook depends on beside its runs."""
    sources = [notebook, ROOT / "reports" / "published.csv", *sorted((ROOT / "kdutils").rglob("*.*"))]
    content = b"".join(path.read_bytes() for path in sources if path.is_file() and path.suffix != ".pyc")
    if "dataset" in given:
        content += load_dataset(given["dataset"]).digest.encode()
    return hashlib.sha256(content + json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]


def _is_current(published: Path, fingerprint: str) -> bool:
    made = _made(published)
    return made.get("fingerprint") == fingerprint and all((settings().runs_dir / key).is_dir() for key in made["runs"])


@dataclass(frozen=True)
class Order:
    """What is to be reported: notebooks in their order, values for all of them, and values for one by its stem."""

    notebooks: list[Path]
    values: dict
    own_values: dict[str, dict]

    def values_of(self, notebook: Path) -> dict:
        """All that is given to one notebook."""
        return self.values | self.own_values.get(notebook.stem, {})

    @property
    def folder(self) -> Path:
        """Where this profile's report lies."""
        return ROOT / "reports" / self.values["profile"]


def make_order(values: dict, only: list[str] | None = None, settings: list[str] = []) -> Order:
    """Check everything before anything is run; raises `InputError`.

    settings: `notebook.name=value` for one notebook, or `name=value` for all that have that parameter.
    """
    notebooks = [find_notebook(name) for name in only] if only else list_notebooks()
    values, own_values, shared = dict(values), {}, set()
    for setting in settings:
        where, name, value = _parse(setting)
        if where:
            notebook = find_notebook(where)
            if notebook not in notebooks:
                raise InputError(
                    f"{setting!r} is for {notebook.stem}, which is not run: allowed are {', '.join(path.stem for path in notebooks)}"
                )
            allowed = notebook_parameters(notebook)
            if name not in allowed:
                raise InputError(f"{notebook.stem} has no parameter {name!r}: allowed are {', '.join(allowed)}")
            own_values.setdefault(notebook.stem, {})[name] = value
        else:
            values[name] = value
            shared.add(name)
    for given in [values, *own_values.values()]:
        check_parameters(given)
        if given.get("teacher_file"):  # a chapter runs in another folder than the command
            given["teacher_file"] = str(Path(given["teacher_file"]).expanduser().absolute())
    offered = {name for notebook in notebooks for name in notebook_parameters(notebook)}
    if useless := sorted(shared - offered - {"profile", "dataset", "init"}):
        raise InputError(
            f"no notebook that is run has a parameter {useless[0]!r}: allowed are {', '.join(sorted(offered))}"
        )
    cluster.workers(), Store.default()  # they complain before anything is run
    wanted, values["init"] = values.get("dataset", "auto"), resolve_init(values.get("init", "auto"))
    sets = {path.stem: _OWN_DATA.get(path.stem[:2], "cifar10") for path in notebooks}
    found = {own: resolve_dataset(wanted, own) for own in dict.fromkeys(sets.values())}
    values["dataset"] = found[sets[notebooks[0].stem]]
    for stem, own in sets.items():
        if found[own] != values["dataset"]:
            own_values[stem] = {"dataset": found[own]} | own_values.get(stem, {})
    order = Order(notebooks, values, own_values)
    for notebook in notebooks:
        study = _STUDIES.get(notebook.stem[:2], assignment)
        given = {
            name: value
            for name, value in order.values_of(notebook).items()
            if name in inspect.signature(study).parameters
        }
        sizes = study(**given).data
        split_indices(
            load_dataset(sizes.name).train_labels, *sizes.split
        )  # a part of a data set may be too small for the profile
    if settings().scheduler:
        with cluster.connect(Store.default(), {order.values_of(notebook)["dataset"] for notebook in notebooks}):
            pass  # it complains
    return order


def _parse(setting: str) -> tuple[str, str, object]:
    target, equals, text = setting.partition("=")
    where, _, name = target.rpartition(".")
    if not (equals and name):
        raise InputError(f"cannot read {setting!r}: write notebook.name=value, such as 03.temperature=4")
    try:
        return where, name, ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return where, name, text


def report(order: Order) -> list[Result]:
    """Run the notebooks one after the other, export them, and lead through them with index.html and report.pdf.

    A notebook that fails does not stop the others.
    """
    results = []
    for number, notebook in enumerate(order.notebooks, 1):
        print(f"[{number}/{len(order.notebooks)}] {notebook.stem}", flush=True)
        results.append(execute(notebook, order.values_of(notebook), order.folder))
        if results[-1].error:
            print(f"    failed: {results[-1].error}", flush=True)
    if not (all(result.reused for result in results) and _is_published(order.folder)):
        publish(order)
    return results


def _is_published(folder: Path) -> bool:
    """Whether index.html, which is written last, is newer than all chapters: a command may have been killed before."""
    index, chapters = folder / "index.html", list(folder.glob("*.ipynb"))
    pages = [folder / "report.pdf", *(path.with_suffix(suffix) for path in chapters for suffix in (".html", ".pdf"))]
    made = [path.stat().st_mtime_ns for path in [*chapters, *folder.glob("failed/*.ipynb")]]
    return index.is_file() and all(page.is_file() for page in pages) and max(made) <= index.stat().st_mtime_ns


def publish(order: Order) -> None:
    """Export all of the profile's executed notebooks, and write report.pdf, the runs' summaries and index.html."""
    folder = order.folder
    whole = [folder / notebook.name for notebook in list_notebooks() if (folder / notebook.name).is_file()]
    failed = [
        folder / "failed" / notebook.name
        for notebook in list_notebooks()
        if (folder / "failed" / notebook.name).is_file()
    ]
    for previous, chapter, following in zip([None, *whole], whole, [*whole[1:], None]):
        export_notebook(chapter, folder, index=folder / "index.html", previous=previous, following=following)
    _keep_summaries(whole, folder / "records")
    cover = _cover(order, whole)
    if whole:
        export_report(whole, folder / "report.pdf", cover)
    else:
        (folder / "report.pdf").unlink(missing_ok=True)
    chapters = [read_chapter(path, folder) for path in whole]
    chapters += [read_chapter(path, folder, error="it failed; failed/ holds it for diagnosis") for path in failed]
    write_index(folder / "index.html", cover, sorted(chapters, key=lambda chapter: chapter.stem))


def _keep_summaries(executed: list[Path], folder: Path) -> None:
    """One JSON file for every run that these notebooks rest on: its spec, metrics, cost and provenance."""
    keys = {key for path in executed for key in _made(path).get("runs", [])}
    for old in folder.glob("*.json"):
        if old.stem not in keys:
            old.unlink()
    for key in sorted(keys):
        try:
            record = read_record(settings().runs_dir / key)
        except (OSError, ValueError, KeyError):  # of an earlier command with another store: what was kept of it stays
            continue
        content = {"spec": record.spec.model_dump(mode="json", exclude_defaults=True)} | record.summary
        write_atomic(folder / f"{key}.json", json.dumps(content, indent=1).encode())


def _made(published: Path) -> dict:
    """What `execute` noted in an executed notebook: its fingerprint and the keys of its runs."""
    try:
        return nbformat.read(published, as_version=4).metadata.get("kdutils", {})
    except (OSError, ValueError, AttributeError):  # not what `execute` wrote: it is made anew
        return {}


def _cover(order: Order, chapters: list[Path]) -> Cover:
    environment, named = (
        current_environment(detect_runtime()),
        dict.fromkeys(order.values_of(notebook)["dataset"] for notebook in order.notebooks),
    )
    facts = {
        "Data": "; ".join(f"{dataset.title} (digest {dataset.digest})" for dataset in map(load_dataset, named)),
        "Profile": f"{order.values['profile']}: {_PROFILES[order.values['profile']]}",
        "ResNets start from": "ImageNet weights" if order.values["init"] == "imagenet" else "random weights",
        "Hardware": environment["hardware"],
        "Versions": f"Python {environment['python']}, torch {environment['torch']}, torchvision {environment['torchvision']}",
        "Code": environment["code"],
        "Date": datetime.now().strftime("%-d %B %Y"),
    }
    subtitle = "What small networks learn from large ones"
    return Cover("Knowledge distillation", subtitle, facts, _notice(chapters))


def _notice(chapters: list[Path]) -> str | None:
    """A warning where chapters rest on synthetic data, which must never pass for CIFAR."""
    synthetic = [path.stem for path in chapters if _made(path).get("dataset") == "synthetic"]
    if not synthetic:
        return None
    where, there = ("", "here") if len(synthetic) == len(chapters) else (f" in {', '.join(synthetic)}", "there")
    return f"Synthetic data{where}: procedural images stand in for CIFAR. Nothing {there} is a result on CIFAR."
