"""Study E: every method has as many trials as every other, on study D's student, teacher and data."""

from __future__ import annotations

import pytest

from kdutils.distillation.methods import KD, METHODS
from kdutils.errors import InputError
from kdutils.report.tables import published
from kdutils.studies import PROFILES, study
from kdutils.studies.methods import TRIALS, title


@pytest.mark.parametrize("profile", PROFILES)
def test_every_method_has_the_same_number_of_different_trials_on_one_student_and_teacher(profile):
    plan = study("methods", profile)
    tried = plan.tried()
    assert list(tried) == [title(name) for name in plan.methods] and len(tried) >= 3
    assert {len({spec.key for spec in specs}) for specs in tried.values()} == {plan.trials} and plan.trials >= 2
    specs = [spec for specs in tried.values() for spec in specs]
    assert {spec.with_(distillation=None) for spec in specs} == {plan.student(plan.seeds[0])}
    assert {spec.teachers for spec in specs} == {(plan.teacher(plan.teacher_seeds[0]),)}
    assert all(spec.test_curve for spec in specs)


@pytest.mark.parametrize("profile", ["quick", "overnight", "paper"])
def test_students_train_by_adam_whose_steps_do_not_grow_with_the_loss(profile):
    assert study("methods", profile).student().optimiser.name == "adam"


@pytest.mark.parametrize("profile", PROFILES)
def test_students_are_study_ds_and_those_of_a_trial_are_among_them(profile):
    plan, other = study("methods", profile), study("cifar100", profile)
    assert (plan.student().model, plan.teacher().model) == (other.student().model, other.teacher().model)
    assert profile == "quick" or plan.teacher() == other.teacher()
    chosen = {name: specs[-1].distillation.method for name, specs in plan.tried().items()}
    arms = plan.students(chosen)
    assert list(arms) == ["student alone", "KD, untuned", *chosen]
    assert all(arms[name][0] == specs[-1] for name, specs in plan.tried().items())
    assert [[spec.seed for spec in specs] for specs in arms.values()] == [list(plan.seeds)] * len(arms)
    assert {spec.distillation.method for spec in arms["KD, untuned"]} == {KD(temperature=4.0, kd_weight=0.9)}


def test_all_methods_of_one_teacher_are_there_and_the_authors_values_come_first():
    plan = study("methods", "paper")
    assert set(TRIALS) == {name for name, method in METHODS.items() if name == "kd" or method.teachers[1] == 1}
    first = {name: plan.cells_of(name)[0] for name in plan.methods}
    assert {cell.name: cell for cell in first.values()} == first
    assert (first["lskd"].temperature, first["lskd"].ce_weight, first["lskd"].kd_weight) == (2, 0.1, 9)
    assert (first["dkd"].alpha, first["dkd"].beta, first["dkd"].temperature) == (1, 8, 4)
    assert (first["dist"].kd_weight, first["ttm"].power, first["ttm"].kd_weight) == (2, 0.1, 100)
    assert (first["nkd"].temperature, first["nkd"].gamma) == (3, 3.5)


def test_a_warm_up_takes_the_share_of_the_epochs_that_its_authors_gave_it():
    """20 of 240."""
    for profile, epochs in (("paper", 20), ("overnight", 2), ("quick", 1)):
        plan = study("methods", profile)
        warmups = {cell.name: cell.warmup for name in TRIALS for cell in plan.cells_of(name)}
        assert {name for name, warmup in warmups.items() if warmup == epochs} >= {"dkd", "dkd_lskd", "rld"}
        assert warmups["kd"] == warmups["dist"] == 1


def test_what_is_published_is_of_its_arms():
    plan = study("methods", "paper")
    names = set(plan.students({name: specs[0].distillation.method for name, specs in plan.tried().items()}))
    assert set(published("methods")["arm"]) <= names


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["kd", "dkt"], ["'dkt'", "allowed are", "lskd"]),
        (["kd", "mt_aekd"], ["'mt_aekd'", "one teacher"]),
        (["dkd", "dist"], ["kd", "must be among them"]),
        (["kd", "dkd", "kd"], ["must differ"]),
        ([], ["methods", "at least 1"]),
        ([3], ["methods"]),
    ],
)
def test_methods_that_cannot_be_compared_are_one_sentence(methods, words):
    with pytest.raises(InputError) as error:
        study("methods", "smoke", methods=methods)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
