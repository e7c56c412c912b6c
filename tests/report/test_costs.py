"""Tables of cost: what is counted against hand-made counts, what is measured by its relations; no speed is tested."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fake_records import record_of, runs, spec_of

from kdutils.data.datasets import load_dataset
from kdutils.data.views import epoch_stream, split_indices
from kdutils.errors import InputError
from kdutils.networks.counting import forward_macs
from kdutils.networks.registry import build_model
from kdutils.report import costs
from kdutils.runs.records import Record
from kdutils.runs.run import run

MACHINE = {"hardware": "an abacus, 2 cores", "threads": "1"}


# Counted


def test_the_cost_of_an_arm_is_counted_and_measured(tmp_path):
    measured = [{"seconds": 10.0, "peak_memory_mb": 400.0}, {"seconds": 20.0, "peak_memory_mb": 401.0}]
    records = [record_of(tmp_path, spec_of(seed), **facts) for seed, facts in enumerate(measured)]
    records.append(record_of(tmp_path, spec_of(2), diverged=True, seconds=1.0, peak_memory_mb=999.0))
    row = costs.cost_table({"small CNN": records}).iloc[0]
    macs = 16 * 27 * 32**2 + 32 * 144 * 16**2 + 2048 * 128 + 128 * 10
    assert (row["n"], row["parameters"], row["MACs per image"]) == ("2, 1 diverged", "268,650", f"{macs:,}")
    assert (row["training time (s)"], row["images/s"], row["peak memory (MB)"]) == ("15 ± 7", "2,000 ± 0", "401")
    lost = costs.cost_table({"small CNN": records[2:]}).iloc[0]
    assert lost["n"] == "0, 1 diverged" and lost["training time (s)"] == lost["peak memory (MB)"] == "diverged"


class Untrained(Record):
    """A record whose network was never trained."""

    def load_model(self):
        return build_model(self.spec.model.name, 10, **self.spec.model.options)


def test_policies_count_the_parameters_that_train(tmp_path):
    last_block, stem, head = 8_393_728, 64 * 3 * 9 + 2 * 64, 512 * 10 + 10  # of a ResNet18 with a 3x3 stem
    counts = {("imagenet", "head"): head, ("cifar_pool", "last_block"): last_block + stem + head}
    counts[("cifar_pool", "all")] = 11_173_962
    made = [
        record_of(
            tmp_path, spec_of(name="resnet18", stem=stem, trainable=policy), seconds=31.4, diverged=policy == "all"
        )
        for stem, policy in counts
    ]
    table = costs.policies_table([Untrained(record.path, record.spec, record.summary) for record in made])
    assert table[["stem", "trained"]].apply(tuple, axis=1).tolist() == list(counts)
    assert table["trained parameters"].tolist() == [f"{count:,}" for count in counts.values()]
    shown = ["train (%)", "val (%)", "test (%)", "time (s)"]
    assert table.loc[0, shown].tolist() == ["45.00", "50.00", "60.00", "31"]
    assert table.loc[2, shown].tolist() == ["diverged", "diverged", "diverged", "31"]


def test_binarising_the_document_s_network_saves_what_can_be_counted():
    """8,257,536 of WRN-16-7's 8,395,994 parameters are 3x3 weights of its blocks, 432 are its stem."""
    models = {precision: build_model("wrn_16_7", 10, precision=precision) for precision in ("full", "stem", "bonn")}
    floats = sum(tensor.numel() for tensor in models["full"].state_dict().values() if tensor.dim())
    table = costs.precision_table(models).set_index("network")
    assert table.loc["full", "1-bit parameters (%)"] == "0" and table.loc["full", "stored (bytes)"] == f"{4 * floats:,}"
    assert float(table.loc["bonn", "1-bit parameters (%)"]) == pytest.approx(98.35, abs=0.06)
    stored = int(table.loc["bonn", "stored (bytes)"].replace(",", ""))
    assert float(table.loc["bonn", "bytes saved (%)"]) == pytest.approx(100 * (1 - stored / 4 / floats), abs=0.05)
    assert 4 * floats / stored == pytest.approx(21, abs=0.5)
    assert float(table.loc["stem", "1-bit MACs (%)"]) == pytest.approx(0.04, abs=0.005)
    sentence = costs.stem_sentence(models["stem"], models["bonn"])
    first = "Binarising only the first convolution touches 0.0372 % of the multiplications and saves 0.00497 %"
    assert sentence.startswith(first) and "; binarising the blocks' convolutions touches 98.7 %" in sentence


