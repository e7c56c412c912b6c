"""Both arms of the benchmarks do the same work; ratios and tables are what their docstrings say. Speed itself is not tested."""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from fake_records import record_of, spec_of

import kdutils as kd
from kdutils import baseline, benchmark
from kdutils.__main__ import main
from kdutils.data.datasets import load_dataset
from kdutils.data.views import VIEWS, epoch_stream, render, split_indices
from kdutils.distillation.losses import kd_loss
from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.machine import Runtime
from kdutils.networks.counting import forward_macs
from kdutils.specs import RunSpec
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
    train_indices, _ = split_indices(dataset.train_labels, spec.data)
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
    train_indices, _ = split_indices(dataset.train_labels, spec.data)
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
    assert torch.allclose(
        baseline.tutorial_loss(student, teacher, labels, 4.0, 0.7), kd_loss(student, teacher, labels, 4.0, 0.7)
    )


def test_plain_loop_and_ours_have_the_same_loss_on_one_batch(tmp_path):
    spec = benchmark.student_spec(images=32, epochs=1)
    dataset = load_dataset(spec.data.name)
    _, plain_loss = baseline.teach(spec, baseline.resident_batches(spec, dataset, CPU), EXACT, torch.contiguous_format)
    benchmark.fill(spec, tmp_path, benchmark.training_codes(spec, dataset))
    outcome = train(baseline.network(spec), spec, dataset, EXACT, [benchmark._table(spec, dataset, tmp_path)])
    assert outcome.history[0]["train_loss"] == pytest.approx(
        plain_loss, rel=2e-3
    )  # the table holds bf16 logits as fp16


def test_sgd_steps_are_the_same_in_both_arms(tmp_path):
    spec = RunSpec(
        **dict(benchmark.cifar100_spec(images=64, epochs=1)) | {"batch_size": 16}
    )  # the first loss precedes any step, three follow one
    dataset = load_dataset(spec.data.name)
    _, plain_loss = baseline.teach(spec, baseline.resident_batches(spec, dataset, CPU), EXACT, torch.contiguous_format)
    table = benchmark._table(spec, dataset, tmp_path)
    table.fill(
        baseline.teacher_network(spec), dataset, benchmark.training_codes(spec, dataset), spec.data.normalisation, EXACT
    )
    outcome = train(baseline.network(spec), spec, dataset, EXACT, [table])
    assert outcome.history[0]["train_loss"] == pytest.approx(plain_loss, rel=1e-3)  # the table holds fp16


def test_the_second_task_is_study_d_in_the_benchmarks_size():
    spec = benchmark.cifar100_spec(images=640, epochs=2)
    full = study("cifar100", "paper", dataset=spec.data.name).taught(KD(temperature=4.0, kd_weight=0.75))
    assert (spec.model.name, spec.teachers[0].model.name, spec.data.views, spec.batch_size) == (
        "cnn4",
        "resnet32x4",
        VIEWS,
        128,
    )
    assert (spec.optimiser, spec.distillation) == (
        full.optimiser,
        full.distillation,
    ) and spec.optimiser.learning_rate == 0.1
    assert (spec.data.train_size, spec.epochs) == (640, 2)
    few, many = (
        split_indices(load_dataset(spec.data.name).train_labels, benchmark._sized(spec, images, 1).data)[0]
        for images in (100, 640)
    )
    assert set(few) <= set(many)  # the plain arm sees a part of our images


def test_all_students_share_one_teacher_and_its_views(spec):
    other = benchmark.student_spec(images=100, epochs=2, seed=1)
    dataset = load_dataset(spec.data.name)
    assert other.teachers == spec.teachers and spec.teachers[0].model.options == {"stem": "cifar_pool"}
    assert benchmark.training_codes(spec, dataset).tolist() == benchmark.training_codes(other, dataset).tolist()


def test_study_is_the_paper_profile(spec):
    plan = study("assignment", "paper", dataset=spec.data.name, init="random")
    size = benchmark.study_size(plan, plan.grid(("resnet18",)))
    assert size["students"] == 3 * 4 + 4 and size["images"] == 16 * 30 * 9000
    assert 9000 * 27 < size["entries"] < 9000 * 28  # of 30 draws from 162 views, 27.5 are distinct on average


def test_only_taught_students_of_a_grid_share_the_table():
    plan = study("cifar100", "paper", dataset="synthetic", temperature=4.0)
    size = benchmark.study_size(
        plan, plan.grid()
    )  # of 10,000 images, 5,000 validate; weights 0, 0.25, 0.5, 0.75 and five seeds
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


