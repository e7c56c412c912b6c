"""results.json against the records it comes from, by way of executed notebooks on disk."""

from __future__ import annotations

import json
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from fake_records import record_of, runs, spec_of
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_notebook, new_output
from papers import page_texts
from scipy import stats

from kdutils.errors import InputError
from kdutils.report import page as display, plots, tables
from kdutils.report.publish import publish
from kdutils.report.results import read_results
from kdutils.report.statistics import gain

COVER = {"title": "Small students", "facts": {"Profile": "smoke", "Date": "2031-05-06"}}
ALONE, TAUGHT = (62.0, 64.5, 63.0), (65.5, 66.0, 67.5)


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Shows tables and figures on a page, keeps them as an executed notebook, publishes all: the report's folder."""

    def made(stem: str, *shown) -> None:
        outputs = []
        monkeypatch.setattr(
            display,
            "display",
            lambda data, metadata, raw: outputs.append(
                new_output("display_data", data | {"image/png": ""} if "image/png" in data else data, metadata=metadata)
            ),
        )
        for number, each in enumerate(shown):
            page = display.Page("Synthetic data; profile smoke.")
            show = page.figure if isinstance(each, Figure) else page.table
            show(each, f"table{number}", "Caption.")
        metadata = {"kdutils": {"study": "assignment"}}
        notebook = new_notebook(cells=[new_code_cell("", outputs=outputs)], metadata=metadata)
        folder = tmp_path / "report"
        folder.mkdir(exist_ok=True)
        nbformat.write(notebook, folder / f"{stem}.ipynb")
        publish(sorted(folder.glob("*.ipynb")), folder, COVER)
        return folder

    return made


def read(folder):
    return json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.fixture
def arms(tmp_path):
    taught = runs(tmp_path / "taught", TAUGHT, temperature=4.0, kd_weight=0.9)
    return {"small CNN": runs(tmp_path / "alone", ALONE), "distilled": taught}


def test_a_gain_is_what_scipy_makes_of_the_single_values(chapter, arms):
    found = gain(arms["distilled"], arms["small CNN"], ("the student", "the small CNN"))
    written = read(chapter("03_x", tables.metrics_table(arms), tables.gains_table([found])))["chapters"]["03_x"]
    ours, theirs = (
        written["arms"][name]["metrics"]["test"]["accuracy"]["values"] for name in ("distilled", "small CNN")
    )
    assert [list(each.values()) for each in (ours, theirs)] == [list(TAUGHT), list(ALONE)]
    by_hand = stats.ttest_rel([ours[seed] for seed in "012"], [theirs[seed] for seed in "012"]).confidence_interval()
    shown = written["gains"]["the student against the small CNN"]
    assert (shown["low"], shown["high"]) == pytest.approx(tuple(by_hand))
    differences = np.subtract(TAUGHT, ALONE)
    assert (shown["mean"], shown["sd"]) == pytest.approx((differences.mean(), differences.std(ddof=1)))
    assert shown["values"] == {str(seed): pytest.approx(value) for seed, value in enumerate(differences)}
    assert (shown["treated"], shown["control"], shown["n"], shown["diverged"]) == ("the student", "the small CNN", 3, 0)
    assert shown["over"] == found.over and "views" in shown["over"]


def test_numbers_are_those_of_the_records_with_what_is_published(chapter, arms):
    written = read(chapter("01_x", tables.metrics_table(arms), tables.compare(arms, "assignment")))["chapters"]["01_x"]
    assert written["study"] == "assignment" and written["setting"] == "Synthetic data; profile smoke."
    test = written["arms"]["small CNN"]["metrics"]["test"]["accuracy"]
    assert test == {
        "values": dict(zip("012", ALONE)),
        "n": 3,
        "diverged": 0,
        "mean": pytest.approx(np.mean(ALONE)),
        "sd": pytest.approx(np.std(ALONE, ddof=1)),
        "published": {"assignment": 62.43},
    }
    assert written["arms"]["distilled"]["metrics"]["best val"]["loss"]["values"] == {"0": 1.3, "1": 1.3, "2": 1.3}


