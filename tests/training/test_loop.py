"""The training loop against a plain one written here, and against its own interruption."""

from __future__ import annotations

import copy
import ctypes
import platform
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kdutils.data.datasets import Dataset
from kdutils.data.views import IDENTITY_VIEW, epoch_stream, render, split_indices
from kdutils.distillation.bayesian import CENTRE_RATE, kernel_losses
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import ViewTable
from kdutils.machine import Runtime, keep_freed_memory, peak_memory_mb
from kdutils.networks.binary import SIGMA_FLOOR, UNDECAYED
from kdutils.networks.registry import build_model
from kdutils.specs import Bayesian, DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec
from kdutils.training import checkpoints, loop
from kdutils.training.checkpoints import Checkpoint
from kdutils.training.inputs import Inputs, looked_up
from kdutils.training.loop import train as train_on
from kdutils.training.objective import objective
from kdutils.training.optimisers import learning_rate

FLOAT32 = Runtime(torch.device("cpu"), torch.float32)
BFLOAT16 = Runtime(torch.device("cpu"), torch.bfloat16)
DATA = DataSpec(name="synthetic", train_size=50, val_size=20, views=5)
SGD = OptimiserSpec(name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
RESNET = ModelSpec(name="resnet18", options={"stem": "imagenet"})
WRN = ModelSpec(name="wrn_10_1")
BONN = ModelSpec(name="wrn_16_1", options={"precision": "bonn"})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Noise with a tint that tells the class; the test images are white, so that they are known when seen."""
    random = np.random.RandomState(0)
    labels = np.arange(90) % 10
    images = (
        random.randint(0, 150, (90, 32, 32, 3)) + 10 * np.stack([labels, 9 - labels, labels // 2], 1)[:, None, None, :]
    )
    parts = images, labels, np.full((30, 32, 32, 3), 255), np.arange(30) % 10
    return Dataset(
        "synthetic", tuple("abcdefghij"), *(torch.from_numpy(part.astype(np.uint8)) for part in parts), digest="test"
    )


def spec_of(**changes) -> RunSpec:
    return RunSpec(
        **{"data": DATA, "model": ModelSpec(name="small_cnn"), "optimiser": SGD, "epochs": 3, "batch_size": 16}
        | changes
    )


def bonn(**changes) -> RunSpec:
    """With every Bayesian loss so heavy that it would be missed."""
    data = DataSpec(name="synthetic", train_size=40, val_size=10, test_size=10, views=5)
    return spec_of(
        **{"model": BONN, "data": data, "bayesian": Bayesian(kernel_weight=1e-2, nu=1e-2, feature_weight=1e-2)}
        | changes
    )


def network(spec: RunSpec, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(spec.model.name, 10, **spec.model.options)


def train(model, spec, dataset, runtime, tables=(), features=None, report=lambda epoch: None, checkpoint=None):
    """`kdutils.training.loop.train` on inputs looked up here; a checkpoint file is written after every epoch."""
    split = split_indices(dataset.train_labels, *spec.data.split)
    inputs = Inputs(dataset, runtime, *split, tuple(tables), features)
    return train_on(model, spec, inputs, report, checkpoint and Checkpoint(checkpoint, {}, seconds=0))


def plain_loop(model, spec, dataset, loss):
    """What train() promises, without chunks, tables, autocast, fused optimisers; loss(outputs, pixels, labels)."""
    o = spec.optimiser
    optimiser = torch.optim.SGD(
        model.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay, foreach=False
    )
    if o.name == "adam":
        optimiser = torch.optim.Adam(model.parameters(), o.learning_rate, weight_decay=o.weight_decay, foreach=False)
    train_indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    for epoch in range(spec.epochs):
        order, views = epoch_stream(train_indices, spec.data.views, spec.seed, epoch)
        model.train()
        for batch, codes in zip(order.split(spec.batch_size), views.split(spec.batch_size)):
            pixels = render(dataset.train_images, batch, codes, spec.data.normalisation)
            optimiser.zero_grad()
            loss(model(pixels), pixels, dataset.train_labels[batch].long()).backward()
            optimiser.step()
    return model


def assert_same_weights(ours, theirs, tolerance=0.0):
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text: f"{name}: {text}")


def same(one, other) -> bool:
    """Whether two outcomes agree in every number but the time they took."""
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in outcome.history] for outcome in (one, other)]
    return rows[0] == rows[1] and one.metrics == other.metrics and np.array_equal(one.logits, other.logits)


@pytest.mark.parametrize("optimiser", [SGD, OptimiserSpec(learning_rate=1e-4, weight_decay=0.1)], ids=["sgd", "adam"])
def test_training_equals_a_plain_loop(dataset, optimiser):
    spec, model = spec_of(optimiser=optimiser), network(spec_of())
    expected = plain_loop(
        copy.deepcopy(model), spec, dataset, lambda outputs, pixels, labels: F.cross_entropy(outputs, labels)
    )
    start = copy.deepcopy(model)
    train(model, spec, dataset, FLOAT32)
    assert_same_weights(model, expected, 2e-5)
    assert (model.fc1.weight - start.fc1.weight).abs().max() > 1e-3


def test_an_epoch_longer_than_a_chunk_equals_a_plain_loop(dataset, monkeypatch):
    monkeypatch.setattr("kdutils.training.loop._CHUNK", 20)
    spec, model = spec_of(batch_size=8), network(spec_of())
    expected = plain_loop(
        copy.deepcopy(model), spec, dataset, lambda outputs, pixels, labels: F.cross_entropy(outputs, labels)
    )
    train(model, spec, dataset, FLOAT32)
    assert_same_weights(model, expected, 2e-5)


def train_indices(spec, dataset):
    return split_indices(dataset.train_labels, *spec.data.split)[0]


def filled(folder, model, spec, dataset, codes, columns=10) -> ViewTable:
    table = ViewTable(folder, len(dataset.train_labels), columns)
    table.fill(model, dataset, codes, spec.data.normalisation, FLOAT32)
    return table


@pytest.mark.parametrize("teachers", [1, 2])
def test_distilling_from_tables_equals_asking_the_teachers_in_every_step(tmp_path, dataset, teachers):
    alone = spec_of()
    kd = Distillation(
        teachers=tuple(spec_of(seed=seed) for seed in range(teachers)), method=KD(temperature=3.0, kd_weight=0.7)
    )
    spec, models = spec_of(distillation=kd), [network(alone, seed=10 + number) for number in range(teachers)]
    for model in models:  # louder than fresh ones, so that the teacher matters
        model.fc2.weight.data *= 20
    model = network(spec)

    def loss(outputs, pixels, labels):
        with torch.no_grad():
            logits = sum(teacher.eval()(pixels) for teacher in models) / teachers
        soft = F.kl_div(F.log_softmax(outputs / 3, 1), F.softmax(logits / 3, 1), reduction="none").sum(1).mean()
        return 0.3 * F.cross_entropy(outputs, labels) + 0.7 * 9 * soft

    expected = plain_loop(copy.deepcopy(model), spec, dataset, loss)
    without = plain_loop(
        copy.deepcopy(model), spec, dataset, lambda outputs, pixels, labels: F.cross_entropy(outputs, labels)
    )
    tables = [
        filled(tmp_path / str(n), teacher, spec, dataset, looked_up(spec, train_indices(spec, dataset)))
        for n, teacher in enumerate(models)
    ]
    outcome = train(model, spec, dataset, FLOAT32, tables)
    assert_same_weights(model, expected, 2e-4)
    assert (model.fc2.weight - without.fc2.weight).abs().max() > 5e-3
    for row in outcome.history:
        assert row["train_loss"] == pytest.approx(0.3 * row["train_ce"] + 0.7 * row["train_kd"], rel=1e-5)


def test_training_on_cached_features_equals_training_under_a_frozen_backbone(tmp_path, dataset):
    data = DataSpec(name="synthetic", train_size=20, val_size=5, test_size=5, views=2)
    spec = spec_of(model=RESNET, trainable="head", data=data, epochs=2, batch_size=10)
    slow = network(spec)
    quick, backbone, start = copy.deepcopy(slow), copy.deepcopy(slow), copy.deepcopy(slow)
    backbone.fc = torch.nn.Identity()
    codes = looked_up(spec, *split_indices(dataset.train_labels, *spec.data.split))
    features = filled(tmp_path, backbone, spec, dataset, codes, columns=512)
    outcomes = train(slow, spec, dataset, FLOAT32), train(quick, spec, dataset, FLOAT32, features=features)
    assert_same_weights(quick, slow, 2e-3)
    assert (slow.fc.weight - start.fc.weight).abs().max() > 0.01
    start.fc = quick.fc
    assert_same_weights(quick, start)
    np.testing.assert_allclose(outcomes[0].logits, outcomes[1].logits, atol=0.02)
    assert outcomes[0].history[-1]["val_loss"] == pytest.approx(outcomes[1].history[-1]["val_loss"], abs=0.02)


def test_two_runs_are_bit_identical_in_half_precision_too(dataset):
    for runtime in (FLOAT32, BFLOAT16):
        models = [network(spec_of()) for _ in range(2)]
        outcomes = [train(model, spec_of(), dataset, runtime) for model in models]
        assert same(*outcomes)
        assert_same_weights(*models)
        assert all(parameter.dtype == torch.float32 for parameter in models[0].parameters())


@pytest.mark.parametrize(
    "spec",
    [
        spec_of(),
        spec_of(optimiser=OptimiserSpec()),
        spec_of(model=WRN, data=DataSpec(name="synthetic", train_size=8, val_size=4), batch_size=4),
        bonn(
            model=ModelSpec(name="wrn_16_1", options={"precision": "bonn", "dropout": 0.3}),
            optimiser=OptimiserSpec(weight_decay=1e-3),
            test_curve=True,
        ),
    ],
    ids=["sgd", "adam", "batch norm", "feature prior, dropout, bonn"],
)
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, dataset, spec):
    undisturbed = network(spec)
    expected = train(undisturbed, spec, dataset, FLOAT32)

    def interrupt(epoch):
        if epoch == 2:
            raise KeyboardInterrupt

    checkpoint, epochs, model = tmp_path / "checkpoint.safetensors", [], network(spec, seed=99)
    with pytest.raises(KeyboardInterrupt):
        train(network(spec), spec, dataset, FLOAT32, report=interrupt, checkpoint=checkpoint)
    resumed = train(model, spec, dataset, FLOAT32, report=epochs.append, checkpoint=checkpoint)
    assert epochs == [1, 2, 3]
    assert same(resumed, expected)
    assert_same_weights(model, undisturbed)


def of_another_network(path):
    with safe_open(path, "pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    renamed = {name.replace("conv1", "stem"): tensor for name, tensor in tensors.items()}
    save_file(renamed, path, header | {"digest": checkpoints._digest(header["progress"], renamed)})


def with_a_changed_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def without_facts(path):
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 100),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        without_facts,
        of_another_network,
        with_a_changed_bit,
    ],
)
def test_a_damaged_checkpoint_costs_its_epochs_and_nothing_else(tmp_path, dataset, damage):
    checkpoint, spec = tmp_path / "checkpoint.safetensors", spec_of()
    train(network(spec), spec, dataset, FLOAT32, checkpoint=checkpoint)
    damage(checkpoint)
    epochs, expected = [], train(network(spec), spec, dataset, FLOAT32)
    assert same(train(network(spec), spec, dataset, FLOAT32, report=epochs.append, checkpoint=checkpoint), expected)
    assert epochs == [0, 1, 2, 3]


def test_checkpoints_are_no_more_frequent_than_asked(tmp_path, dataset):
    path, spec = tmp_path / "checkpoint.safetensors", spec_of()
    inputs = Inputs(dataset, FLOAT32, *split_indices(dataset.train_labels, *spec.data.split))
    train_on(network(spec), spec, inputs, checkpoint=Checkpoint(path, {}, seconds=1000))
    assert not path.exists()
    train_on(network(spec), spec, inputs, checkpoint=Checkpoint(path, {}, seconds=0))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_was_begun_from_other_inputs_is_not_continued(tmp_path, dataset):
    path, spec = tmp_path / "checkpoint.safetensors", spec_of()
    inputs = Inputs(dataset, FLOAT32, *split_indices(dataset.train_labels, *spec.data.split))
    begun = {"data": {"digest": "a"}, "weights": "w (SHA-256 1)", "teachers": {"resnet18-0": "t"}}
    train_on(network(spec), spec, inputs, checkpoint=Checkpoint(path, begun, seconds=0))
    for other in ({"data": {"digest": "b"}}, {"weights": "w (SHA-256 2)"}, {"teachers": {"resnet18-0": "u"}}, {}):
        epochs = []
        train_on(network(spec), spec, inputs, epochs.append, Checkpoint(path, begun | other, seconds=1000))
        assert epochs == ([2, 3] if not other else [0, 1, 2, 3])


def test_progress_is_told_within_an_epoch_too(dataset, monkeypatch):
    monkeypatch.setattr(loop, "_CHUNK", 32)
    told = []
    train(network(spec_of()), spec_of(epochs=2), dataset, FLOAT32, report=told.append)
    assert told == pytest.approx([0, 32 / 50, 1, 1 + 32 / 50, 2])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_a_run_is_not_charged_with_the_memory_of_those_before_it(dataset):
    total = torch.ones(100_000_000).sum()  # 400 MB, and free again
    peak = peak_memory_mb(FLOAT32)
    assert total == 100_000_000
    assert train(network(spec_of()), spec_of(), dataset, FLOAT32).peak_memory_mb < peak - 200


def test_the_test_set_is_read_once_after_the_last_epoch(dataset):
    model, events = network(spec_of()), []

    def note(module, inputs):
        white = (inputs[0].amax((2, 3)) == inputs[0].amin((2, 3))).all(1) & (inputs[0][:, 0, 0, 0] > 2)
        events.extend(["test image"] * int(white.sum()))

    model.register_forward_pre_hook(note)
    outcome = train(model, spec_of(), dataset, FLOAT32, report=lambda epoch: events.append(epoch))
    assert events == [0, 1, 2, 3] + ["test image"] * 30
    assert outcome.logits.shape == (30, 10) and outcome.labels.tolist() == [n % 10 for n in range(30)]


def test_metrics_are_those_of_the_trained_network(dataset):
    model, spec = network(spec_of()), spec_of(data=DataSpec(name="synthetic", train_size=50, val_size=20, test_size=12))
    outcome = train(model, spec, dataset, FLOAT32)
    _, val = split_indices(dataset.train_labels, *spec.data.split)
    shown = {
        "val": (dataset.train_images, dataset.train_labels, torch.from_numpy(val)),
        "test": (dataset.test_images, dataset.test_labels, torch.arange(12)),
    }
    for split, (images, labels, indices) in shown.items():
        with torch.no_grad():
            logits = model(render(images, indices, torch.full_like(indices, IDENTITY_VIEW))).double()
        right = labels[indices].long()
        loss = -(logits - logits.exp().sum(1, keepdim=True).log())[torch.arange(len(indices)), right].mean().item()
        assert outcome.metrics[split] == {
            "loss": pytest.approx(loss, rel=1e-5),
            "accuracy": pytest.approx(100 * (logits.argmax(1) == right).double().mean().item()),
        }
    assert len(outcome.logits) == 12
    last = outcome.history[-1]
    assert (
        outcome.metrics["val"]["accuracy"] == last["val_accuracy"]
        and outcome.metrics["train"]["loss"] == last["train_loss"]
    )


def test_training_metrics_are_means_over_the_views_shown(dataset):
    spec = spec_of(optimiser=OptimiserSpec(name="sgd", learning_rate=1e-30), epochs=2)  # nothing moves
    model = network(spec)
    outcome = train(model, spec, dataset, FLOAT32)
    train_indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    for epoch, row in enumerate(outcome.history):
        order, views = epoch_stream(train_indices, 5, 0, epoch)
        with torch.no_grad():
            logits, labels = model(render(dataset.train_images, order, views)), dataset.train_labels[order].long()
        assert row["epoch"] == epoch + 1
        assert row["train_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(
            100 * (logits.argmax(1) == labels).float().mean().item(), rel=1e-5
        )


def test_without_validation_images_there_are_no_validation_metrics(dataset):
    outcome = train(
        network(spec_of()), spec_of(data=DataSpec(name="synthetic", train_size=20), epochs=1), dataset, FLOAT32
    )
    assert set(outcome.metrics) == {"train", "test"} and not any(name.startswith("val") for name in outcome.history[0])


@pytest.mark.parametrize(("images", "sizes"), [(33, [16, 17]), (34, [16, 16, 2]), (32, [16, 16]), (5, [5])])
def test_a_single_left_over_image_joins_the_last_batch(dataset, images, sizes):
    model, spec, seen = network(spec_of()), spec_of(data=DataSpec(name="synthetic", train_size=images), epochs=1), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])) if module.training else None)
    train(model, spec, dataset, FLOAT32)
    assert seen == sizes


@pytest.mark.parametrize("test_curve", [False, True])
def test_a_diverging_run_ends_with_that_epoch_and_says_so(dataset, test_curve):
    spec = spec_of(optimiser=OptimiserSpec(name="sgd", learning_rate=1e30), test_curve=test_curve)
    outcome = train(network(spec), spec, dataset, FLOAT32)
    assert outcome.diverged == 1 and len(outcome.history) == 1 and not np.isfinite(outcome.history[0]["train_loss"])
    images = outcome.images_per_second * outcome.seconds
    assert spec.epochs > 1 and images == pytest.approx(spec.data.train_size, rel=0.2)  # both are rounded
    assert outcome.metrics == dict.fromkeys(("train", "val", "test"), {"loss": None, "accuracy": None})


def test_a_run_whose_last_step_diverges_has_diverged(dataset):
    spec = spec_of(optimiser=OptimiserSpec(name="sgd", learning_rate=1e38), epochs=1, batch_size=50)
    outcome = train(network(spec), spec, dataset, FLOAT32)
    assert np.isfinite(outcome.history[0]["train_loss"]) and outcome.diverged == 1


def torch_rates(scheduler_of, learning_rate, steps) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], learning_rate)
    scheduler, rates = scheduler_of(optimiser), []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


def test_the_step_schedule_is_torchs_multi_step():
    spec = OptimiserSpec(learning_rate=0.05, schedule="step", milestones=(3, 5, 6), factor=0.2)
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 5, 6], 0.2), 0.05, 9)
    assert [learning_rate(spec, epoch, 9) for epoch in range(9)] == pytest.approx(expected)
    assert [learning_rate(spec, epoch + 0.9, 9) for epoch in range(9)] == pytest.approx(expected)


def test_the_one_cycle_schedule_is_torchs_with_linear_annealing():
    spec, steps = (
        OptimiserSpec(learning_rate=0.4, schedule="one_cycle"),
        50,
    )  # torch's phases end at pct * total - 1 and total - 1

    def one_cycle(optimiser):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 0.4, total_steps=steps + 1, pct_start=(0.3 * steps + 1) / (steps + 1), anneal_strategy="linear",
            div_factor=20, final_div_factor=1e12, cycle_momentum=False,
        )  # fmt: skip

    expected = torch_rates(one_cycle, 0.4, steps)
    assert [learning_rate(spec, 10 * step / steps, 10) for step in range(steps)] == pytest.approx(expected, abs=1e-9)


def test_a_constant_rate_is_constant():
    assert {learning_rate(OptimiserSpec(learning_rate=0.3), epoch, 5) for epoch in range(5)} == {0.3}


def test_the_schedule_reaches_the_optimiser(dataset):
    optimiser = OptimiserSpec(name="sgd", learning_rate=0.01, schedule="step", milestones=(1, 2), factor=0.5)
    rows = train(network(spec_of()), spec_of(optimiser=optimiser), dataset, FLOAT32).history
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.005, 0.0025])
    cycle = OptimiserSpec(name="sgd", learning_rate=0.01, schedule="one_cycle")
    rows = train(network(spec_of()), spec_of(optimiser=cycle, epochs=1), dataset, FLOAT32).history
    assert rows[0]["learning_rate"] == pytest.approx(0.01 * (1 - 0.75) / 0.7)  # four batches: the last begins at 3/4


STILL = OptimiserSpec(name="sgd", learning_rate=1e-30)  # nothing moves but the centres


def test_the_bayesian_losses_join_the_cross_entropy_and_stand_in_the_history(dataset):
    spec = bonn(optimiser=STILL, epochs=2, batch_size=40)
    model, theta = network(spec), spec.bayesian.feature_weight
    start, centres = copy.deepcopy(model), torch.zeros(10, 64)
    sigma = F.softplus(torch.tensor(0.5413)) + SIGMA_FLOOR
    outcome = train(model, spec, dataset, FLOAT32)
    train_indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    start.train().fc.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    for epoch, row in enumerate(outcome.history):
        order, views = epoch_stream(train_indices, 5, 0, epoch)
        labels, seen = dataset.train_labels[order].long(), []
        logits = start(render(dataset.train_images, order, views))
        assert row["train_ce"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        assert row["train_kernel"] == pytest.approx(kernel_losses(start, 1e-2, 1e-2).item(), rel=1e-5)
        distances = (seen[0] - centres[labels]).square()
        assert row["train_feature"] == pytest.approx(
            (theta / 2 * (distances * (1 + sigma**-2) + (sigma**2).log()).sum(1).mean()).item(), rel=1e-3
        )
        assert row["train_loss"] == pytest.approx(
            row["train_ce"] + row["train_kernel"] + row["train_feature"], rel=1e-5
        )
        for j in range(10):
            members = seen[0][labels == j]
            centres[j] -= CENTRE_RATE * (centres[j] - members).sum(0) / (1 + len(members))
    assert outcome.history[0]["train_feature"] > 1.1 * outcome.history[1]["train_feature"]  # the centres did move


def test_distillation_and_the_bayesian_losses_add_up(tmp_path, dataset):
    teacher = spec_of(data=bonn().data)
    spec = bonn(distillation=Distillation(teachers=(teacher,), method=KD(temperature=3.0, kd_weight=0.7)), epochs=2)
    table = filled(tmp_path, network(teacher, seed=10), spec, dataset, looked_up(spec, train_indices(spec, dataset)))
    for row in train(network(spec), spec, dataset, FLOAT32, [table]).history:
        parts = 0.3 * row["train_ce"] + 0.7 * row["train_kd"] + row["train_kernel"] + row["train_feature"]
        assert (
            row["train_loss"] == pytest.approx(parts, rel=1e-5) and row["train_kernel"] > 0.01 and row["train_kd"] > 0
        )


def test_without_bayesian_losses_the_history_has_no_such_columns(dataset):
    plain, kernel_only = (
        train(network(s), s, dataset, FLOAT32).history[0]
        for s in (bonn(epochs=1, bayesian=None), bonn(epochs=1, bayesian=Bayesian()))
    )
    names = {"epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}
    assert set(plain) == names and set(kernel_only) == names | {"train_ce", "train_kernel"}


def test_the_bayesian_losses_move_what_they_describe(dataset):
    spec, seen = bonn(epochs=1), []
    model = network(spec)
    start = copy.deepcopy(model)
    train(
        model,
        spec,
        dataset,
        FLOAT32,
        report=lambda epoch: seen.append(
            (model.feature_prior.raw_sigma.detach().clone(), model.feature_prior.centres.clone())
        ),
    )
    assert (seen[-1][0] != 0.5413).all() and seen[-1][1].abs().sum(1).gt(0).all()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start.state_dict()[name])}
    assert moved == set(start.state_dict())  # and what is left is the network alone, without its prior
    without = copy.deepcopy(start)
    train(without, bonn(epochs=1, bayesian=None), dataset, FLOAT32)
    ours, theirs, before = (dict(m.named_parameters()) for m in (model, without, start))
    described = [name for name in before if name.endswith(("mu", "raw_sigma"))]
    assert len(described) == 24 and all(
        torch.equal(theirs[name], before[name]) and not torch.equal(ours[name], before[name]) for name in described
    )


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_what_describes_a_prior_does_not_decay(dataset, name):
    decay = OptimiserSpec(name=name, learning_rate=1e-5, weight_decay=1e4)  # a tenth of a weight each step, for SGD
    spec, seen = bonn(optimiser=decay, epochs=1, bayesian=Bayesian(kernel_weight=0.0, feature_weight=1e-9)), []
    model = network(spec)
    start = copy.deepcopy(dict(model.named_parameters()))
    train(
        model, spec, dataset, FLOAT32, report=lambda epoch: seen.append(model.feature_prior.raw_sigma.detach().clone())
    )
    free, steps = {key for key in start if key.rsplit(".", 1)[1] in UNDECAYED}, 3  # 16 + 16 + 8 images
    for key, parameter in model.named_parameters():
        if key in free:
            torch.testing.assert_close(parameter, start[key], atol=2e-4, rtol=0, msg=key)
        elif start[key].any():
            kept = (parameter.norm() / start[key].norm()).item()
            assert kept < 0.9**steps + 0.01 if name == "sgd" else kept < 1, key
    assert len(free) == 36 and (seen[-1] - 0.5413).abs().max() < 1e-4


def test_looking_at_the_test_set_changes_nothing_else(dataset):
    plain, looked = spec_of(), spec_of(test_curve=True)
    models = network(plain), network(plain)
    outcomes = [train(model, spec, dataset, FLOAT32) for model, spec in zip(models, (plain, looked))]
    assert_same_weights(*models)
    rows = [{name: value for name, value in row.items() if not name.startswith("test_")} for row in outcomes[1].history]
    outcomes[1].history[:], curve = rows, [(row["test_loss"], row["test_accuracy"]) for row in outcomes[1].history]
    assert same(*outcomes)
    for epochs, scores in enumerate(curve, 1):  # a run that ends there has the same
        assert tuple(train(network(plain), spec_of(epochs=epochs), dataset, FLOAT32).metrics["test"].values()) == scores
    assert len({loss for loss, _ in curve}) == 3 and curve[-1] == tuple(outcomes[0].metrics["test"].values())


def test_a_head_on_cached_features_has_a_test_curve_too(tmp_path, dataset):
    data = DataSpec(name="synthetic", train_size=4, val_size=2, test_size=3, views=1)
    spec = spec_of(model=RESNET, trainable="head", data=data, epochs=1, batch_size=2, test_curve=True)
    model = network(spec)
    backbone = copy.deepcopy(model)
    backbone.fc = torch.nn.Identity()
    codes = looked_up(spec, *split_indices(dataset.train_labels, *spec.data.split))
    outcome = train(
        model, spec, dataset, FLOAT32, features=filled(tmp_path, backbone, spec, dataset, codes, columns=512)
    )
    assert outcome.metrics["test"] == {name: outcome.history[-1][f"test_{name}"] for name in ("loss", "accuracy")}


def test_the_seconds_of_a_head_hold_those_of_its_features(tmp_path, dataset):
    data = DataSpec(name="synthetic", train_size=4, val_size=2, test_size=3, views=1)
    spec = spec_of(model=RESNET, trainable="head", data=data, epochs=1, batch_size=2)
    model = network(spec)
    backbone = copy.deepcopy(model)
    backbone.fc = torch.nn.Identity()
    codes = looked_up(spec, *split_indices(dataset.train_labels, *spec.data.split))
    features = filled(tmp_path, backbone, spec, dataset, codes, columns=512)
    inputs = Inputs(dataset, FLOAT32, *split_indices(dataset.train_labels, *data.split), features=features)
    alone = train_on(copy.deepcopy(model), spec, inputs).seconds
    assert alone + 900 < train_on(model, spec, replace(inputs, features_seconds=1000.0)).seconds < alone + 1100


def test_two_binary_runs_are_bit_identical_in_half_precision_too(dataset):
    spec = bonn(model=ModelSpec(name="wrn_16_1", options={"precision": "bonn", "dropout": 0.3}), epochs=1)
    models = [network(spec) for _ in range(2)]
    assert same(*[train(model, spec, dataset, BFLOAT16) for model in models])
    assert_same_weights(*models)
    assert all(parameter.dtype == torch.float32 for parameter in models[0].parameters())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_the_settings_that_keep_freed_memory(monkeypatch):
    mallopt, taken = ctypes.CDLL(None).mallopt, []
    monkeypatch.setattr(
        "ctypes.CDLL", lambda name: SimpleNamespace(mallopt=lambda *setting: taken.append(mallopt(*setting)))
    )
    keep_freed_memory()
    assert taken == [1, 1]  # 0 were a refusal


@pytest.mark.parametrize(
    "library", [lambda name: object(), lambda name: ctypes._dlopen("no such library", 0)], ids=["another", "none"]
)
def test_without_glibc_freed_memory_is_nobodys_concern(monkeypatch, library):
    monkeypatch.setattr("ctypes.CDLL", library)
    keep_freed_memory()


def test_the_objective_of_one_batch_is_the_loss_that_the_loop_notes(tmp_path, dataset):
    kd = Distillation(teachers=(spec_of(),), method=KD(temperature=3.0, kd_weight=0.7))
    spec = spec_of(distillation=kd, epochs=1, batch_size=50, optimiser=STILL)
    model, teacher = network(spec), network(spec, seed=10)
    table = filled(tmp_path, teacher, spec, dataset, looked_up(spec, train_indices(spec, dataset)))
    row = train(copy.deepcopy(model), spec, dataset, FLOAT32, [table]).history[0]
    order, views = epoch_stream(train_indices(spec, dataset), 5, 0, 0)
    with torch.no_grad():
        pixels, labels = render(dataset.train_images, order, views), dataset.train_labels[order].long()
        loss, terms = objective(spec, model, model(pixels), labels, teacher.eval()(pixels)[None])
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-3)
    assert {name: row[f"train_{name}"] for name in terms} == {
        k: pytest.approx(v.item(), rel=1e-2) for k, v in terms.items()
    }
