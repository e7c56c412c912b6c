"""Runs the suite's notebooks headlessly, with checked parameters, and makes the report from them.

Two mistakes about which papermill is silent are errors here: a notebook without exactly one cell tagged `parameters`
(its defaults would overwrite the values given), and a name that this cell, which is parsed, does not assign.
"""

import ast
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Literal

import nbformat

from kdutils.data.datasets import DATASETS, TITLES, is_cached, load_dataset, own_datasets
from kdutils.errors import InputError
from kdutils.kernel import Kernel
from kdutils.machine import detect_runtime
from kdutils.networks.registry import IMAGENET_NETWORKS
from kdutils.networks.weights import file_digest, imagenet_digest
from kdutils.parameters import check_parameters
from kdutils.report import publish as exports
from kdutils.report.chapter import open_study
from kdutils.runs.cluster import connect, scheduler
from kdutils.runs.estimate import estimate
from kdutils.runs.records import Store, environment as current_environment, read_record
from kdutils.settings import ROOT, absolute, settings, write_atomic
from kdutils.specs import RunSpec
from kdutils.studies import PROFILES, STUDIES

NOTEBOOKS = ROOT / "notebooks"
_NO_LITERAL = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)  # all that `ast.literal_eval` raises


def list_notebooks() -> list[Path]:
    """The chapters in order; raises `InputError` if none exist, as in an installed package, or two share a number."""
    if found := sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        numbers = [path.stem[:2] for path in found]
        if copies := [path.name for path in found if numbers.count(path.stem[:2]) > 1]:
            raise InputError(f"{' and '.join(copies)} have one number: give the copy another one, or move it elsewhere")
        return found
    raise InputError(f"there are no chapters in {NOTEBOOKS}: get the project's folder and `pip install -e .` in it")


def find_notebook(name: str) -> Path:
    """The notebook whose number (03), stem or path is `name`; raises `InputError`, listing all, if there is none."""
    for path in list_notebooks():
        if name in (path.stem, path.name, path.stem.partition("_")[0]) or absolute(name).resolve() == path.resolve():
            return path
    raise InputError(f"unknown notebook {name!r}: allowed are {', '.join(path.stem for path in list_notebooks())}")


