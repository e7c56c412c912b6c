"""A study is data: pure, checked, and its profiles change sizes alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.specs import RunSpec
from kdutils.studies import PROFILES, STUDIES, Study, study

CELL = KD(temperature=4.0, kd_weight=0.9)


def runs_of(plan: Study) -> list[RunSpec]:
    """All runs that a study can ask for."""
    match plan.__class__.__name__:
        case "Assignment":
            found = [plan.arms(CELL, CELL), plan.weighed(CELL), {"grid": plan.grid(("resnet50",))}]
            found.append({name: [spec] for name, spec in plan.policies().items()})
        case "Binary":
            found = [plan.phase_one(), plan.phase_two(), plan.fine_tuning(), plan.beyond(), plan.lambdas()]
        case "TeacherInit":
            found = [plan.arms()]
        case "Cifar100":
            found = [plan.arms(CELL), plan.beyond(), {"grid": plan.grid()}]
        case "Methods":
            found = [plan.students({"KD": CELL}), plan.tried()]
    return [spec for arms in found for specs in arms.values() for spec in specs]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_every_profile_and_looks_nothing_up(name, profile, tmp_path, monkeypatch):
    for variable in ("KD_DATA_DIR", "KD_RUNS_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    plan = study(name, profile)
    assert isinstance(plan, STUDIES[name]) and plan.profile == profile
    specs = runs_of(plan)
    assert specs and all(spec.teachers in ((), *[spec.teachers]) for spec in specs)
    assert {spec.data.name for spec in specs} == {plan.data.name}
    assert not (tmp_path / "nowhere").exists()


def test_studies_import_nothing_that_runs_or_shows():
    code = "import sys, kdutils.studies; print(*[name for name in sys.modules if name.startswith('kdutils.')])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    rooms = {name.split(".")[1] for name in printed.split()}
    assert "studies" in rooms and rooms.isdisjoint({"runs", "report", "training", "suite"})


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_had_on_synthetic_images(name):
    assert {spec.data.name for spec in runs_of(study(name, "smoke", dataset="synthetic"))} == {"synthetic"}


@pytest.mark.parametrize("name", STUDIES)
def test_profiles_change_sizes_and_optimisers_and_never_what_the_numbers_rest_on(name):
    paper = study(name, "paper")
    for profile in PROFILES:
        plan = study(name, profile)
        assert (plan.data.name, plan.data.normalisation) == (paper.data.name, paper.data.normalisation)
        assert set(plan.temperatures) <= set(paper.temperatures) and set(plan.kd_weights) <= set(paper.kd_weights)
        assert set(plan.seeds) <= set(paper.seeds) and (plan.init == paper.init or name in ("cifar100", "methods"))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", STUDIES)
def test_what_is_told_of_the_trainings_is_what_the_runs_do(name, profile):
    """Every run of the study has one of its named trainings, but for what is compared or goes on from another run."""
    plan = study(name, profile)
    told = {(each.optimiser, each.epochs, each.batch_size) for each in plan.trainings.values()}
    match name:
        case "assignment":
            arms = plan.arms(CELL, CELL)
        case "binary":
            arms = plan.phase_one() | plan.phase_two()
        case "teacher-init":
            arms = plan.arms()
        case "cifar100" | "methods":
            arms = plan.arms(CELL)
    done = {(run.optimiser, run.epochs, run.batch_size) for runs in arms.values() for run in runs}
    assert done == told


def test_given_values_take_the_place_of_the_profiles():
    plan = study(
        "assignment",
        "quick",
        seeds=[3, 4],
        teacher_seeds=[7],
        temperature=3,
        kd_weight=0.25,
        init="random",
        frozen=False,
    )
    assert (plan.seeds, plan.teacher_seeds, plan.init, plan.frozen) == ((3, 4), (7,), "random", False)
    assert plan.cells == [KD(temperature=3.0, kd_weight=0.25)]
    (spec,) = plan.grid(("resnet18",))
    assert (spec.seed, spec.teachers[0].seed, spec.teachers[0].init) == (3, 7, "random")
    nothing = dict.fromkeys(("seeds", "teacher_seeds", "init", "temperature", "kd_weight", "dataset"))
    assert study("assignment", "quick", **nothing) == study("assignment", "quick")


def test_a_given_temperature_leaves_the_weights_of_the_grid():
    assert [(cell.temperature, cell.kd_weight) for cell in study("assignment", "quick", temperature=4).cells] == [
        (4.0, 0.5),
        (4.0, 0.9),
    ]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: study("homework"), ["homework", "assignment", "binary", "teacher-init", "cifar100"]),
        *((lambda name=name: study(name, "papers"), ["papers", *PROFILES]) for name in STUDIES),
        (lambda: study("cifar100", dataset="cifar10"), ["cifar10", "cifar100", "synthetic", "auto", "cifar"]),
        (lambda: study("assignment", dataset="cifar100"), ["cifar100", "cifar10", "synthetic"]),
        (lambda: study("cifar100", kd_weight=0), ["kd_weights", "greater than 0"]),
        (lambda: study("assignment", kd_weight=1.5), ["kd_weights", "less than or equal to 1", "1.5"]),
        (lambda: study("binary", temperature=0), ["temperatures", "greater than or equal to 0.01"]),
        (lambda: study("binary", temperature=True), ["temperatures", "True"]),
        (lambda: study("teacher-init", init="pretrain:mnist"), ["pretrain:mnist", "imagenet", "pretrain:cifar100"]),
        (lambda: study("assignment", init="pretrain:cifar100"), ["pretrain:cifar100", "imagenet", "random"]),
        (lambda: study("assignment", seeds=[1, 2, 1]), ["1, 2, 1", "differ"]),
        (lambda: study("assignment", seeds=[]), ["seeds", "at least 1"]),
        (lambda: study("assignment", teacher_seeds=[-1]), ["teacher_seeds", "-1"]),
        (lambda: study("assignment", seeds=["0"]), ["seeds", "'0'"]),
        (lambda: study("assignment", seeds=3), ["seeds", "valid list"]),
        (lambda: study("binary", precisions=["full", "bonnn"]), ["precisions", "bonnn", "'xnor' or 'bonn'"]),
        (lambda: study("binary", teacher_file="resnet32x4.pth"), ["teacher_file"]),
        (lambda: study("assignment", epoch=3), ["epoch"]),
    ],
)
def test_what_a_study_cannot_be_is_one_sentence(make, words):
    with pytest.raises(InputError) as error:
        make()
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
