"""Both arms of the benchmarks do the same work, and ratios are what their docstrings say; no speed is tested."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from benchmarks import __main__ as command, baseline, benchmark
from benchmarks.methods import benchmark_methods

from kdutils.data.datasets import load_dataset
from kdutils.data.views import VIEWS, render, split_indices
from kdutils.distillation.methods import KD, METHODS, method_loss
from kdutils.machine import Runtime
from kdutils.studies import study
from kdutils.training.loop import train

CPU = torch.device("cpu")
EXACT = Runtime(CPU, torch.float32)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch):
    """One thread and one process, and the process's settings put back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("KD_WORKERS", "1")
    monkeypatch.setattr(benchmark, "cores", lambda: 1)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def spec():
    return benchmark.student_spec(images=100, epochs=2)


def _images_shown(batches: baseline.Batches) -> list[Counter]:
    """How often each label was seen in each of two epochs."""
    return [Counter(label for _, labels in batches(epoch) for label in labels.tolist()) for epoch in range(2)]


def test_both_arms_see_the_same_images_in_the_same_batches_and_epochs(spec):
    dataset = load_dataset(spec.data.name)
    train_indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    assert torch.equal(torch.from_numpy(baseline.PilImages(spec, dataset).images), dataset.train_images[train_indices])
    loaded, resident = baseline.loaded_batches(spec, dataset, 0), baseline.resident_batches(spec, dataset, CPU)
    assert (
        _images_shown(loaded) == _images_shown(resident) == 2 * [Counter(dataset.train_labels[train_indices].tolist())]
    )
    sizes = [[len(labels) for _, labels in batches(0)] for batches in (loaded, resident)]
    assert sizes[0] == sizes[1] == [32, 32, 32, 4]


def test_plain_images_are_among_the_162_views(spec):
    dataset = load_dataset(spec.data.name)
    shown = baseline.PilImages(spec, dataset)
    train_indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    codes = torch.arange(VIEWS)
    for number in (0, 57):
        views = render(
            dataset.train_images, torch.full_like(codes, train_indices[number]), codes, spec.data.normalisation
        )
        pixels, label = shown[number]
        assert (views - pixels).abs().amax((1, 2, 3)).min() < 1e-6
        assert label == dataset.train_labels[train_indices[number]]


def test_tutorial_loss_is_ours():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(32, 10), torch.randn(32, 10), torch.arange(32) % 10
    ours, _ = method_loss(KD(temperature=4.0, kd_weight=0.7), student, teacher, labels)
    assert torch.allclose(baseline.tutorial_loss(student, teacher, labels, 4.0, 0.7), ours)


def test_plain_loop_and_ours_have_the_same_loss_on_one_batch(tmp_path):
    spec = benchmark.student_spec(images=32, epochs=1)
    dataset = load_dataset(spec.data.name)
    _, plain_loss = baseline.teach(spec, baseline.resident_batches(spec, dataset, CPU), EXACT, torch.contiguous_format)
    benchmark.fill(spec, tmp_path, benchmark.entry_codes(spec, dataset))
    outcome = train(
        baseline.network(spec),
        spec,
        benchmark.inputs(spec, dataset, EXACT, (benchmark._table(spec, dataset, tmp_path),)),
    )
    assert outcome.history[0]["train_loss"] == pytest.approx(
        plain_loss, rel=2e-3
    )  # the table holds bf16 logits as fp16


def test_sgd_steps_are_the_same_in_both_arms(tmp_path):
    spec = benchmark.cifar100_spec(images=16, epochs=1).with_(batch_size=4)  # three losses follow a step
    dataset = load_dataset(spec.data.name)
    _, plain_loss = baseline.teach(spec, baseline.resident_batches(spec, dataset, CPU), EXACT, torch.contiguous_format)
    table = benchmark._table(spec, dataset, tmp_path)
    table.fill(
        baseline.teacher_network(spec), dataset, benchmark.entry_codes(spec, dataset), spec.data.normalisation, EXACT
    )
    outcome = train(baseline.network(spec), spec, benchmark.inputs(spec, dataset, EXACT, (table,)))
    assert outcome.history[0]["train_loss"] == pytest.approx(plain_loss, rel=1e-3)  # the table holds fp16


def test_the_second_task_is_study_d_in_the_benchmarks_size():
    spec = benchmark.cifar100_spec(images=640, epochs=2)
    full = study("cifar100", "paper", dataset=spec.data.name).student()
    assert (spec.model.name, spec.teachers[0].model.name, spec.data.views, spec.batch_size) == (
        "cnn4",
        "resnet32x4",
        VIEWS,
        128,
    )
    assert spec.optimiser == full.optimiser and spec.optimiser.learning_rate == 0.1
    method = spec.distillation.method
    assert (method.temperature, method.kd_weight, method.ce_weight) == (4.0, 0.75, 0.25)
    assert (spec.data.train_size, spec.epochs) == (640, 2)
    labels = load_dataset(spec.data.name).train_labels
    few, many = (split_indices(labels, *benchmark._sized(spec, images, 1).data.split)[0] for images in (100, 640))
    assert set(few) <= set(many)  # the plain arm sees a part of our images


def test_all_students_share_one_teacher_and_its_views(spec):
    other = benchmark.student_spec(images=100, epochs=2, seed=1)
    dataset = load_dataset(spec.data.name)
    assert other.teachers == spec.teachers and spec.teachers[0].model.option("stem") == "cifar_pool"
    assert benchmark.entry_codes(spec, dataset).tolist() == benchmark.entry_codes(other, dataset).tolist()


