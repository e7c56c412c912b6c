"""The comparison of methods, from records of known numbers: brute force and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_records import record_of, spec_of

from kdutils.data.datasets import load_dataset
from kdutils.distillation.methods import build_method, method_loss
from kdutils.errors import InputError
from kdutils.report import methods as report
from kdutils.report.statistics import gain
from kdutils.specs import Distillation

CELLS = {name: [build_method(name), build_method(name, kd_weight=0.5)] for name in ("kd", "dkd", "dist")}


def ran(folder, method, seed=0, *, test=60.0, best=None, val=50.0, **given):
    """A record of a student with `method`, whose best test epoch, the second, has `best` (%)."""
    spec = spec_of(seed, temperature=4.0)
    taught = Distillation(teachers=spec.teachers, method=method)
    record = record_of(folder, spec.with_(distillation=taught, test_curve=True), test=test, val=val, **given)
    history = record.history
    history["test_accuracy"] = [30.0, best or test, test][: len(history)]
    history.to_csv(record.path / "history.csv", index=False)
    return record


def arm(folder, method, tests, bests=None, **given):
    return [
        ran(folder, method, seed, test=test, best=best, **given)
        for seed, (test, best) in enumerate(zip(tests, bests or tests, strict=True))
    ]


@pytest.fixture
def arms(tmp_path):
    """KD tuned 2 points above untuned; DKD above both, DIST above untuned alone."""
    return {
        "student alone": [record_of(tmp_path, spec_of(seed), test=50.0 + seed) for seed in range(3)],
        "KD, untuned": arm(tmp_path, CELLS["kd"][0], (54.0, 55.1, 56.0)),
        "KD": arm(tmp_path, CELLS["kd"][1], (56.0, 57.0, 58.1), (56.5, 57.0, 59.1)),
        "DKD": arm(tmp_path, CELLS["dkd"][0], (58.0, 59.1, 60.0), (59.0, 59.1, 60.5)),
        "DIST": arm(tmp_path, CELLS["dist"][0], (56.5, 56.5, 58.6)),
    }


@pytest.fixture
def tried(tmp_path):
    """DKD's second cell is worse by validation and better by test; both of DIST diverged."""
    folder = tmp_path / "tried"
    return {
        "KD": [ran(folder, CELLS["kd"][0], val=40.0, test=54.0), ran(folder, CELLS["kd"][1], val=41.0, test=56.0)],
        "DKD": [
            ran(folder, CELLS["dkd"][0], val=45.0, test=58.0, best=59.0),
            ran(folder, CELLS["dkd"][1], val=44.0, test=58.5, best=60.25),
        ],
        "DIST": [ran(folder, cell, diverged=True) for cell in CELLS["dist"]],
    }


def test_the_cell_with_the_best_validation_is_chosen_and_a_method_that_always_diverged_has_none(tried):
    assert report.choose(tried) == {"KD": CELLS["kd"][1], "DKD": CELLS["dkd"][0]}
    with pytest.raises(InputError, match="diverged"):
        report.choose({"KD": tried["DIST"]})


def test_every_trial_is_shown(tried):
    table = report.trials_table(tried)
    assert list(table["method"]) == ["KD", "KD", "DKD", "DKD", "DIST", "DIST"]
    assert list(table["validation (%)"]) == ["40.00", "41.00", "45.00", "44.00", "diverged", "diverged"]
    assert list(table["chosen"]) == ["", "yes", "yes", "", "", ""]
    assert table["cell"][0] == "CE 0.1, weight 0.9, T 4" and "beta 8" in table["cell"][2]


def test_a_cell_is_told_by_its_parameters():
    assert (
        report.describe(build_method("mlkd_weak", temperatures=(4.0, 2.0))) == "CE 0.1, weight 0.9, temperatures 4, 2"
    )
    assert report.describe(build_method("dkd", warmup=3, beta=0.5)) == (
        "CE 1, weight 1, warm-up 3, T 4, alpha 1, beta 0.5"
    )


