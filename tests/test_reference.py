"""The tables of `reports/reference/README.md`, from the CSV files and the summaries of runs that lie beside it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from kdutils.report.statistics import Arms, count, spread, values
from kdutils.report.tables import published
from kdutils.runs.records import Record
from kdutils.specs import RunSpec
from kdutils.studies import study

REFERENCE = Path(__file__).parents[1] / "reports" / "reference"
EARLIER = {"05_beyond": "B", "07_published": "C", "08_published": "D"}  # tables of runs that earlier code made


def read(name: str) -> list[dict]:
    path = REFERENCE / f"{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def answers(profile: str) -> dict[tuple, tuple[str, str]]:
    """(study, classifier, images) -> (published, ours), where something is published."""
    found = {}
    for row in read(f"{profile}/tables/answers"):
        if row["published (%)"] != "–":
            key = row["document"][0], row["classifier or gain"], row["images"]
            found[key] = row["published (%)"], f"{row['ours (%)']} ({row['n']})"
    return found


def earlier() -> dict[tuple, tuple[str, str]]:
    found = {}
    for name, letter in EARLIER.items():
        for row in read(f"tables/{name}"):
            ours = f"{row['ours']} ({row['n']})¹" if row["n"] != "0" else "not yet run"
            found[letter, row["classifier"], row["split"]] = row["published"], ours
    return found


def recorded(arms: dict[str, list[RunSpec]]) -> Arms:
    """Of these runs, those whose summaries of profile `overnight` are committed; arms without any are left out."""
    folder, found = REFERENCE / "overnight" / "records", {}
    for name, specs in arms.items():
        there = [spec for spec in specs if (folder / f"{spec.key}.json").exists()]
        found[name] = [Record(folder, spec, json.loads((folder / f"{spec.key}.json").read_text())) for spec in there]
    return {name: records for name, records in found.items() if records}


def shown(records: list[Record], split: str) -> str:
    return f"{spread(values(records, split))} ({count(records)})"


def begun() -> list[tuple[str, str, float, str]]:
    """(study, network, published, ours) on test images, of the studies that `overnight` has not finished."""
    plans, found = {"B": "binary", "C": "teacher-init", "D": "cifar100"}, []
    for letter, name in plans.items():
        plan = study(name, "overnight")
        arms = plan.phase_two() if letter == "B" else plan.arms(plan.cells[0]) if letter == "D" else plan.arms()
        theirs = published(name).query("split == 'test' and metric == 'accuracy'").set_index("arm")["value"]
        found += [(letter, arm, theirs[arm], shown(records, "test")) for arm, records in recorded(arms).items()]
    return found


def table() -> list[str]:
    quick, full, before = answers("quick"), answers("overnight"), earlier()
    full |= {(letter, arm, "test"): (theirs, ours) for letter, arm, theirs, ours in begun() if letter == "B"}
    rows = ["| study | network | images | published (%) | all images (%) | `quick` (%) |", "|---|---|---|---|---|---|"]
    for key in sorted({**quick, **full, **before}, key=lambda key: key[0]):
        ours = full.get(key) or before.get(key)
        published, shown = (ours or quick[key])[0], ours[1] if ours else "not yet run"
        in_quick = quick[key][1] if key in quick else "–"
        rows.append(f"| {' | '.join(key)} | {float(published):.2f} | {shown} | {in_quick} |")
    return rows


def test_every_published_value_stands_beside_ours():
    text, rows = (REFERENCE / "README.md").read_text(encoding="utf-8"), table()
    assert len(rows) > 25 and "\n".join(rows) in text, "\n".join(["the table should be:", *rows])


def test_what_overnight_has_finished_of_the_other_studies_stands_beside_published_values():
    rows = ["| study | network | published (%) | test (%) |", "|---|---|---|---|"]
    rows += [f"| {letter} | {arm} | {theirs:.2f} | {ours} |" for letter, arm, theirs, ours in begun()]
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert len(rows) > 2 and "\n".join(rows) in text, "\n".join(["the table should be:", *rows])


def test_what_may_train_in_a_resnet_stands_side_by_side():
    runs = study("assignment", "overnight").policies()
    rows = ["| what trains | validation (%) | test (%) |", "|---|---|---|"]
    for name in runs:
        if name in (found := recorded({name: [runs[name]]})):
            rows.append(f"| {name} | {shown(found[name], 'val')} | {shown(found[name], 'test')} |")
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert len(rows) > 3 and "\n".join(rows) in text, "\n".join(["the table should be:", *rows])