def test_study_is_the_paper_profile():
    plan = study("assignment", "paper", dataset="synthetic", init="random")
    size = benchmark.study_size(plan.grid(("resnet18",)), len(plan.seeds))
    assert size["students"] == 3 * 4 + 4 and size["images"] == 16 * 30 * 9000
    assert 9000 * 27 < size["entries"] < 9000 * 28  # of 30 draws from 162 views, 27.5 are distinct on average


def test_only_taught_students_of_a_grid_share_the_table():
    plan = study("cifar100", "paper", dataset="synthetic", temperature=4.0)
    size = benchmark.study_size(plan.grid(), len(plan.seeds))
    # of 10,000 images, 5,000 validate; weights 0, 0.25, 0.5, 0.75 and five seeds
    assert size["students"] == 3 + 4 and size["images"] == 7 * 100 * 5000
    assert 5000 * 74 < size["entries"] < 5000 * 76  # of 100 draws from 162 views, 74.8 are distinct on average


def test_ratios_take_the_better_way_of_each_arm():
    rates = {
        "plain, one": 100.0,
        "plain, many": 50.0,
        "filling, many": 10.0,
        "kdutils, one": 400.0,
        "kdutils, many": 800.0,
    }
    ratios = benchmark._ratios(rates, {"students": 4, "images": 8000, "entries": 100})
    assert ratios["ratio_filled"] == 8
    assert ratios["ratio_with_filling"] == pytest.approx(8000 / (10 + 10) / 100)
    assert ratios["compared"] == {"plain": "plain, one", "kdutils": "kdutils, many", "with_filling": 400.0}


def test_prints_the_ladder_and_writes_the_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setattr(
        benchmark, "ProcessPoolExecutor", lambda count, *_: ThreadPoolExecutor(count)
    )  # a quicker start
    result = benchmark.benchmark(images=64, epochs=1, students=1, json_file=tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == result
    assert result["ratio_filled"] > 0 and result["ratio_with_filling"] > 0
    assert result["ratio_with_filling"] <= result["ratio_filled"]
    rungs = [row["rung"] for row in result["ladder"]]
    assert (
        rungs[0] == "plain"
        and rungs[1:3] == ["+ resident data", "+ channels_last"]
        and "table" in rungs[-1]
        and len(rungs) == 5
    )
    printed = capsys.readouterr().out
    assert all(rung in printed for rung in rungs) and result["environment"]["hardware"] in printed
    assert {"torch", "hardware", "threads"} <= result["environment"].keys()
    assert not (tmp_path / "runs").exists()  # the user's store is left alone


def test_binary_networks_are_measured_beside_their_full_precision_twins(tmp_path, capsys):
    result = benchmark.benchmark_binary(images=16, rounds=1, json_file=tmp_path / "binary.json")
    assert json.loads((tmp_path / "binary.json").read_text()) == result
    assert [(row["network"], row["images"]) for row in result["networks"]] == [("wrn_22", 16), ("wrn_16_7", 2)]
    for row in result["networks"]:
        for precision in ("xnor", "bonn"):
            assert row[f"ratio_{precision}"] == pytest.approx(row[f"{precision} (ms/image)"] / row["full (ms/image)"])
    assert "wrn_16_7" in capsys.readouterr().out


def test_every_method_is_measured_beside_kd(tmp_path, capsys):
    result = benchmark_methods(rounds=1, batch=4, json_file=tmp_path / "methods.json")
    assert json.loads((tmp_path / "methods.json").read_text()) == result
    assert [row["method"] for row in result["methods"]] == list(METHODS) and result["methods"][0]["ratio"] == 1
    printed = capsys.readouterr().out
    assert all(name in printed for name in METHODS)


def test_cifar100_writes_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    small = benchmark.cifar100_spec(images=32, epochs=1).with_(batch_size=16)
    monkeypatch.setattr(benchmark, "cifar100_spec", lambda images, epochs: benchmark._sized(small, images, epochs))
    scaling = pd.DataFrame({"workers": [1, 2], "over one worker": [1.0, 1.9]})
    monkeypatch.setattr(benchmark, "scaling_table", lambda spec, workers, runs: scaling)
    result = benchmark.benchmark_cifar100(
        images=32, epochs=1, plain_images=20, students=1, runs=2, scaling=(1, 2), json_file=tmp_path / "figures.json"
    )
    assert json.loads((tmp_path / "figures.json").read_text()) == result
    rates, table = result["images_per_second"], pd.DataFrame(result["scaling"])
    best = {
        arm: max(rate for title, rate in rates.items() if title.startswith(arm))
        for arm in ("plain", "plain, one process", "kdutils")
    }
    assert result["ratio_side_by_side"] == best["kdutils"] / best["plain"] > result["ratio_with_filling"] > 0
    assert (
        result["ratio_resnet32x4_cnn4"] == best["kdutils"] / best["plain, one process"] >= result["ratio_side_by_side"]
    )
    assert (
        len(rates) == 5
        and min(rates.values()) > 0
        and list(result["entries_per_second"]) == ["filling, 1 side by side"]
    )
    assert table["workers"].tolist() == [1, 2] and result["ratio_two_workers"] == 1.9
    assert {"data", "images", "plain_images", "runs", "spec"} <= result["setting"].keys() and "hardware" in result[
        "environment"
    ]
    assert result["environment"]["hardware"] in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [[], ["distillation"], ["cifar100"], ["binary"], ["methods"]])
def test_each_benchmark_has_its_command(arguments, monkeypatch, tmp_path):
    asked = []
    for name in command.BENCHMARKS:
        monkeypatch.setitem(command.BENCHMARKS, name, lambda json_file, name=name: asked.append((name, json_file)))
    command.main([*arguments, "--json", str(tmp_path / "f.json")])
    assert asked == [(*(arguments or ["distillation"]), tmp_path / "f.json")]
