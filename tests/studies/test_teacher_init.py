"""Study C against its document: one network as teacher twice, 10 epochs, T 2, kd_weight 0.5."""

from __future__ import annotations

import pytest

from kdutils.data.datasets import DATASETS
from kdutils.distillation.methods import KD
from kdutils.report.tables import published
from kdutils.studies import PROFILES, study


def test_as_published():
    plan = study("teacher-init", "paper")
    arms = plan.arms()
    teachers = arms["teacher from scratch"] + arms["teacher pretrained"]
    students = [spec for name, specs in arms.items() if name.startswith("student") for spec in specs]
    assert {(spec.model.name, spec.epochs) for spec in teachers} == {("resnet101", 10)}
    assert {spec.model.name for spec in students} == {"sparse_cnn"}
    assert {spec.distillation.method for spec in students if spec.teachers} == {KD(temperature=2.0, kd_weight=0.5)}
    data = plan.data
    assert (data.train_size, data.val_size, data.test_size, data.normalisation, data.views) == (
        (None, 0, None, "half", 162)
    )
    assert set(arms) == set(published("teacher-init")["arm"])


@pytest.mark.parametrize("init", ["imagenet", "pretrain:cifar100"])
@pytest.mark.parametrize("profile", PROFILES)
def test_teachers_differ_in_their_start_alone_and_students_in_their_teacher(profile, init):
    arms = study("teacher-init", profile, init=init).arms()
    scratch, pretrained = arms["teacher from scratch"], arms["teacher pretrained"]
    assert {spec.init for spec in scratch} == {"random"} and all(spec.init != "random" for spec in pretrained)
    assert [spec.with_(init="random") for spec in pretrained] == scratch
    for name, teacher in (
        ("student of the teacher from scratch", scratch[0]),
        ("student of the pretrained teacher", pretrained[0]),
    ):
        assert [spec.with_(distillation=None) for spec in arms[name]] == arms["student alone"]
        assert {spec.teachers for spec in arms[name]} == {(teacher,)}
    assert {spec.data.views for spec in scratch} == {162}


@pytest.mark.parametrize(("dataset", "other"), [("cifar10", "cifar100"), ("synthetic", "synthetic-other")])
def test_without_imagenet_the_teacher_is_pretrained_on_other_images_of_other_classes(dataset, other):
    plan = study("teacher-init", "smoke", dataset=dataset, init="pretrain:cifar100")
    start = plan.teacher(pretrained=True).init
    assert start.data.name == other in DATASETS and start.init == "random"
    assert start.with_(data=plan.teacher(pretrained=False).data) == plan.teacher(pretrained=False)


def test_images_are_resized_for_imagenet_weights_alone_and_what_starts_from_random_trains_for_longer():
    plans = [study("teacher-init", "quick", init=init) for init in ("imagenet", "pretrain:cifar100")]
    resized, other = (plan.teacher(pretrained=True) for plan in plans)
    assert resized.model.options == {"stem": "resized"} and other.model.options == {}  # 96 pixels, and a 3x3 stem
    assert resized.epochs < other.epochs == other.init.epochs
    assert plans[1].trainings["teachers"].epochs == other.epochs, "as its captions say"


def test_overnight_trains_the_teachers_as_long_as_the_document_did():
    teachers = [study("teacher-init", "overnight").teacher(pretrained) for pretrained in (False, True)]
    assert [teacher.epochs for teacher in teachers] == [10, 10]