def notebook_parameters(path: Path) -> dict:
    """Names and defaults in the cell tagged `parameters`; raises `InputError` unless it is one cell of plain values."""
    cells = [cell for cell in exports.read_notebook(path).cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise InputError(f"{path.name} has {len(cells)} cells tagged 'parameters': exactly one is needed")
    try:
        assigned = [(node.targets, node.value) for node in ast.parse(cells[0].source).body]
        return {target.id: ast.literal_eval(value) for [target], value in assigned}
    except (*_NO_LITERAL, AttributeError):
        needed = "may only hold lines such as `name = value`"
        raise InputError(f"the cell tagged 'parameters' of {path.name} {needed}") from None


def _noted(path: Path) -> dict:
    """The notebook's own metadata: its study and, once executed, its data set, fingerprint and the keys of its runs."""
    try:
        return exports.read_notebook(path).metadata.get("kdutils", {})
    except InputError:  # not a file that `execute` wrote: it will be made again
        return {}


@dataclass(frozen=True)
class Plan:
    """What is to be reported: a profile, and the notebooks in order, each with the values that it is given."""

    profile: str
    chapters: dict[Path, dict]

    @property
    def folder(self) -> Path:
        """The folder of this profile's report; a report on one's own data has a separate folder."""
        return ROOT / "reports" / "-".join([self.profile, *sorted(_datasets(self.chapters).keys() - DATASETS.keys())])


def _datasets(chapters: dict[Path, dict]) -> dict[str, None]:
    """The names of the data sets that chapters with these values use, each once, in the order of the chapters."""
    asked = (given.get("dataset") for given in chapters.values())
    return dict.fromkeys(name for name in asked if name not in (None, "auto", "cifar"))


def make_plan(values: dict, only: list[str] | None = None, given: Iterable[str] = ()) -> Plan:
    """Check everything before anything is run, and decide which data and weights are used; raises `InputError`.

    values: parameters for all notebooks that have them. given: settings such as `notebook.name=value` for one notebook,
    or `name=value` for all notebooks that have this parameter.
    """
    notebooks = [find_notebook(name) for name in only] if only else list_notebooks()
    offered = {path: notebook_parameters(path) for path in notebooks}
    chapters = {path: dict(values) for path in notebooks}
    for where, name, value in sorted(map(_parse, given), key=lambda parsed: bool(parsed[0])):  # for one notebook: last
        meant = [path for path in notebooks if not where or path == find_notebook(where)]
        stems = ", ".join(path.stem for path in meant or notebooks)
        if not meant:
            raise InputError(f"{find_notebook(where).stem} is not among what is run, {stems}: add it there")
        if not any(name in offered[path] for path in meant):
            names = ", ".join(dict.fromkeys(key for path in meant for key in offered[path]))
            raise InputError(f"{name!r} is no parameter of what is run, {stems}: allowed are {names}")
        for path in meant:
            chapters[path][name] = value
    whole = {path: offered[path] | chapters[path] for path in notebooks}
    for path in notebooks:
        check_parameters(whole[path])
    if out := [path for path in notebooks if not only and _cannot_show(path, whole[path].get("dataset"))]:
        print(f"Left out, for they are about CIFAR: {', '.join(path.stem for path in out)}.")
    notebooks = [path for path in notebooks if path not in out]
    profile, *others = dict.fromkeys(whole[path].get("profile", "quick") for path in notebooks)
    if others:
        raise InputError(f"a report has one profile, got {profile!r} and {others[0]!r}: give it by --profile")
    store = Store()  # raises `InputError` if it cannot be written
    with redirect_stdout(StringIO()) as said:  # chapters of one study all print the same stand-ins
        chapters = {path: chapters[path] | {"profile": profile} for path in notebooks}
        plan = Plan(profile, {path: _resolve(path, offered[path], asked) for path, asked in chapters.items()})
    print(*dict.fromkeys(said.getvalue().splitlines(keepends=True)), sep="", end="", flush=True)
    if settings().scheduler:
        with connect(store, _datasets(plan.chapters)):  # raises `InputError` if no worker fits
            pass
    return plan


def _parse(setting: str) -> tuple[str, str, object]:
    target, equals, text = setting.partition("=")
    where, dot, name = target.rpartition(".")
    if not (equals and name) or (dot and not where):
        raise InputError(f"cannot read {setting!r}: write notebook.name=value, such as 03.temperature=4")
    try:
        value = ast.literal_eval(text)
    except _NO_LITERAL:
        value = text.split(",") if name == "methods" else text
    return where, name, list(value) if isinstance(value, tuple) else value  # seeds=0,1 is a list, too


def _resolve(notebook: Path, offered: dict, values: dict) -> dict:
    """The `values` of parameters that the notebook has, with the data and the weights that its study uses here."""
    given = {name: value for name, value in values.items() if name in offered}
    if given.get("teacher_file"):  # because a chapter runs in another folder than the command
        given["teacher_file"] = str(absolute(given["teacher_file"]))
    if name := _noted(notebook).get("study"):
        study = open_study(name, **offered | given)
        found = {"dataset": study.data.name, "init": study.init}
        given |= {name: value for name, value in found.items() if name in offered}
    return given


def _cannot_show(notebook: Path, dataset: str | None) -> bool:
    study = _noted(notebook).get("study")
    return dataset in own_datasets() and study in STUDIES and not STUDIES[study].TAKES_OWN_DATA


@dataclass(frozen=True)
class Result:
    """How a notebook's run ended: its seconds, whether the last version was still current, and what went wrong."""

    notebook: Path
    seconds: float
    outcome: Literal["done", "unchanged", "failed"]
    error: str | None = None


def execute(notebook: Path, given: dict, folder: Path, kernel: Kernel) -> Result:
    """Run a notebook with the values `given`; write `folder`/<name>.ipynb, its figures and tables in folders beside.

    Nothing is run if that file was made from the same notebook, values and code, and the runs it used are still there.
    A notebook that fails is kept as `folder`/failed/<name>.ipynb; the version published before stays as it was.
    """
    fingerprint, began = _fingerprint(notebook, given), time.monotonic()
    if _is_current(folder / notebook.name, fingerprint):
        (folder / "failed" / notebook.name).unlink(missing_ok=True)
        return Result(notebook, 0.0, "unchanged")
    write_atomic(folder / ".writable", b"").unlink(missing_ok=True)  # if this fails, nothing is computed
    with tempfile.TemporaryDirectory(prefix="kdutils-", ignore_cleanup_errors=True) as scratch:
        draft, made, used = (Path(scratch).absolute() / name for name in (notebook.name, "report", "runs"))
        places = {"KD_REPORT_DIR": str(made), "KD_CHAPTER": notebook.stem, "KD_USED_RUNS": str(used)}
        kernel.begin()  # it imports while the cluster, one for the whole report, starts
        places["KD_SCHEDULER"] = scheduler() or ""
        places["KD_PROGRESS"] = settings().progress or ("bar" if sys.stderr.isatty() else "lines")
        error = kernel.execute(notebook, draft, given, places)
        executed = exports.read_notebook(draft if draft.is_file() else notebook)
        runs = sorted(set(used.read_text().split())) if used.exists() else []
        files = {path.relative_to(made): path.read_bytes() for path in made.rglob("*.*")}
    noted = {"fingerprint": fingerprint, "runs": runs, "dataset": given.get("dataset"), "init": given.get("init")}
    noted["digest"] = _own_digest(noted["dataset"])
    executed.metadata.setdefault("kdutils", {}).update(noted)
    content = nbformat.writes(executed).encode()
    if error:
        write_atomic(folder / "failed" / notebook.name, content)
        return Result(notebook, time.monotonic() - began, "failed", error)
    for path, shown in files.items():
        write_atomic(folder / path, shown)
    for old in [path for place in ("figures", "tables") for path in (folder / place).glob(f"{notebook.stem[:2]}_*")]:
        if old.relative_to(folder) not in files:
            old.unlink()
    (folder / "failed" / notebook.name).unlink(missing_ok=True)
    write_atomic(folder / notebook.name, content)
    return Result(notebook, time.monotonic() - began, "done")


def _fingerprint(notebook: Path, given: dict) -> str:
    """A hash of all that an executed notebook depends on besides its runs: code, published values, data and weights."""
    data, init, file = (given.get(name) or "" for name in ("dataset", "init", "teacher_file"))
    parts = [notebook.read_text(encoding="utf-8"), json.dumps(given, sort_keys=True), file and file_digest(Path(file))]
    for source in [*sorted((ROOT / "kdutils").rglob("*.*")), ROOT / "reports" / "published.csv"]:
        if source.is_file() and source.suffix not in (".pyc", ".pyi") and not source.name.startswith("."):
            parts += [source.name, file_digest(source)]
    sets = {data} if data == "synthetic" else {data, init.removeprefix("pretrain:")}
    known = sorted(sets & {*DATASETS, *own_datasets()})
    parts += [f"{found.digest} {found.classes}" for found in map(load_dataset, known)]
    parts += [f"{name} {imagenet_digest(name)}" for name in IMAGENET_NETWORKS if init == "imagenet"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _own_digest(name: str | None) -> str | None:
    """The current digest of one's own data set `name`; None for any other data set, and if it is not here."""
    return load_dataset(name).digest if name in own_datasets() else None


def _is_current(published: Path, fingerprint: str) -> bool:
    made, runs = _noted(published), settings().runs_dir
    return made.get("fingerprint") == fingerprint and all((runs / key).is_dir() for key in made["runs"])


def foretell(plan: Plan) -> Iterator[str]:
    """Yields a line for each study, in the order of the chapters: its missing runs, with their hours and GB here."""
    specs: dict[str, list[RunSpec]] = {}
    for path, given in plan.chapters.items():
        if name := _noted(path).get("study"):
            with redirect_stdout(StringIO()):  # `make_plan` has printed the stand-ins
                arms = open_study(name, **notebook_parameters(path) | given).all_arms()
            specs.setdefault(name, []).extend(spec for group in arms for part in group.values() for spec in part)
    for name, wanted in specs.items():
        found = estimate(wanted)
        runs = f"{found.runs:,} run{'s' * (found.runs != 1)}"
        yield f"{name}: {runs} to do, about {found.seconds / 3600:.1f} h, {found.size / 1e9:.1f} GB"


def report(plan: Plan) -> list[Result]:
    """Run the notebooks, also those after one that fails, export them, and make index.html and report.pdf of them."""
    results, kernel = [], Kernel()
    try:
        for number, (notebook, given) in enumerate(plan.chapters.items(), 1):
            print(f"[{number}/{len(plan.chapters)}] {notebook.stem}", flush=True)
            results.append(execute(notebook, given, plan.folder, kernel))
            if results[-1].error:
                print(f"    failed: {results[-1].error}", flush=True)
    finally:
        kernel.close()
    if not (all(result.outcome == "unchanged" for result in results) and _is_published(plan.folder)):
        publish(plan)
    return results


def _is_published(folder: Path) -> bool:
    """Whether index.html, written last, is newer than all chapters; it is not if a command was killed before that."""
    index, chapters = folder / "index.html", list(folder.glob("*.ipynb"))
    pages = [folder / "results.json", folder / "report.pdf"]
    pages += [path.with_suffix(suffix) for path in chapters for suffix in (".html", ".pdf")]
    made = [path.stat().st_mtime_ns for path in (*chapters, *folder.glob("failed"))]  # folder: last change
    return index.is_file() and all(page.is_file() for page in pages) and max(made) <= index.stat().st_mtime_ns


def publish(plan: Plan) -> None:
    """Export all of the profile's executed notebooks, and make the report of them (`kdutils.report.publish`)."""
    folder, names = plan.folder, [notebook.name for notebook in list_notebooks()]
    told = {path: _noted(path) for path in (folder / name for name in names) if path.is_file()}
    digests = {path: _own_digest(noted.get("dataset")) for path, noted in told.items()}  # as they are now
    whole = {path: noted for path, noted in told.items() if digests[path] in (None, noted.get("digest"))}
    if outdated := [path.stem for path in told if path not in whole]:
        print(f"Left out, for their images have been replaced: {', '.join(outdated)}; run them again.", flush=True)
    failed = [path for path in (folder / "failed" / name for name in names) if path.is_file()]
    _keep_summaries({key for noted in whole.values() for key in noted.get("runs", [])}, folder / "records")
    exports.publish(list(whole), folder, _cover(plan, whole), failed)


def _keep_summaries(keys: set[str], folder: Path) -> None:
    """Write one JSON file for each of these runs: its spec, metrics, cost and provenance."""
    for old in folder.glob("*.json"):
        if old.stem not in keys:
            old.unlink()
    for key in sorted(keys):
        try:
            record = read_record(settings().runs_dir / key)
        except (OSError, ValueError, KeyError):  # a run of an earlier command with another store: its file stays
            continue
        content = {"spec": record.spec.model_dump(mode="json", exclude_defaults=True)} | record.summary
        write_atomic(folder / f"{key}.json", json.dumps(content, indent=1).encode())


def _cover(plan: Plan, told: dict[Path, dict]) -> dict:
    environment = current_environment(detect_runtime())
    kept = (json.loads(path.read_text(encoding="utf-8")) for path in (plan.folder / "records").glob("*.json"))
    trained, here = sorted({summary["environment"]["hardware"] for summary in kept}), environment["hardware"]
    hardware = "; ".join(trained or [here])
    if hardware != here:
        hardware += f"; this report was set on {here}"
    named, starts = _datasets(told), {noted.get("init") for noted in told.values()} - {None}
    facts = {
        "Data": "; ".join(map(_data, named)),
        "Profile": f"{plan.profile}: {PROFILES[plan.profile]}",
        "ResNets start from": starts and ("ImageNet weights" if "imagenet" in starts else "random weights"),
        "Hardware": hardware,
        "Versions": "Python {python}, torch {torch}, torchvision {torchvision}".format_map(environment),
        "Code": environment["code"],
        "Date": f"{datetime.now():%d %B %Y}".lstrip("0"),
    }
    facts = {name: fact for name, fact in facts.items() if fact}  # a report without ResNets has no such weights
    cover = {"title": "Knowledge distillation", "subtitle": "What small networks learn from large ones", "facts": facts}
    cover["subtitle"] += "".join(f", on the data set {name}" for name in named if name not in DATASETS)
    cover["subtitle"] += f"; profile {facts['Profile']}"  # readers compare with published values
    return cover | _notice(told)


def _data(name: str) -> str:
    """A data set's title, and its digest if it is still here: a chapter on it may come from an earlier command."""
    here = load_dataset(name) if is_cached(name) else None
    return f"{here.title} (digest {here.digest})" if here else TITLES.get(name, name)


def _notice(told: dict[Path, dict]) -> dict:
    """The cover's warning if chapters use synthetic data, which must never be taken for CIFAR."""
    synthetic = [path.stem for path, noted in told.items() if noted.get("dataset") == "synthetic"]
    if not synthetic:
        return {}
    where, there = ("", "here") if len(synthetic) == len(told) else (f" in {', '.join(synthetic)}", "there")
    notice = f"Synthetic data{where}: procedural images stand in for CIFAR. Nothing made {there} is a result on CIFAR."
    return {"notice": notice}