def test_networks_stand_beside_the_published_sizes(tmp_path):
    resnet = [record_of(tmp_path, spec_of(name="resnet18"), test=76.5)]
    arms = {"ResNet18": resnet, "unpublished": runs(tmp_path, (60.0, 1.0), diverged=(1,))}
    table = costs.networks_table(arms, "binary").set_index("network").astype(str)
    columns = ["n", "test (%)", "published (%)", "parameters", "published parameters"]
    assert table.loc["ResNet18", columns].tolist() == ["1", "76.50", "75.5", "11,173,962", "11.2 million"]
    assert table.loc["unpublished", columns].tolist() == ["1, 1 diverged", "60.00", "–", "268,650", "–"]
    assert table.loc["unpublished", "stored (bytes)"] == f"{4 * 268_650:,}"


# Inference


def test_the_cost_of_teacher_and_student(monkeypatch):
    models = {"teacher": build_model("resnet32x4", 100), "student": build_model("cnn4", 100)}
    speeds = {id(models["teacher"]): 100, id(models["student"]): 8000}
    monkeypatch.setattr(costs, "_forward_seconds", lambda model, batch, seconds: batch / speeds[id(model)])
    table = costs.inference_table(models).set_index("network")
    assert table.index.tolist() == ["teacher", "student", "teacher over student"]
    assert table["parameters"].tolist() == ["7,433,860", "799,652", "9.3"]
    macs = [f"{forward_macs(name, 100, {}):,}" for name in ("resnet32x4", "cnn4")]
    assert table["MACs per image"].tolist()[:2] == macs
    assert table["float32 (bytes)"]["student"] == f"{4 * 799_652:,}"  # it has no batch norm
    assert table["ms at batch 1"].tolist() == ["10.00", "0.12", "80"]
    assert table["images/s at batch 256"].tolist() == ["100", "8,000", "0.0125"]


def test_measuring_a_network_leaves_it_and_the_process_alone():
    models = {name: build_model(name, 10) for name in ("resnet8x4", "cnn4")}
    before = {name: [value.clone() for value in model.state_dict().values()] for name, model in models.items()}
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    table = costs.inference_table(models, batches=(1, 2), seconds=0.01)
    assert (table.iloc[:2, 4:].map(lambda shown: float(shown.replace(",", ""))) > 0).all(axis=None)
    for name, model in models.items():
        assert model.training and all(map(torch.equal, before[name], model.state_dict().values()))
    assert torch.equal(torch.get_rng_state(), random) and torch.get_num_threads() == threads