def test_an_arm_has_one_run_for_each_seed(arms):
    with pytest.raises(InputError, match=r"one run for each seed, got the seeds \[0, 1, 2, 0\]"):
        tables.metrics_table({"small CNN": [*arms["small CNN"], arms["small CNN"][0]]})


def test_one_arm_holds_what_several_documents_say_of_it(chapter, arms):
    studies = ("assignment/task-3", "assignment/task-4")
    written = read(chapter("09_x", *(tables.compare(arms, study) for study in studies)))["chapters"]["09_x"]
    best = written["arms"]["small CNN"]["metrics"]["best val"]["accuracy"]
    assert best["published"] == dict(zip(studies, (62.25, 62.8)))


def test_a_diverged_run_is_null_and_counted(chapter, tmp_path):
    arms = {
        "some": runs(tmp_path / "some", ALONE, diverged=(1,)),
        "all": runs(tmp_path / "all", ALONE, diverged=(0, 1, 2)),
    }
    found = gain(arms["some"], arms["all"], ("some", "all"))
    written = read(chapter("01_x", tables.metrics_table(arms), tables.gains_table([found])))["chapters"]["01_x"]
    some, none = (written["arms"][name]["metrics"]["test"]["accuracy"] for name in arms)
    assert some["values"] == {"0": 62.0, "1": None, "2": 63.0} and (some["n"], some["diverged"]) == (2, 1)
    assert (none["n"], none["diverged"], none["mean"], none["sd"]) == (0, 3, None, None)
    (pairs,) = written["gains"].values()
    assert [pairs[name] for name in ("mean", "sd", "low", "high", "n", "diverged")] == [None] * 4 + [0, 3]


def test_an_arm_says_what_was_chosen_and_what_it_rests_on(chapter, arms):
    arms["distilled"][1].summary["weights"] = "resnet18 (digest 0123)"
    written = read(chapter("03_x", tables.metrics_table(arms)))["chapters"]["03_x"]["arms"]["distilled"]
    first = arms["distilled"][0].spec
    method = written["spec"]["distillation"]["method"]
    assert (method["temperature"], method["kd_weight"]) == (4.0, 0.9)
    assert written["spec"]["distillation"]["teachers"] == [first.teachers[0].key]
    assert written["spec"]["epochs"] == 3 and "seed" not in written["spec"]
    assert written["runs"] == {str(run.spec.seed): run.spec.key for run in arms["distilled"]}
    assert written["data"] == ["synthetic data (digest feedfacecafebeef)"]
    assert written["weights"] == ["random", "resnet18 (digest 0123)"] and written["code"] == ["sources 0123456789ab"]


def test_a_grid_is_there_cell_by_cell_with_the_error_of_one_accuracy(chapter, tmp_path):
    alone = record_of(tmp_path, spec_of(), val=50.0)
    taught = [
        record_of(tmp_path, spec_of(temperature=t, kd_weight=w), val=val, diverged=diverged)
        for t, w, val, diverged in ((2.0, 0.5, 54.0, False), (2.0, 0.9, 46.0, False), (8.0, 0.9, 9.0, True))
    ]
    table = tables.grid_table([alone, *taught])
    folder = chapter("03_one", plots.plot_grid(table, taught[0].spec.distillation.method))
    (grid,) = read(folder)["chapters"]["03_one"]["grids"].values()
    assert [tuple(cell.values()) for cell in grid["cells"]] == [
        (None, 0.0, 50.0),
        (2.0, 0.5, 54.0),
        (2.0, 0.9, 46.0),
        (8.0, 0.9, None),
    ]
    images = alone.spec.data.val_size
    assert grid["standard_error"] == pytest.approx(100 * np.sqrt(0.5 * 0.5 / images))
    assert len(read_results(folder).chapters["03_one"].grids["table0"].cells) == 4