def test_gains_stand_beside_the_published_ones(arms):
    table = report.methods_table(arms).set_index("method")
    known = table.attrs["results"]["gains"]
    assert known["KD, untuned against student alone"]["mean"] == pytest.approx(12.1 / 3)  # 4, 4.1 and 4
    against = gain(arms["DKD"], arms["KD"], ("DKD", "KD"))
    assert table.loc["DKD", "95% CI"] == f"[{against.low:+.2f}, {against.high:+.2f}]"
    assert table.loc["DKD", ["over KD, untuned", "over KD"]].tolist() == ["+4.00", "+2.00"]
    assert table.loc["KD", "over KD, untuned"] == "+2.00"
    assert table.loc["DKD", "test (%)"] == "59.03 ± 1.00"
    assert table.loc["DKD", ["published (%)", "over KD, untuned, published"]].tolist() == ["76.32", "+2.99"]
    assert set(table.loc[["student alone", "KD"], "over KD"]) == {"–"}
    assert table.loc["student alone", "over KD, untuned, published"] == "-0.83"


def test_methods_are_sorted_by_whether_they_can_be_told_apart(arms):
    gains = report.gains_over(arms, "KD")
    assert list(gains) == ["KD, untuned", "DKD", "DIST"]
    assert report.verdict_sentence(gains).startswith(
        "Methods better than KD: DKD (+2.00). Methods worse than KD: KD, untuned (-2.00). "
        "Methods that cannot be told apart from KD: DIST (+0.17)."
    )


def test_what_tuning_kd_takes_from_the_others_is_said(arms):
    said = report.tuning_sentence(arms)
    assert "Untuned, KD changes the student alone by +4.03 points" in said  # 54, 55.1, 56 less 50, 51, 52
    assert "Tuned, KD changes by +2.00 points" in said
    assert (
        "Compared with untuned KD, other methods gain +3.08 points on average; the interval lies above zero for 1 of 2"
        in said
    ), "all seeds of DKD gain the same 4 points, an interval without width"
    assert "as they had, other methods gain +1.08 points on average; the interval lies above zero for 1 of 2" in said
    assert "it is the same" in report.tuning_sentence(arms | {"KD": arms["KD, untuned"]})
    alone = {name: arms[name] for name in ("student alone", "KD, untuned", "KD")}
    assert "other methods" not in report.tuning_sentence(alone)


def test_a_method_of_which_every_seed_diverged_is_said_to_have_and_is_in_no_mean(arms, tried, tmp_path):
    specs = [record.spec for record in arms["DIST"]]
    lost = arms | {"DIST": [record_of(tmp_path / "lost", spec, diverged=True) for spec in specs]}
    assert set(report.methods_table(lost).set_index("method").loc["DIST", ["over KD, untuned", "over KD"]]) == {
        "diverged"
    }
    assert "DIST (diverged)" in report.verdict_sentence(report.gains_over(lost, "KD"))
    said = report.tuning_sentence(lost)
    assert "gain +4.00 points on average; the interval lies above zero for 0 of 1" in said and "nan" not in said
    tried["DIST"] = arms["DIST"]
    assert list(report.claims_table(tried, lost)["method"]) == ["KD", "DKD"]


def test_what_best_epochs_and_choices_by_test_would_claim(tried, arms):
    claims = report.claims_table(tried, arms).set_index("method")
    assert list(claims.index) == ["KD", "DKD"], "DIST has no trial that ended"
    assert claims.loc["KD"].tolist() == pytest.approx([57.03, 57.53, 0.5, 56.0, 56.0, 56.0], abs=0.005)
    assert claims.loc["DKD"].tolist() == pytest.approx([59.03, 59.53, 0.5, 58.0, 58.5, 60.25], abs=0.005)
    said = report.claims_sentence(claims, report.gains_over(arms, "KD"))
    for words in ("adds 0.50 points on average (0.50 to 0.50)", "it adds 0.29", "adds 0.25, cell and epoch 1.12"):
        assert words in said
    assert said.endswith("The largest mean gain over KD is +2.00 (DKD).")
    for epoch, is_last_best in ((0.004, False), (0.0, True)):
        said = report.claims_sentence(claims.assign(difference=epoch), report.gains_over(arms, "KD"))
        assert ("the last epoch was the best one in every run" in said) == is_last_best


