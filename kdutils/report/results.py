"""What a report found, for programs: the schema of `results.json`, and how its parts are made and read."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue, ValidationError

from kdutils.errors import InputError
from kdutils.report.statistics import Arms, Gain, Numbers, finished, standard_error, values
from kdutils.runs.records import Record
from kdutils.specs import RunSpec
from kdutils.values import Value, explain


class Arm(Value):
    """A classifier: its setting, what its runs rest on, and its numbers."""

    spec: dict[str, JsonValue]  # of the first run, with its method, without its seed; other runs appear as keys
    runs: dict[str, str]  # keys, which name the files of records/, by seed
    data: list[str]  # titles of the data sets with their digests, each once
    weights: list[str]  # where the runs' weights come from, with digests
    code: list[str]  # digests of the code that trained them
    metrics: dict[str, dict[str, Numbers]]  # split (train, val, test, best val), then accuracy (%) and loss (nats)


class Cell(Value):
    """A run of a grid; the student alone has no temperature. A run that diverged has no accuracy."""

    temperature: float | None
    kd_weight: float
    accuracy: float | None  # on validation, %


class Grid(Value):
    """The runs that a cell is chosen from, and the binomial standard error of one accuracy (percentage points)."""

    cells: list[Cell]
    standard_error: float


class Chapter(Value):
    """What the tables and grids of one notebook hold; `setting` is the one in their captions."""

    study: str
    setting: str
    arms: dict[str, Arm] = {}
    gains: dict[str, Gain] = {}  # by "treated against control"
    grids: dict[str, Grid] = {}  # by the name of their figure


class Results(Value):
    """A report: `facts` as on its first page, and chapters by the name of their notebook."""

    format: Literal["kdutils results 1"]
    facts: dict[str, str]
    chapters: dict[str, Chapter]


def describe_arms(arms: Arms) -> dict[str, dict]:
    """Every arm, by name, as the plain values of an `Arm`."""
    return {name: _arm(records) for name, records in arms.items()}


def _arm(records: list[Record]) -> dict:
    first, summaries, seeds = records[0].spec, [each.summary for each in records], [each.spec.seed for each in records]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"a classifier has one run for each seed, got the seeds {seeds}: give the others another name")
    spec = first.model_dump(mode="json", exclude={"seed"})
    if first.distillation:
        spec["distillation"]["teachers"] = [teacher.key for teacher in first.teachers]
    if isinstance(first.init, RunSpec):
        spec["init"] = first.init.key
    splits = [split for split in ("train", "val", "test") if all(split in each["metrics"] for each in summaries)]
    splits += ["best val"] * ("val" in splits and all("best_val" in record.summary for record in finished(records)))

    def numbers(split: str, metric: str) -> dict:
        return Numbers.of({run.spec.seed: (values([run], split, metric) or [np.nan])[0] for run in records}).plain()

    return {
        "spec": spec,
        "runs": {str(record.spec.seed): record.spec.key for record in records},
        "data": sorted({f"{each['data']['title']} (digest {each['data']['digest']})" for each in summaries}),
        "weights": sorted({each["weights"] or "random" for each in summaries}),
        "code": sorted({each["environment"]["code"] for each in summaries}),
        "metrics": {split: {name: numbers(split, name) for name in ("accuracy", "loss")} for split in splits},
    }


def describe_gains(gains: list[Gain]) -> dict[str, dict]:
    """Every gain, by "treated against control", in plain values."""
    return {f"{gain.treated} against {gain.control}": gain.plain() for gain in gains}


def describe_grid(records: list[Record]) -> dict:
    """A grid's runs as the plain values of a `Grid`."""
    cells = []
    for record in records:
        method = record.spec.distillation and record.spec.distillation.method
        where = {"temperature": method and method.temperature, "kd_weight": method.kd_weight if method else 0.0}
        cells.append(where | {"accuracy": None if record.diverged else record.metric("val")})
    error = standard_error(records) if finished(records) else 0.0
    return {"cells": cells, "standard_error": error}


def collect(notebook: dict) -> Chapter | None:
    """The chapter that the tables of an executed notebook carry (`Page`); None if they carry nothing.

    If an arm's runs are not those of the same name in an earlier table, its table's name is added to the arm's. Raises
    `ValidationError` for a notebook that was executed by a version with another schema.
    """
    chapter = {}
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        shown = output.get("metadata", {}).get("kdutils", {})
        found = dict(shown.get("results", {}))
        known = chapter.get("arms", {})
        if grid := found.pop("grid", None):
            found["grids"] = {shown["name"]: grid}
        found["arms"] = {
            name if known.get(name, arm).get("runs") == arm.get("runs") else f"{name} ({shown['name']})": arm
            for name, arm in found.get("arms", {}).items()
        }
        chapter = _merged(chapter, found) if "setting" in found else chapter
    study = {"study": notebook["metadata"].get("kdutils", {}).get("study", "")}
    return Chapter.model_validate_json(json.dumps(study | chapter)) if chapter else None


def _merged(old: dict, new: dict) -> dict:
    """Both dictionaries in one; dictionaries within them are merged too, any other value is the new one."""
    both = {name: _merged(old[name], new[name]) for name in old.keys() & new.keys() if isinstance(new[name], dict)}
    return old | new | both


def read_results(folder: Path) -> Results:
    """The results of the report in `folder`; raises `InputError` if they are missing or not of this form."""
    path = folder / "results.json"
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        needed = "give the folder of a report, such as reports/quick (`python -m kdutils report` makes one)"
        raise InputError(f"{path} cannot be read ({error.strerror}): {needed}") from None
    except ValidationError as error:
        wrong = f"{path} is not what this version writes ({explain(error)})"
        raise InputError(f"{wrong}: make that report again with `python -m kdutils report`") from None
