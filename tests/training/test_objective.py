"""The loss of a run is its method's, in the epoch that runs."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.methods import METHODS, Method, build_method, method_loss
from kdutils.machine import Runtime
from kdutils.networks.registry import build_model
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training import loop
from kdutils.training.inputs import Inputs
from kdutils.training.objective import objective
from kdutils.values import explain


def student(method: Method, teachers: int = 1, **changes) -> RunSpec:
    fields = {
        "data": DataSpec(name="synthetic", train_size=20, test_size=10, views=1),
        "model": ModelSpec(name="small_cnn"),
        "epochs": 3,
        "batch_size": 10,
    }
    fields |= changes
    taught = tuple(RunSpec(**fields | {"seed": seed}) for seed in range(teachers))
    return RunSpec(**fields, distillation=Distillation(teachers=taught, method=method))


@pytest.mark.parametrize("name", ["dkd", "rld", "mt_ebkd"])
def test_the_objective_is_the_methods_loss_in_that_epoch(name):
    method = build_method(name)
    teachers = int(method.teachers[0])
    logits, taught, labels = torch.randn(8, 10), torch.randn(teachers, 8, 10), torch.arange(8)
    for epoch in (1, 10):
        ours = objective(student(method, teachers), torch.nn.Identity(), logits, labels, taught, epoch=epoch)
        assert ours == method_loss(method, logits, taught, labels, epoch)


def test_epochs_are_counted_from_one_while_a_run_trains(monkeypatch):
    class Table:
        def lookup(self, indices, views):
            return torch.randn(len(indices), 10, generator=torch.Generator().manual_seed(0))

    spec, seen = student(build_method("dkd")), []
    method = spec.distillation.method

    def watched(spec, model, logits, labels, taught, features, epoch):
        loss, terms = objective(spec, model, logits, labels, taught, features, epoch)
        assert loss.item() == pytest.approx((terms["ce"] + min(epoch / method.warmup, 1) * terms["kd"]).item())
        seen.append(epoch)
        return loss, terms

    monkeypatch.setattr("kdutils.training.step.objective", watched)
    dataset = load_dataset("synthetic")
    split = split_indices(dataset.train_labels, *spec.data.split)
    inputs = Inputs(dataset, Runtime(torch.device("cpu"), torch.float32), *split, (Table(),))
    outcome = loop.train(build_model("small_cnn", 10), spec, inputs)
    assert seen == [1, 1, 2, 2, 3, 3]
    assert {"train_ce", "train_kd", "train_tckd", "train_nckd"} <= outcome.history[0].keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_every_method_is_itself_after_json(name):
    spec = student(build_method(name), 2 if name.startswith("mt_") else 1)
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec and again.key == spec.key and f'"name": "{name}"' in spec.canonical()
    assert spec.key != student(build_method(name, kd_weight=0.25), len(spec.teachers)).key


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: student(build_method("dkd"), 2), ["dkd", "one teacher", "2", "mt_average"]),
        (lambda: student(build_method("mt_aekd"), 1), ["mt_aekd", "at least 2", "1"]),
        (lambda: student(build_method("mt_aekd", C=0.3), 2), ["C", "0.5", "2 teachers"]),
        (lambda: student(build_method("dist"), data=DataSpec(name="synthetic", train_size=1)), ["dist", "batch", "2"]),
    ],
)
def test_a_run_that_its_method_cannot_do_is_refused_when_it_is_described(make, words):
    with pytest.raises(ValidationError) as error:
        make()
    assert all(word in explain(error.value) for word in words)