def test_a_push_is_the_scaled_step_against_the_gradient_of_its_image(tmp_path):
    random = np.random.RandomState(0)
    labels, z = np.arange(40) % 10, random.normal(size=(40, 10))
    teacher = record_of(tmp_path, logits=3 * np.eye(10)[labels] + z, labels=labels)
    student = record_of(tmp_path, logits=random.normal(size=(40, 10)), labels=labels)
    examples = report.Examples(teacher, student)
    kd = build_method("kd")
    q, p = (logits / 4 for logits in (examples.student, examples.teacher))
    step = 0.1 * (torch.eye(10)[examples.labels] - examples.student.softmax(1)) + 0.9 * 4 * (
        p.softmax(1) - q.softmax(1)
    )
    expected = step / step.abs().sum(1, keepdim=True)
    assert torch.allclose(examples.push(kd), expected, atol=1e-6)
    ours = examples.student.clone().requires_grad_()
    warm = build_method("dkd", warmup=5)
    method_loss(warm, ours, examples.teacher, examples.labels, epoch=5)[0].backward()
    assert torch.allclose(examples.push(warm), -ours.grad / ours.grad.abs().sum(1, keepdim=True), atol=1e-6)


def test_of_two_examples_the_teacher_gets_one_right_and_one_wrong(tmp_path):
    labels = np.arange(40) % 10
    logits = 9.0 * np.eye(10)[labels]
    logits[7, 3] = 8.9  # right, and nearly another
    logits[21] = 9 * np.eye(10)[2]
    logits[35] = 9 * np.eye(10)[2] + 8 * np.eye(10)[5]  # wrong, and nearly right
    teacher = record_of(tmp_path, logits=logits, labels=labels)
    examples = report.Examples(teacher, record_of(tmp_path))
    assert examples.images[: examples.shown].tolist() == [7, 35] and len(set(examples.images.tolist())) == 40
    right = record_of(tmp_path, logits=9.0 * np.eye(10)[labels], labels=labels)
    assert report.Examples(right, record_of(tmp_path)).shown == 1


def test_figures_show_what_was_given(tmp_path, arms):
    examples = report.Examples(record_of(tmp_path), record_of(tmp_path))
    targets = {"teacher": examples.teacher.softmax(1), "student": examples.student.softmax(1)}
    methods = [build_method(name) for name in ("kd", "dist")]
    figure = report.plot_pushes(examples, load_dataset("synthetic"), targets, methods)
    points, heat = figure.axes[0], figure.axes[examples.shown]
    assert [text.get_text() for text in heat.get_yticklabels()] == ["CE alone", "KD", "DIST"]
    assert [sum(line.get_ydata()) for line in points.lines] == pytest.approx([1, 1], abs=1e-6)
    assert points.get_ylabel() == "probability"


def test_weights_of_teachers_are_shares_and_who_is_wrong_counts_less(tmp_path):
    labels = np.arange(40) % 10
    sure, wrong = 8.0 * np.eye(10)[labels], 0.5 * np.eye(10)[(labels + 1) % 10]
    teachers = {
        "A": [record_of(tmp_path, logits=wrong, labels=labels)],
        "B": [record_of(tmp_path, logits=sure, labels=labels)],
    }
    table = report.weights_table(teachers, record_of(tmp_path), temperature=4.0).set_index("weighed by")
    shares = table[["A", "B"]].astype(float)
    assert shares.sum(axis=1).to_numpy() == pytest.approx(np.ones(3), abs=2e-3)
    assert (shares.iloc[:2]["B"] > 0.8).all() and table["B counts more (%)"].iloc[:2].tolist() == ["100.0"] * 2
    assert shares.iloc[2].between(0.4 - 1e-6, 0.6 + 1e-6).all(), "AEKD's C"
