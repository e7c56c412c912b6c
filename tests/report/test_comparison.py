"""Two reports side by side: intervals by formula, and the exit code for numbers that were changed on purpose."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from kdutils.__main__ import main
from kdutils.report.comparison import compare_numbers, compare_settings
from kdutils.report.results import Results


def numbers(*values: float | None, seeds=None) -> dict:
    kept = [value for value in values if value is not None]
    return {
        "values": {str(seed): value for seed, value in zip(seeds or range(len(values)), values)},
        "n": len(kept),
        "diverged": len(values) - len(kept),
        "mean": float(np.mean(kept)) if kept else None,
        "sd": float(np.std(kept, ddof=1)) if len(kept) > 1 else None,
    }


def report(*values: float | None, seeds=None, arm: str = "small CNN", **changes) -> dict:
    """A report of one chapter with one arm, whose test accuracies are `values`."""
    described = {
        "spec": {"epochs": 40, "data": {"views": 8}},
        "runs": {"0": "small_cnn-0"},
        "data": ["CIFAR-10 (digest 1)"],
        "weights": ["random"],
        "code": ["sources 1"],
        "metrics": {"test": {"accuracy": numbers(*values, seeds=seeds)}},
    } | changes
    chapter = {"study": "assignment", "setting": "CIFAR-10; profile quick.", "arms": {arm: described}, "gains": {}}
    return {"format": "kdutils results 1", "facts": {"Profile": "quick"}, "chapters": {"01_x": chapter}}


@pytest.fixture
def compare(tmp_path, capsys):
    """Runs the command on two reports: its exit code, and what it prints."""

    def run(*reports: dict | str) -> tuple[int, str]:
        folders = [tmp_path / name for name in "ab"]
        for folder, content in zip(folders, reports):
            folder.mkdir(exist_ok=True)
            (folder / "results.json").write_text(content if isinstance(content, str) else json.dumps(content))
        code = main(["compare", *map(str, folders)])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


def verdict(first: dict, second: dict) -> dict:
    (row,) = compare_numbers(*map(Results.model_validate, (first, second))).to_dict("records")
    return row


A, SHIFTED, NEAR = (60.0, 61.0, 62.0), (63.1, 64.0, 64.9), (61.0, 60.0, 62.5)


def test_equal_seeds_are_compared_in_pairs():
    row = verdict(report(*A), report(*SHIFTED))
    differences = np.subtract(SHIFTED, A)
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / math.sqrt(3)
    assert row["95% interval"] == f"[{differences.mean() - half:+.3f}, {differences.mean() + half:+.3f}]"
    assert (row["verdict"], row["by"], row["B - A"]) == ("differs", "paired", "+3.000")
    assert row["number"] == "01 small CNN, test accuracy (%)" and row["A"] == "61.000 ± 1.000 (n=3)"


def test_other_seeds_are_compared_by_welch():
    row = verdict(report(*A), report(*SHIFTED, 64.0, seeds=(5, 6, 7, 8)))
    parts = [np.var(A, ddof=1) / 3, np.var((*SHIFTED, 64.0), ddof=1) / 4]  # Welch and Satterthwaite
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 3)
    half, difference = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts)), np.mean((*SHIFTED, 64.0)) - np.mean(A)
    assert row["95% interval"] == f"[{difference - half:+.3f}, {difference + half:+.3f}]"
    assert (row["verdict"], row["by"]) == ("differs", "Welch")


def test_pairing_is_by_seed_whatever_the_order():
    row = verdict(report(*A), report(*reversed(SHIFTED), seeds=(2, 1, 0)))
    assert row == verdict(report(*A), report(*SHIFTED))


def test_a_pair_with_a_diverged_run_is_left_out():
    row = verdict(report(*A), report(SHIFTED[0], None, SHIFTED[2]))
    differences = np.subtract(SHIFTED, A)[[0, 2]]
    assert row["B - A"] == f"{differences.mean():+.3f}" and "n=2, 1 diverged" in row["B"] and row["by"] == "paired"


@pytest.mark.parametrize(
    "second, code, said",
    [
        (report(*A), 0, "1 numbers are equal"),
        (report(*NEAR), 0, "agrees"),
        (report(*SHIFTED), 1, "differs"),
        (report(*(value + 5 for value in A)), 0, "no interval"),  # no spread: few runs may differ alike by chance
        (report(*(value - 5 for value in A), seeds=(7, 8, 9)), 1, "differs"),
        (report(*SHIFTED, seeds=(3, 4, 5)), 1, "Welch"),
        (report(*NEAR, seeds=(3, 4, 5)), 0, "Welch"),
        (report(*(90.0,)), 0, "no interval"),
        (report(None, None, None), 0, "no interval"),
        (report(*SHIFTED, arm="another"), 1, "Only in B: 01 another."),
        (report(*SHIFTED, arm="another"), 1, "No number is in both."),
    ],
)
def test_the_exit_code_says_whether_a_number_differs(compare, second, code, said):
    found, text = compare(report(*A), second)
    assert (found, said in text) == (code, True), text


def test_gains_are_compared_too(compare):
    reports = report(*A), report(*A)
    for content, values in zip(reports, ((1.0, 2.0, 3.0), (6.0, 7.1, 8.2))):
        gain = numbers(*values) | {"treated": "x", "control": "y", "low": 0.0, "high": 9.0, "over": "over seeds"}
        content["chapters"]["01_x"]["gains"]["x against y"] = gain
    code, text = compare(*reports)
    assert code == 1 and "01 gain of x against y (points)" in text


def test_a_number_that_several_chapters_show_is_told_once(compare):
    reports = report(*A), report(*SHIFTED)
    for content in reports:
        content["chapters"]["09_y"] = content["chapters"]["01_x"]
    assert compare(*reports)[1].count("small CNN, test accuracy") == 1


def test_what_differs_in_setting_data_weights_and_code_is_named_by_arm():
    other = report(
        *A, spec={"epochs": 20, "data": {"views": 8}}, data=["synthetic"], weights=["resnet18 (digest 2)"], code=["2"]
    )
    other["facts"]["Profile"] = "paper"
    other["chapters"]["01_x"]["setting"] = "CIFAR-10; profile paper."
    found = compare_settings(*map(Results.model_validate, (report(*A), other))).set_index("what")
    assert list(found.index) == ["Profile", "setting", "epochs", "data", "weights", "code"]
    assert list(found.loc["epochs"]) == ["40", "20", "01 small CNN"]
    assert list(found.loc["Profile"]) == ["quick", "paper", "report"]


def test_nothing_is_said_to_differ_where_nothing_does(compare):
    code, text = compare(report(*A), report(*A))
    assert code == 0 and "The same wherever both reports have them." in text


@pytest.mark.parametrize("content", ["no json", "[]", "{}", json.dumps(report(*A) | {"format": "other 1"})])
def test_bad_input_is_one_sentence_and_exit_code_2(compare, tmp_path, content):
    code, text = compare(report(*A), content)
    assert code == 2 and len(text.splitlines()) == 1 and str(tmp_path / "b" / "results.json") in text


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert main(["compare", str(tmp_path / "missing"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "missing" / "results.json") in said and len(said.splitlines()) == 1