@pytest.mark.parametrize("wrong", [{"models": {}}, {"batches": (0, 1)}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_inference_says_what_it_takes(wrong):
    models = {name: build_model("small_cnn", 10) for name in ("teacher", "student")}
    with pytest.raises(InputError, match="two networks or more, batches of at least 1"):
        costs.inference_table(**{"models": models} | wrong)


# Grids


def needs(student, teacher, *arguments, **options) -> dict[str, str]:
    return dict(costs.grid_needs(student, teacher, *arguments, **options).itertuples(index=False))


def test_what_a_grid_needs(tmp_path):
    teacher = record_of(tmp_path, spec_of(name="resnet18"), seconds=7200.0, environment=MACHINE)
    student = record_of(tmp_path, spec_of(temperature=4.0), seconds=36.0, environment=MACHINE)
    train, _ = split_indices(load_dataset("synthetic").train_labels, *student.spec.data.split)
    streams = [epoch_stream(train, 2, 0, epoch) for epoch in range(3)]
    shown = {pair for images, views in streams for pair in zip(images.tolist(), views.tolist(), strict=True)}
    found = needs(student, teacher, len(shown) / 3600, runs=1050, workers=100)  # one worker would fill in an hour
    assert found["every worker as fast as the worker measured here"] == "an abacus, 2 cores, threads used 1"
    assert found["worker-hours in all"] == "13.50"  # 2 + 1 + 1,050 runs of 36 s
    assert found["hours of wall clock with 100 workers"] == "2.12"  # 2 + 0.01 + eleven rounds of 0.01
    assert found["entries to fill"] == str(len(shown)) and found["worker-hours to fill them"] == "1.00"
    assert found["bytes of the teacher's full table"] == f"{200 * 2 * 10 * 2:,}"
    read = 8000 + 12_000 * (3072 + 1)
    assert found["bytes that every worker reads, table and data set"] == f"{read:,}"
    traffic = f"{100 * read / 12 / 1e6:,.1f}"  # three epochs in 36 s
    assert found["MB/s of network if all read them within one epoch"] == traffic
    size = sum(os.path.getsize(student.path / name) for name in os.listdir(student.path))
    assert (found["bytes of a record"], found["bytes of 1,050 records"]) == (f"{size:,}", f"{1050 * size:,}")
    assert found["files in the store"] == f"{1050 * 3 + 3 + 2:,}"  # these records have three files
    assert found["runs that the scheduler ends per second"] == f"{1050 / (2.12 * 3600):.3g}"


def test_more_workers_take_less_time_for_the_same_work(tmp_path):
    specs = (spec_of(name="resnet18"), spec_of(temperature=4.0))
    teacher, student = (record_of(tmp_path, spec, seconds=360.0, environment=MACHINE) for spec in specs)
    few, many = (needs(student, teacher, 10.0, workers=workers) for workers in (10, 1000))
    assert few["worker-hours in all"] == many["worker-hours in all"]
    titles = ("hours of wall clock with 10 workers", "hours of wall clock with 1,000 workers")
    hours = [float(found[title].replace(",", "")) for found, title in zip((few, many), titles, strict=True)]
    assert hours[0] > 90 * hours[1] / 1.2  # the teacher's own six minutes are not shared
    with pytest.raises(InputError, match="positive"):
        costs.grid_needs(student, teacher, 0.0)


def test_filling_is_measured_with_the_threads_of_the_teachers_run(tmp_path, monkeypatch):
    teacher = run(costs._cut(spec_of(), images=32))
    teacher.summary["environment"]["threads"] = "2"
    used, fill = [], costs.ViewTable.fill

    def noted(table, model, dataset, codes, *arguments):
        used.append((torch.get_num_threads(), len(codes)))
        return fill(table, model, dataset, codes, *arguments)

    monkeypatch.setattr(costs.ViewTable, "fill", noted)
    assert costs.fill_rate(teacher, entries=8) > 0
    assert used == [(2, 128), (2, 8)] and torch.get_num_threads() == 1
    assert not (teacher.path.parent / "tables").exists()


# Workers


def test_a_worker_adds_what_its_runs_take(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_USED_RUNS", str(tmp_path / "used"))
    table = costs.scaling_table(spec_of().with_(epochs=2), workers=(1, 2), runs=2, images=600)
    assert list(table) == ["workers", "seconds for all", "seconds per run", "images/s", "over one worker"]
    assert table["workers"].tolist() == [1, 2] and table["over one worker"][0] == 1
    products = table["images/s"] * table["seconds for all"]  # both are rounded
    assert products.tolist() == pytest.approx([2 * 600] * 2, rel=0.05)
    assert table["over one worker"][1] == pytest.approx(table["images/s"][1] / table["images/s"][0], rel=0.05)
    assert 2 * table["seconds per run"][0] <= table["seconds for all"][0] + 0.01  # one after the other
    assert not (tmp_path / "used").exists() and not (tmp_path / "runs").exists()  # it leaves no trace


def test_every_number_of_workers_runs_the_same_copies_in_a_new_store(monkeypatch):
    pools, ran = [], []

    def threads(count, context, begin, arguments):
        pools.append(count)
        return ThreadPoolExecutor(1)

    def timed(spec, folder):
        ran.append((pools[-1], folder, spec))
        return len(ran) * 2.0, len(ran) * 2.0 + 1.5

    monkeypatch.setattr(costs, "ProcessPoolExecutor", threads)
    monkeypatch.setattr(costs, "_timed", timed)
    spec = spec_of(seed=3)
    table = costs.scaling_table(spec, workers=(1, 2, 4), runs=5)
    assert pools == [1, 2, 4] and len({folder for _, folder, _ in ran}) == 3
    assert table["seconds per run"].tolist() == [1.5] * 3
    assert table["seconds for all"].tolist() == [4 * 2 + 1.5] * 3  # from the first beginning to the last end
    for count in pools:
        copies = [copy for workers, _, copy in ran if workers == count]
        assert sorted(copy.seed for copy in copies) == [3, 4, 5, 6, 7]
        assert all(copy.with_(seed=3) == spec for copy in copies)
    assert np.allclose(table["images/s"], 5 * 3 * 200 / 9.5, atol=0.5)


@pytest.mark.parametrize(
    ("spec", "workers", "runs"),
    [(spec_of(temperature=4.0), (1,), 1), (spec_of(), (2, 4), 4), (spec_of(), (1, 4), 3), (spec_of(), (0, 1), 4)],
)
def test_scaling_says_what_it_cannot_time(spec, workers, runs):
    with pytest.raises(InputError, match="needs no other run.*1 among them"):
        costs.scaling_table(spec, workers, runs)
