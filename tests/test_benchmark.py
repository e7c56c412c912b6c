"""Both arms of the benchmark do the same work; its ratios are what their docstring says. Speed itself is not tested."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from kdutils import baseline, benchmark
from kdutils.data import load_dataset, render, split_indices
from kdutils.losses import kd_loss
from kdutils.runtime import Runtime
from kdutils.specs import VIEWS
from kdutils.training import train

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
    train_indices, _ = split_indices(dataset.train_labels, spec.data)
    assert torch.equal(torch.from_numpy(baseline.PilImages(spec, dataset).images), dataset.train_images[train_indices])
    loaded, resident = baseline.loaded_batches(spec, dataset, 0), baseline.resident_batches(spec, dataset, CPU)
    assert _images_shown(loaded) == _images_shown(resident) == 2 * [Counter(dataset.train_labels[train_indices].tolist())]
    sizes = [[len(labels) for _, labels in batches(0)] for batches in (loaded, resident)]
    assert sizes[0] == sizes[1] == [32, 32, 32, 4]


def test_plain_images_are_among_the_162_views(spec):
    dataset = load_dataset(spec.data.name)
    shown = baseline.PilImages(spec, dataset)
    train_indices, _ = split_indices(dataset.train_labels, spec.data)
    codes = torch.arange(VIEWS)
    for number in (0, 57):
        views = render(dataset.train_images, torch.full_like(codes, train_indices[number]), codes, spec.data.normalisation)
        pixels, label = shown[number]
        assert (views - pixels).abs().amax((1, 2, 3)).min() < 1e-6
        assert label == dataset.train_labels[train_indices[number]]


def test_tutorial_loss_is_ours():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(32, 10), torch.randn(32, 10), torch.arange(32) % 10
    assert torch.allclose(baseline.tutorial_loss(student, teacher, labels, 4.0, 0.7), kd_loss(student, teacher, labels, 4.0, 0.7))


def test_plain_loop_and_ours_have_the_same_loss_on_one_batch(tmp_path):
    spec = benchmark.student_spec(images=32, epochs=1)
    dataset = load_dataset(spec.data.name)
    _, plain_loss = baseline.teach(spec, baseline.resident_batches(spec, dataset, CPU), EXACT, torch.contiguous_format)
    benchmark.fill(spec, tmp_path, benchmark.training_codes(spec, dataset))
    outcome = train(baseline.network(spec), spec, dataset, EXACT, [benchmark._table(spec, dataset, tmp_path)])
    assert outcome.history[0]["train_loss"] == pytest.approx(plain_loss, rel=2e-3)  # the table holds bf16 logits as fp16


def test_all_students_share_one_teacher_and_its_views(spec):
    other = benchmark.student_spec(images=100, epochs=2, seed=1)
    dataset = load_dataset(spec.data.name)
    assert other.teachers == spec.teachers and spec.teachers[0].model.options == {"stem": "cifar_pool"}
    assert benchmark.training_codes(spec, dataset).tolist() == benchmark.training_codes(other, dataset).tolist()


def test_study_is_the_paper_profile(spec):
    study = benchmark.study_size(spec.data.name)
    assert study["students"] == 3 * 4 + 4 and study["images"] == 16 * 30 * 9000
    assert 9000 * 27 < study["entries"] < 9000 * 28  # of 30 draws from 162 views, 27.5 are distinct on average


def test_ratios_take_the_better_way_of_each_arm():
    rates = {"plain, one": 100.0, "plain, many": 50.0, "filling, many": 10.0, "kdutils, one": 400.0, "kdutils, many": 800.0}
    ratios = benchmark._ratios(rates, {"students": 4, "images": 8000, "entries": 100})
    assert ratios["ratio_filled"] == 8
    assert ratios["ratio_with_filling"] == pytest.approx(8000 / (10 + 10) / 100)
    assert ratios["compared"] == {"plain": "plain, one", "kdutils": "kdutils, many", "with_filling": 400.0}


def test_prints_the_ladder_and_writes_the_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    result = benchmark.benchmark(images=64, epochs=1, students=1, json_file=tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == result
    assert result["ratio_filled"] > 0 and result["ratio_with_filling"] > 0
    assert result["ratio_with_filling"] <= result["ratio_filled"]
    rungs = [row["rung"] for row in result["ladder"]]
    assert rungs[0] == "plain" and rungs[1:3] == ["+ resident data", "+ channels_last"] and "table" in rungs[-1] and len(rungs) == 5
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
