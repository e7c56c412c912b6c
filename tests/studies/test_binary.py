"""Study B against its document: SGD at 0.01, batch 64, 50 epochs, T 2, kd_weight 0.5."""

from __future__ import annotations

import pytest

from kdutils.distillation.methods import KD
from kdutils.studies import PROFILES, study


def test_as_published():
    plan = study("binary", "paper")
    runs = [spec for specs in (plan.phase_one() | plan.phase_two()).values() for spec in specs]
    assert {
        (spec.optimiser.name, spec.optimiser.learning_rate, spec.optimiser.weight_decay, spec.batch_size, spec.epochs)
        for spec in runs
    } == {("sgd", 0.01, 5e-4, 64, 50)}
    assert {spec.distillation.method for spec in runs if spec.teachers} == {KD(temperature=2.0, kd_weight=0.5)}
    assert {spec.model.options.get("dropout") for spec in runs if spec.model.name == "wrn_16_7"} == {0.5}
    assert (plan.data.train_size, plan.data.val_size, plan.data.test_size, len(plan.seeds)) == (None, 0, None, 5)
    # precisions, teachers, reduced CNNs, taught binaries
    assert len({spec.key for spec in runs}) == len(set(runs)) == 4 * 5 + 5 + 2 * 5 + 2 * 5


@pytest.mark.parametrize("profile", PROFILES)
def test_it_differs_in_the_loss_alone_where_it_compares(profile):
    plan = study("binary", profile)
    arms = plan.phase_two()
    for name in ("reduced CNN", "WideResNet, XNOR", "WideResNet, BONN"):
        assert [spec.with_(distillation=None) for spec in arms[f"{name}, distilled"]] == arms[name]
        assert {spec.teachers for spec in arms[f"{name}, distilled"]} == {(plan.teacher(plan.teacher_seeds[0]),)}
    tuned = plan.fine_tuning()
    for without, with_it in zip(tuned["BONN, fine-tuned without it"], tuned["BONN, fine-tuned with it"], strict=True):
        assert (without.bayesian.feature_weight, with_it.bayesian.feature_weight) == (0.0, 1e-2)
        assert without.init == with_it.init == plan.wide_resnet("bonn", without.seed)
        assert with_it.with_(bayesian=without.bayesian) == without
        assert without.optimiser.learning_rate == pytest.approx(plan.wide.optimiser.learning_rate / 10)


def test_what_coincides_is_run_once():
    plan = study("binary", "overnight")
    assert [specs[0].key for specs in plan.beyond().values()] == [specs[0].key for specs in plan.phase_one().values()]


@pytest.mark.parametrize("profile", ["overnight", "paper"])
def test_long_profiles_teach_with_a_network_all_of_whose_layers_train(profile):
    teacher = study("binary", profile).teacher()
    assert (teacher.trainable, teacher.init, teacher.model.option("stem")) == ("all", "imagenet", "cifar_pool")


def test_beyond_the_document_bonn_has_its_own_widths():
    arms = study("binary", "paper").beyond()
    sizes = ("16-16-32-64", "64-64-128-256")
    assert list(arms) == [
        *(f"WRN-22 ({size}), {label}" for size in sizes for label in ("full precision", "XNOR", "BONN")),
        "WRN-22 (64-64-128-256), BONN, distilled",
    ]
    assert {spec.epochs for specs in arms.values() for spec in specs} == {200}
    assert study("binary", "quick").beyond() == {}


@pytest.mark.parametrize("profile", PROFILES)
def test_lambda_is_looked_at_on_validation_images_under_both_optimisers(profile):
    plan = study("binary", profile)
    arms = plan.lambdas()
    assert list(arms) == ["BONN, Adam", "XNOR, Adam", "BONN, SGD", "XNOR, SGD"]
    assert all(spec.data.val_size for specs in arms.values() for spec in specs)
    for name in ("BONN, Adam", "BONN, SGD"):
        weights = [spec.bayesian.kernel_weight for spec in arms[name]]
        assert weights == list(plan.kernel_weights) and {plan.kernel_weight, 1e-4} <= set(weights)
        (xnor,) = arms[name.replace("BONN", "XNOR")]
        assert {spec.with_(bayesian=None, model=xnor.model) for spec in arms[name]} == {xnor}
    looked = {(spec.data.train_size, spec.epochs) for specs in arms.values() for spec in specs}
    assert looked == {(5000, 8) if profile == "overnight" else (plan.data.train_size, plan.wide.epochs)}
    if plan.data.val_size:  # then the run of the chosen value is that of phase one
        assert plan.wide_resnet("bonn", plan.seeds[0]) in arms["BONN, Adam"]
