"""Study A against its document: 9,000 and 1,000 images, 30 and 20 epochs, a grid of 3 x 4."""

from __future__ import annotations

import pytest

from kdutils.distillation.methods import KD
from kdutils.report.tables import published
from kdutils.specs import OptimiserSpec, RunSpec
from kdutils.studies import PROFILES, study

ONE, BOTH = KD(temperature=4.0, kd_weight=0.9), KD(temperature=2.0, kd_weight=0.5)


def test_as_published():
    plan = study("assignment", "paper")
    cnn, resnet = plan.small_cnn(), plan.resnet("resnet50")
    assert (plan.data.name, plan.data.train_size, plan.data.val_size, plan.data.views, plan.data.normalisation) == (
        ("cifar10", 9000, 1000, 162, "imagenet")
    )
    assert (cnn.model.name, cnn.epochs, cnn.batch_size, cnn.optimiser) == (
        ("small_cnn", 30, 32, OptimiserSpec(name="adam", learning_rate=1e-3))
    )
    assert (resnet.init, resnet.epochs, resnet.batch_size, resnet.trainable, resnet.model.option("stem")) == (
        ("imagenet", 20, 32, "all", "cifar_pool")
    )
    assert resnet.optimiser == OptimiserSpec(name="adam", learning_rate=1e-4)
    assert len(plan.seeds) == len(plan.teacher_seeds) == 5


def test_the_quick_profile_is_what_it_was():
    """The numbers of chapters 00 to 04 rest on these sizes."""
    plan = study("assignment", "quick")
    assert plan.data.model_dump(exclude_defaults=True) == {
        "name": "cifar10", "train_size": 3000, "val_size": 1000, "test_size": 2000, "views": 8
    }  # fmt: skip
    assert (plan.seeds, plan.teacher_seeds, plan.epochs, plan.resnet_epochs) == ((0, 1, 2), (0,), 20, 3)
    assert [(cell.temperature, cell.kd_weight) for cell in plan.methods] == [(2, 0.5), (2, 0.9), (4, 0.5), (4, 0.9)]


def test_it_searches_every_temperature_with_every_weight_and_trains_every_policy():
    plan = study("assignment", "paper")
    grid = plan.grid(("resnet50",))
    assert {(spec.distillation.method.temperature, spec.distillation.method.kd_weight) for spec in grid} == {
        (t, w) for t in (2, 4, 8) for w in (0.3, 0.5, 0.7, 0.9)
    }
    assert len({spec.key for spec in grid}) == 12 and all(spec.teachers == (plan.resnet("resnet50"),) for spec in grid)
    assert {(spec.model.option("stem"), spec.trainable) for spec in plan.policies()} == {
        ("imagenet", "head"),
        ("imagenet", "all"),
        ("cifar_pool", "last_block"),
        ("cifar_pool", "layer3_up"),
        ("cifar_pool", "all"),
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_arms_take_the_chosen_cells_and_differ_in_the_loss_alone(profile):
    plan = study("assignment", profile)
    arms = plan.arms(ONE, BOTH)
    r18, r50 = plan.resnet("resnet18", plan.teacher_seeds[0]), plan.resnet("resnet50", plan.teacher_seeds[0])
    expected = {
        "distilled from ResNet50": ((r50,), ONE),
        "distilled from ResNet18": ((r18,), ONE),
        "distilled from both, logits averaged": ((r18, r50), BOTH),
        "distilled from both, probabilities averaged": ((r18, r50), BOTH.with_(average="probabilities")),
    }
    assert list(arms) == ["small CNN", "ResNet18", "ResNet50", *expected]
    for name, (teachers, method) in expected.items():
        assert {(spec.teachers, spec.distillation.method) for spec in arms[name]} == {(teachers, method)}
        assert [spec.with_(distillation=None) for spec in arms[name]] == arms["small CNN"]
    assert [spec.seed for spec in arms["small CNN"]] == list(plan.seeds)
    assert [spec.seed for spec in arms["ResNet50"]] == list(plan.teacher_seeds)


def test_arms_have_their_published_names():
    arms = study("assignment", "paper").arms(ONE, BOTH)
    assert set(published("assignment")["arm"]) <= set(arms)
    assert all(isinstance(spec, RunSpec) for specs in arms.values() for spec in specs)
