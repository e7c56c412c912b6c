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


def test_short_profiles_teach_with_heads_on_frozen_resnets_that_see_enlarged_images():
    plan = study("assignment", "quick")
    teacher = plan.resnet("resnet50")
    assert teacher.has_frozen_backbone and teacher.init == "imagenet"
    assert (teacher.model.option("stem"), teacher.model.option("size")) == ("resized", 96)
    assert teacher in plan.student(("resnet50",), ONE).teachers and teacher.with_(seed=1) == plan.resnet("resnet50", 1)
    without = study("assignment", "quick", init="random").resnet("resnet50")
    assert (without.init, without.trainable, without.model.option("stem")) == ("random", "all", "cifar_pool")
    assert without.epochs > plan.policy_epochs, "a teacher from random weights needs longer"


def test_from_random_weights_what_is_compared_trains_as_long_as_the_teachers():
    plan = study("assignment", "quick", init="random")
    policies = plan.policies()
    assert policies["all layers, 3x3 stem"] == plan.resnet("resnet18")
    assert policies["last block, 3x3 stem"].epochs == plan.resnet("resnet18").epochs


def test_only_a_resnet50_from_random_weights_starts_its_blocks_as_their_shortcuts():
    for init in ("random", "imagenet"):
        specs = {name: study("assignment", init=init).resnet(name).model for name in ("resnet18", "resnet50")}
        zeroed = {name for name, model in specs.items() if model.options.get("zero_init_residual")}
        assert zeroed == ({"resnet50"} if init == "random" else set())


def test_it_searches_every_temperature_with_every_weight_and_trains_every_policy():
    plan = study("assignment", "paper")
    grid = plan.grid(("resnet50",))
    assert {(spec.distillation.method.temperature, spec.distillation.method.kd_weight) for spec in grid} == {
        (t, w) for t in (2, 4, 8) for w in (0.3, 0.5, 0.7, 0.9)
    }
    assert len({spec.key for spec in grid}) == 12 and all(spec.teachers == (plan.resnet("resnet50"),) for spec in grid)
    runs = list(plan.policies().values())
    shown = [(spec.trainable, spec.model.option("stem"), spec.model.option("size")) for spec in runs]
    assert shown == [
        ("head", "imagenet", 96),
        ("head", "resized", 64),
        ("head", "resized", 96),
        ("last_block", "cifar_pool", 96),
        ("all", "cifar_pool", 96),
        ("head", "resized", 96),
        ("all", "cifar_pool", 96),
    ]
    assert [spec.model.name for spec in runs] == 5 * ["resnet18"] + 2 * ["resnet50"]
    assert [spec.has_frozen_backbone for spec in runs] == [True, True, True, False, False, True, False]
    assert runs[4] == plan.resnet("resnet18", plan.teacher_seeds[0]) and runs[6] == plan.resnet("resnet50")


def test_where_a_frozen_resnet50_teaches_it_is_the_one_shown_beside_what_else_may_train():
    plan = study("assignment", "quick")
    assert list(plan.policies().values())[5:] == [plan.resnet("resnet50", plan.teacher_seeds[0])]


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


@pytest.mark.parametrize("profile", PROFILES)
def test_weighed_teachers_sum_to_one_in_a_loss_that_is_else_that_of_the_average(profile):
    """EB-KD and CA-MKD halve what their two weights, whose sum is 1, give; AEKD does not."""
    plan = study("assignment", profile)
    equal = plan.arms(ONE, BOTH)["distilled from both, probabilities averaged"]
    arms = plan.weighed(BOTH)
    assert len(arms) == (1 if profile == "quick" else 3) and "both, weighed by error" in arms
    factors = {"mt_ebkd": 2.0, "mt_camkd": 2.0, "mt_aekd": 1.0}
    for specs in arms.values():
        (method,) = {spec.distillation.method for spec in specs}
        assert (method.temperature, method.ce_weight) == (BOTH.temperature, BOTH.ce_weight)
        assert method.kd_weight == BOTH.kd_weight * factors[method.name]
        assert [(spec.with_(distillation=None), spec.teachers) for spec in specs] == [
            (spec.with_(distillation=None), spec.teachers) for spec in equal
        ]


def test_arms_have_their_published_names():
    arms = study("assignment", "paper").arms(ONE, BOTH)
    assert set(published("assignment")["arm"]) <= set(arms)
    assert all(isinstance(spec, RunSpec) for specs in arms.values() for spec in specs)
