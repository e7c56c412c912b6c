"""A captured step is the eager one. What needs a GPU is left out where there is none."""

import pytest
import torch

import kdutils.training.step as step
from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.methods import KD
from kdutils.machine import detect_runtime
from kdutils.networks.registry import build_model
from kdutils.specs import DataSpec, ModelSpec, RunSpec
from kdutils.studies.base import taught
from kdutils.training.inputs import Inputs
from kdutils.training.loop import train

DATA = DataSpec(name="synthetic", train_size=40, val_size=10, test_size=20)  # the last batch is not whole
CNN = RunSpec(data=DATA, model=ModelSpec(name="reduced_cnn"), epochs=3, batch_size=16)  # with dropout and batch norm


class Table:
    """Answers of an imagined teacher, a function of image and view."""

    def lookup(self, indices, views):
        rows = (indices * 162 + views)[:, None] * torch.arange(1, 11)
        return torch.sin(rows.float())


def trained(spec: RunSpec, eager_steps: int, monkeypatch):
    monkeypatch.setattr(step, "_EAGER", eager_steps)
    dataset = load_dataset("synthetic")
    inputs = Inputs(dataset, detect_runtime(), *split_indices(dataset.train_labels, *spec.data.split), (Table(),))
    torch.manual_seed(0)
    model = build_model(spec.model.name, 10, **spec.model.options)
    outcome = train(model, spec, inputs)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in outcome.history]
    return rows, {name: tensor.cpu() for name, tensor in model.state_dict().items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="steps are captured on CUDA alone")
@pytest.mark.parametrize("warmup", [1, 3])
def test_a_captured_run_is_the_eager_one(warmup, monkeypatch):
    spec = taught(CNN, KD(warmup=warmup), CNN)
    eager, captured = (trained(spec, steps, monkeypatch) for steps in (10**9, 3))
    assert eager[0] == captured[0]
    assert all(torch.equal(tensor, captured[1][name]) for name, tensor in eager[1].items())


def test_where_nothing_can_be_captured_a_run_is_the_same(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    spec = taught(CNN, KD(), CNN)
    expected = trained(spec, 3, monkeypatch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    begin = step.Step.__init__

    def as_on_a_gpu(self, *arguments):
        begin(self, *arguments)
        self._until_capture = 3

    monkeypatch.setattr(step.Step, "__init__", as_on_a_gpu)
    with pytest.warns(UserWarning, match="steps are not captured.*not permitted"):
        found = trained(spec, 3, monkeypatch)
    assert found[0] == expected[0]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in expected[1].items())
