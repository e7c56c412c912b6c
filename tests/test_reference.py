"""The tables of `reports/reference/README.md`, from the CSV files and the summaries of runs that lie beside it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kdutils.report.statistics import Arms, count, spread, values
from kdutils.runs.records import Record
from kdutils.specs import RunSpec
from kdutils.studies import study

REFERENCE = Path(__file__).parents[1] / "reports" / "reference"
PLANS = {"B": "binary", "C": "teacher-init", "D": "cifar100"}


def read(name: str) -> list[dict]:
    path = REFERENCE / f"{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def answers(profile: str) -> dict[tuple, tuple[str, str]]:
    """(study, classifier, images) -> (published, ours), where a document has published something."""
    found = {}
    for row in read(f"{profile}/tables/answers"):
        if row["published (%)"] != "–" and not row["classifier or gain"].endswith("(wrn 22)"):  # `beyond` has these
            key = row["document"][0], row["classifier or gain"], row["images"]
            found[key] = row["published (%)"], f"{row['ours (%)']} ({row['n']})"
    return found


def beyond() -> dict[tuple, tuple[str, str]]:
    rows = read("overnight_bcd/tables/05_beyond")
    shown = {row["classifier"]: f"{row['ours']} ({row['n']})" if row["n"] != "0" else row["ours"] for row in rows}
    return {("B", row["classifier"], row["split"]): (row["published"], shown[row["classifier"]]) for row in rows}


def recorded(arms: dict[str, list[RunSpec]]) -> Arms:
    """Of these runs, those whose summaries of profile `overnight` are committed; arms without any are left out."""
    folder, found = REFERENCE / "overnight" / "records", {}
    for name, specs in arms.items():
        there = [spec for spec in specs if (folder / f"{spec.key}.json").exists()]
        found[name] = [Record(folder, spec, json.loads((folder / f"{spec.key}.json").read_text())) for spec in there]
    return {name: records for name, records in found.items() if records}


def shown(records: list[Record], split: str) -> str:
    return f"{spread(values(records, split))} ({count(records)})"


def table() -> list[str]:
    quick, full = answers("quick"), answers("overnight") | answers("overnight_bcd") | beyond()
    rows = [
        "| study | network | images | published (%) | the protocol's images (%) | `quick` (%) |",
        "|---|---|---|---|---|---|",
    ]
    for key in sorted({**quick, **full}, key=lambda key: key[0]):
        ours = full.get(key)
        published, shown = (ours or quick[key])[0], ours[1] if ours else "not yet run"
        in_quick = quick[key][1] if key in quick else "–"
        rows.append(f"| {' | '.join(key)} | {float(published):.2f} | {shown} | {in_quick} |")
    return rows


def test_every_published_value_stands_beside_ours():
    text, rows = (REFERENCE / "README.md").read_text(encoding="utf-8"), table()
    assert len(rows) > 25 and "\n".join(rows) in text, "\n".join(["the table should be:", *rows])


@pytest.mark.parametrize("letter", PLANS)
def test_the_answers_are_those_of_the_records(letter):
    plan, stated = study(PLANS[letter], "overnight"), answers("overnight_bcd") | beyond()
    cells = [plan.arms(cell) for cell in plan.cells] if letter == "D" else [plan.arms()] if letter == "C" else []
    arms = {name: specs for each in cells for name, specs in each.items() if name in recorded(each)}
    arms |= plan.phase_two() | plan.beyond() if letter == "B" else {}
    found = {(letter, name, "test"): shown(records, "test") for name, records in recorded(arms).items()}
    known = {key: ours for key, (_, ours) in stated.items() if key[0] == letter and ours != "not yet run"}
    assert known == {key: found[key] for key in known} and len(known) > 2


def test_what_may_train_in_a_resnet_stands_side_by_side():
    runs = study("assignment", "overnight").policies()
    rows = ["| what trains | validation (%) | test (%) |", "|---|---|---|"]
    for name in runs:
        if name in (found := recorded({name: [runs[name]]})):
            rows.append(f"| {name} | {shown(found[name], 'val')} | {shown(found[name], 'test')} |")
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    assert len(rows) > 3 and "\n".join(rows) in text, "\n".join(["the table should be:", *rows])
