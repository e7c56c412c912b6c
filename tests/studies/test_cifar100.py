"""Study D against its document: ResNet32x4 for 240 epochs, the four-layer CNN for 100, a 4 x 4 grid with weight 0."""

from __future__ import annotations

import numpy as np
import pytest

from kdutils.data.views import split_indices
from kdutils.distillation.methods import KD
from kdutils.report.tables import published
from kdutils.specs import OptimiserSpec
from kdutils.studies import PROFILES, study
from kdutils.training.optimisers import learning_rate

BEST = KD(temperature=4.0, kd_weight=0.75)


def test_as_published():
    plan = study("cifar100", "paper")
    student, teacher = plan.student(), plan.teacher()
    sgd = OptimiserSpec(
        name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="step", milestones=(30, 60, 90), factor=0.2
    )
    assert (student.model.name, student.epochs, student.batch_size, student.optimiser) == ("cnn4", 100, 128, sgd)
    assert (teacher.model.name, teacher.epochs, teacher.batch_size) == ("resnet32x4", 240, 64)
    rates = [learning_rate(teacher.optimiser, epoch, 240) for epoch in (0, 149, 150, 180, 210, 239)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.0005, 0.00005, 0.00005]) and teacher.optimiser.momentum == 0.9
    data = plan.data
    assert (data.val_size, data.test_size, data.normalisation, len(plan.seeds)) == (5000, None, "cifar100", 5)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_grid_holds_the_student_alone_once_and_every_cell_with_a_teacher(profile):
    plan = study("cifar100", profile)
    alone, *taught = plan.grid()
    assert alone == plan.student(plan.seeds[0])
    assert [spec.distillation.method for spec in taught] == plan.cells
    assert {spec.teachers for spec in taught} == {(plan.teacher(plan.teacher_seeds[0]),)}
    assert all(spec.with_(distillation=None) == alone for spec in taught)
    assert plan.teacher().data.views == (plan.data.views if plan.has_frozen_teacher else 162)
    assert len({spec.key for spec in plan.grid()}) == len(plan.temperatures) * len(plan.kd_weights) + 1
    assert len(taught) == 12 or profile != "paper"


def test_a_given_cell_takes_the_place_of_the_grid_and_the_student_alone_stays():
    alone, taught = study("cifar100", "quick", temperature=3, kd_weight=0.9).grid()
    assert alone.distillation is None and KD(temperature=3.0, kd_weight=0.9, ce_weight=None) == (
        taught.distillation.method
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_arms_are_the_chosen_cell_and_the_student_alone_for_all_seeds(profile):
    plan = study("cifar100", profile)
    arms = plan.arms(BEST)
    assert set(arms) == set(published("cifar100")["arm"])
    assert [spec.with_(distillation=None) for spec in arms["distilled student"]] == arms["student alone"]
    assert {spec.distillation.method for spec in arms["distilled student"]} == {BEST}
    assert [spec.seed for spec in arms["student alone"]] == list(plan.seeds)


@pytest.mark.parametrize("profile", ["smoke", "overnight", "paper"])
def test_validation_images_choose_first_and_are_trained_on_last_by_teacher_and_students(profile):
    plan, labels = study("cifar100", profile), np.repeat(np.arange(100), 500)
    data = {spec.data.with_(views=1) for specs in plan.arms(BEST).values() for spec in specs}
    (last,) = data | {spec.teachers[0].data.with_(views=1) for spec in plan.arms(BEST)["distilled student"]}
    train, val = split_indices(labels, *plan.data.split)
    trained, left = split_indices(labels, *last.split)
    assert {*trained} == {*train, *val} and len(val) == plan.data.val_size and not len(left)
    assert not {spec.key for spec in plan.grid()} & {spec.key for specs in plan.arms(BEST).values() for spec in specs}


def test_the_quick_profile_and_the_comparison_of_methods_leave_the_validation_images_out_to_the_end():
    arms = study("cifar100", "quick").arms(BEST)["distilled student"] + [study("methods", "paper").student()]
    assert {spec.data.val_size for spec in arms} == {1000, 5000}


def test_a_teacher_from_a_file_is_one_resnet32x4_that_is_not_trained():
    plan = study("cifar100", "quick", teacher_file="/weights/resnet32x4.pth", teacher_seeds=[3, 4])
    (teacher,) = plan.arms(BEST)["teacher"]
    assert (teacher.init, teacher.epochs, teacher.seed) == ("file:/weights/resnet32x4.pth", 0, 3)
    assert teacher.model.name == "resnet32x4" != plan.network
    assert {spec.teachers for spec in plan.arms(BEST)["distilled student"]} == {(teacher,)}


def test_beyond_the_document_the_students_differ_in_the_teacher_alone():
    plan = study("cifar100", "paper")
    arms = plan.beyond()
    assert [spec.with_(distillation=None) for spec in arms["ResNet8x4, KD"]] == arms["ResNet8x4 alone"]
    assert {spec.teachers for spec in arms["ResNet8x4, KD"]} == {(plan.arms(BEST)["teacher"][0],)}
    assert {(spec.model.name, spec.epochs, spec.init) for spec in arms["ResNet8x4 alone"]} == (
        {("resnet8x4", 240, "random")}
    )
    assert study("cifar100", "quick").beyond() == {}


def test_short_profiles_take_a_resnet18_from_imagenet_and_without_weights_train_all_of_it():
    assert study("cifar100", "quick").teacher().has_frozen_backbone
    without = study("cifar100", "quick", init="random").teacher()
    assert (without.model.name, without.init, without.trainable) == ("resnet18", "random", "all")