def test_other_runs_under_the_same_name_stand_beside(chapter, arms, tmp_path):
    others = {"small CNN": [record_of(tmp_path / "others", spec_of(seed=7), test=10.0)]}
    shown = [tables.metrics_table(arms), tables.metrics_table(others)]
    written = read(chapter("05_x", *shown))["chapters"]["05_x"]["arms"]
    assert list(written["small CNN"]["runs"]) == ["0", "1", "2"]
    assert list(written["small CNN (table1)"]["runs"]) == ["7"]


def test_a_chapter_of_another_version_is_left_out_and_said(chapter, arms, capsys):
    folder = chapter("01_x", tables.metrics_table(arms))
    executed = folder / "01_x.ipynb"
    executed.write_text(executed.read_text().replace('"diverged": 0', '"lost": 0'))
    capsys.readouterr()
    written = read(chapter("02_x", tables.metrics_table(arms)))
    assert list(written["chapters"]) == ["02_x"]
    assert capsys.readouterr().err.splitlines() == [
        "results.json is without 01_x, which another version made: run it again"
    ]


def test_what_was_written_is_read(chapter, arms):
    results = read_results(chapter("01_x", tables.compare(arms, "assignment")))
    assert results.facts == COVER["facts"]
    test = results.chapters["01_x"].arms["small CNN"].metrics["test"]["accuracy"]
    assert test.bounds == pytest.approx(stats.t.interval(0.95, 2, np.mean(ALONE), stats.sem(ALONE)))


@pytest.mark.parametrize(
    "content, named",
    {
        None: "cannot be read",
        "no json": "[Ii]nvalid JSON",
        "[]": "object",
        "{}": "format",
        '{"format": "kdutils results 0", "facts": {}, "chapters": {}}': "format.*'kdutils results 1'.*results 0",
        '{"format": "kdutils results 1", "facts": {}, "chapters": {"01": {}}}': "chapters.01.study",
    }.items(),
)
def test_what_is_no_such_file_is_refused_in_one_sentence(tmp_path, content, named):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=named) as refused:
        read_results(tmp_path)
    assert str(tmp_path / "results.json") in str(refused.value) and "\n" not in str(refused.value)


def test_index_and_pdf_open_with_the_answers(chapter, arms):
    shown = {"small CNN": arms["small CNN"], "ResNet18": arms["distilled"]}
    found = gain(arms["distilled"], arms["small CNN"], ("the student", "the small CNN"))
    folder = chapter("01_x", tables.compare(shown, "assignment"), tables.gains_table([found]))
    index = (folder / "index.html").read_text()
    row = pd.read_csv(folder / "tables" / "answers.csv", dtype=str).iloc[0]
    assert (row["classifier or gain"], row["published (%)"], row["n"]) == ("small CNN", "62.43", "3")
    (alternative,) = re.findall(r'<img src="figures/answers.svg" alt="([^"]*)"', index)
    assert "dot for every seed" in alternative and "1 not to be told" in alternative
    opening = page_texts(folder / "report.pdf")[0]
    for text in (index.replace("\xa0", " "), opening):
        assert row["ours (%)"] in text and row["95% interval"] in text.replace("−", "-") and "62.43" in text
        assert "+3.17" in text and "over seeds" in text
    before, _, folded = index.partition("Where the numbers come from")
    assert "2031-05-06" in folded and "2031-05-06" not in before and 'href="results.json"' in folded


def test_what_a_report_opened_with_before_does_not_stay(chapter, arms):
    folder = chapter("01_x", tables.compare(arms, "assignment"))
    assert (folder / "figures" / "answers.svg").is_file() and (folder / "tables" / "answers.csv").is_file()
    folder = chapter("01_x", pd.DataFrame({"what is no number of a run": ["nothing"]}))
    assert list(folder.glob("*/answers.*")) == [] and "/answers." not in (folder / "index.html").read_text()