def test_cifar100_writes_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    small = RunSpec(**dict(benchmark.cifar100_spec(images=32, epochs=1)) | {"batch_size": 16})
    monkeypatch.setattr(benchmark, "cifar100_spec", lambda images, epochs: benchmark._sized(small, images, epochs))
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
    assert table["workers"].tolist() == [1, 2] and result["ratio_two_workers"] == table["over one worker"][1] > 0
    assert {"data", "images", "plain_images", "runs", "spec"} <= result["setting"].keys() and "hardware" in result[
        "environment"
    ]
    assert result["environment"]["hardware"] in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("what", "function"), [([], "benchmark"), (["cifar100"], "benchmark_cifar100"), (["binary"], "benchmark_binary")]
)
def test_each_benchmark_has_its_command(what, function, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(benchmark, function, lambda json_file: asked.append(json_file))
    assert main(["benchmark", *what, "--json", str(tmp_path / "f.json")]) == 0 and asked == [tmp_path / "f.json"]


# What chapters show


def test_a_worker_adds_what_its_runs_take(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_USED_RUNS", str(tmp_path / "used"))
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    table = kd.scaling_table(
        benchmark._sized(study("cifar100", "smoke", dataset="synthetic").student(), images=600, epochs=2), workers=(1, 2), runs=2
    )
    assert list(table) == ["workers", "seconds for all", "seconds per run", "images/s", "over one worker"]
    assert table["workers"].tolist() == [1, 2] and table["over one worker"][0] == 1
    assert (table["images/s"] * table["seconds for all"]).tolist() == pytest.approx(
        [2 * 2 * 600] * 2, rel=0.05
    )  # both are rounded
    assert table["over one worker"][1] == pytest.approx(table["images/s"][1] / table["images/s"][0], rel=0.05)
    assert 2 * table["seconds per run"][0] <= table["seconds for all"][0] + 0.01  # one after the other
    assert not (tmp_path / "used").exists() and not (tmp_path / "runs").exists()


def test_every_number_of_workers_runs_the_same_copies(monkeypatch):
    ran = []

    @contextmanager
    def threads(count, share, spec, folder):
        assert share == 1
        yield [ThreadPoolExecutor(1, f"worker-{number}") for number in range(count)]

    monkeypatch.setattr(benchmark, "_processes", threads)
    monkeypatch.setattr(benchmark, "_timed_run", lambda spec, folder: ran.append((folder.name, spec)) or 2.5)
    spec = spec_of(seed=3)
    table = kd.scaling_table(spec, workers=(1, 2, 4), runs=5)
    assert table["seconds per run"].tolist() == [2.5] * 3
    for count in ("1", "2", "4"):
        copies = [run for store, run in ran if store == count]
        assert sorted(copy.seed for copy in copies) == [3, 4, 5, 6, 7]
        assert all(RunSpec(**dict(copy) | {"seed": 3}) == spec for copy in copies)


@pytest.mark.parametrize(
    ("spec", "workers", "runs"),
    [(spec_of(temperature=4.0), (1,), 1), (spec_of(), (2, 4), 4), (spec_of(), (1, 4), 3), (spec_of(), (0, 1), 4)],
)
def test_scaling_says_what_it_cannot_time(spec, workers, runs):
    with pytest.raises(InputError, match="need no other run" if spec.teachers else "1 among them"):
        kd.scaling_table(spec, workers, runs)


def test_the_cost_of_teacher_and_student(monkeypatch):
    models = {"teacher": kd.build_model("resnet32x4", 100), "student": kd.build_model("cnn4", 100)}
    monkeypatch.setattr(
        benchmark,
        "_forward_seconds",
        lambda model, batch, rounds: batch / (100 if model is models["teacher"] else 8000),
    )
    table = kd.inference_table(models).set_index("network")
    assert table.index.tolist() == ["teacher", "student", "teacher over student"]
    assert table["parameters"].tolist() == ["7,433,860", "799,652", "9.3"]
    assert table["MACs per image"].tolist()[:2] == [
        f"{forward_macs(name, 100, {}):,}" for name in ("resnet32x4", "cnn4")
    ]
    assert table["float32 (bytes)"]["student"] == f"{4 * 799_652:,}"  # it has no batch norm
    assert table["ms at batch 1"].tolist() == ["10.00", "0.12", "80"] and table["images/s at batch 256"].tolist() == [
        "100",
        "8,000",
        "0.0125",
    ]


def test_measuring_a_network_leaves_it_alone():
    models = {name: kd.build_model(name, 10) for name in ("resnet8x4", "cnn4")}
    before, random = (
        {name: [value.clone() for value in model.state_dict().values()] for name, model in models.items()},
        torch.get_rng_state(),
    )
    table = kd.inference_table(models, batches=(1, 2), rounds=1)
    assert (table.iloc[:2, 4:].map(lambda shown: float(shown.replace(",", ""))) > 0).all(axis=None)
    for name, model in models.items():
        assert model.training and all(map(torch.equal, before[name], model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(InputError, match="two or more"):
        kd.inference_table({"alone": models["cnn4"]})


def _needs(student, teacher, *arguments, **options) -> dict[str, str]:
    return dict(kd.grid_needs(student, teacher, *arguments, **options).itertuples(index=False))


def test_what_a_grid_needs(tmp_path):
    machine = {"hardware": "an abacus, 2 cores", "threads": "1"}
    teacher = record_of(tmp_path, spec_of(name="resnet18"), seconds=7200.0, environment=machine)
    student = record_of(tmp_path, spec_of(temperature=4.0), seconds=36.0, environment=machine)
    dataset, spec = load_dataset("synthetic"), student.spec
    shown = {
        pair
        for epoch in range(3)
        for pair in zip(
            *(part.tolist() for part in epoch_stream(split_indices(dataset.train_labels, spec.data)[0], 2, 0, epoch))
        )
    }
    needs = _needs(
        student, teacher, len(shown) / 3600, runs=1050, workers=100
    )  # one worker would fill the table in an hour
    assert needs["every worker as fast as the worker measured here"] == "an abacus, 2 cores, threads used 1"
    assert needs["worker-hours in all"] == "13.50"  # 2 + 1 + 1,050 runs of 36 s
    assert needs["hours of wall clock with 100 workers"] == "2.12"  # 2 + 0.01 + eleven rounds of 0.01
    assert needs["entries to fill"] == str(len(shown)) and needs["worker-hours to fill them"] == "1.00"
    assert needs["bytes of the teacher's full table"] == f"{200 * 2 * 10 * 2:,}"
    read = 8000 + 12_000 * (3072 + 1)
    assert needs["bytes that every worker reads, table and data set"] == f"{read:,}"
    assert (
        needs["MB/s of network if all read them within one epoch"] == f"{100 * read / 12 / 1e6:,.1f}"
    )  # three epochs in 36 s
    size = sum(os.path.getsize(student.path / name) for name in os.listdir(student.path))
    assert (needs["bytes of a record"], needs["bytes of 1,050 records"]) == (f"{size:,}", f"{1050 * size:,}")
    assert needs["files in the store"] == f"{1050 * 3 + 3 + 2:,}"  # these records have three files
    assert needs["runs that the scheduler ends per second"] == f"{1050 / (2.12 * 3600):.3g}"


def test_more_workers_take_less_time_for_the_same_work(tmp_path):
    machine = {"hardware": "an abacus, 2 cores", "threads": "1"}
    teacher, student = (
        record_of(tmp_path, spec, seconds=360.0, environment=machine)
        for spec in (spec_of(name="resnet18"), spec_of(temperature=4.0))
    )
    few, many = (_needs(student, teacher, 10.0, workers=workers) for workers in (10, 1000))
    assert few["worker-hours in all"] == many["worker-hours in all"]
    hours = [
        float(needs[f"hours of wall clock with {workers} workers"].replace(",", ""))
        for needs, workers in ((few, "10"), (many, "1,000"))
    ]
    assert hours[0] > 90 * hours[1] / 1.2  # the teacher's own six minutes are not shared
    with pytest.raises(InputError, match="positive"):
        kd.grid_needs(student, teacher, 0.0)


def test_filling_is_measured_with_the_threads_of_the_teachers_run(tmp_path, monkeypatch):
    teacher = kd.run(benchmark._sized(spec_of(), images=32, epochs=1))
    teacher.summary["environment"]["threads"] = "2"
    used, fill = [], benchmark._fill
    monkeypatch.setattr(
        benchmark,
        "_fill",
        lambda *arguments: used.append((torch.get_num_threads(), len(arguments[-1]))) or fill(*arguments),
    )
    assert kd.fill_rate(teacher, entries=8) > 0
    assert used == [(2, 128), (2, 8)] and torch.get_num_threads() == 1
    assert not (kd.records.runs_dir() / "tables").exists()
