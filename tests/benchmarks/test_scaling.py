"""What a worker adds, and what a large grid needs, against numbers worked out by hand."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial

import fake_records
import numpy as np
import pytest
import torch
from benchmarks import scaling
from distributed import LocalCluster

from kdutils.data.datasets import load_dataset
from kdutils.data.views import epoch_stream, split_indices
from kdutils.errors import InputError
from kdutils.runs.run import run
from kdutils.settings import settings

record_of, spec_of = fake_records.record_of, partial(fake_records.spec_of, dataset="synthetic")
MACHINE = {"hardware": "an abacus, 2 cores", "threads": "1"}


def needs(student, teacher, *arguments, **options) -> dict[str, str]:
    return dict(scaling.grid_needs(student, teacher, *arguments, **options).itertuples(index=False))


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
        scaling.grid_needs(student, teacher, 0.0)


def test_filling_is_measured_with_the_threads_of_the_teachers_run(tmp_path, monkeypatch):
    teacher = run(scaling._cut(spec_of(), images=32))
    teacher.summary["environment"]["threads"] = "2"
    used, fill = [], scaling.ViewTable.fill

    def noted(table, model, dataset, codes, *arguments):
        used.append((torch.get_num_threads(), len(codes)))
        return fill(table, model, dataset, codes, *arguments)

    monkeypatch.setattr(scaling.ViewTable, "fill", noted)
    assert scaling.fill_rate(teacher, entries=8) > 0
    assert used == [(2, 128), (2, 8)] and torch.get_num_threads() == 1
    assert not (teacher.path.parent / "tables").exists()


# Workers


@contextmanager
def cluster_of_threads(count, threads):
    """As `local_cluster`, but in this process: others take seconds to start."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "processes": False, "protocol": "tcp"}
    with LocalCluster(n_workers=count, threads_per_worker=threads, **here) as machines:
        yield machines.scheduler_address


def test_a_worker_adds_what_its_runs_take(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "local_cluster", cluster_of_threads)
    monkeypatch.setenv("KD_USED_RUNS", str(tmp_path / "used"))
    table = scaling.scaling_table(spec_of().with_(epochs=2), workers=(1, 2), runs=2, images=600)
    assert list(table) == ["workers", "seconds for all", "seconds per run", "images/s", "over one worker"]
    assert table["workers"].tolist() == [1, 2] and table["over one worker"][0] == 1
    products = table["images/s"] * table["seconds for all"]  # both are rounded
    assert products.tolist() == pytest.approx([2 * 600] * 2, rel=0.05)
    assert table["over one worker"][1] == pytest.approx(table["images/s"][1] / table["images/s"][0], rel=0.05)
    assert 2 * table["seconds per run"][0] <= table["seconds for all"][0] + 0.01  # one after the other
    assert not (tmp_path / "used").exists() and not (tmp_path / "runs").exists()  # it leaves no trace


def test_every_number_of_workers_runs_the_same_copies_in_a_new_store(tmp_path, monkeypatch):
    clusters, ran, clock = [], [], iter(range(1000))

    @contextmanager
    def cluster(workers, threads):
        clusters.append((workers, threads))
        yield f"tcp://127.0.0.1:{workers}"

    def run_all(specs, store):
        ran.append((settings().scheduler, store.folder, specs))
        next(clock)
        return [record_of(tmp_path / "records", spec, seconds=1.5) for spec in specs]

    monkeypatch.setattr(scaling, "local_cluster", cluster)
    monkeypatch.setattr(scaling, "run_all", run_all)
    monkeypatch.setattr(scaling.time, "monotonic", lambda: float(next(clock)))
    spec = spec_of(seed=3)
    table = scaling.scaling_table(spec, workers=(1, 2, 4), runs=5)
    assert clusters == [(1, 1), (2, 1), (4, 1)] and not settings().scheduler
    assert len({folder for _, folder, _ in ran}) == 6
    timed = ran[1::2]  # before each, shorter ones warm the workers
    assert [address for address, *_ in timed] == [f"tcp://127.0.0.1:{workers}" for workers in (1, 2, 4)]
    assert table["seconds per run"].tolist() == [1.5] * 3 and table["seconds for all"].tolist() == [2.0] * 3
    for _, _, copies in timed:
        assert [copy.seed for copy in copies] == [3, 4, 5, 6, 7]
        assert all(copy.with_(seed=3) == spec for copy in copies)
    assert np.allclose(table["images/s"], 5 * 3 * 200 / 2, atol=0.5)


@pytest.mark.parametrize(
    ("spec", "workers", "runs"),
    [(spec_of(temperature=4.0), (1,), 1), (spec_of(), (2, 4), 4), (spec_of(), (1, 4), 3), (spec_of(), (0, 1), 4)],
)
def test_scaling_says_what_it_cannot_time(spec, workers, runs):
    with pytest.raises(InputError, match="needs no other run.*1 among them"):
        scaling.scaling_table(spec, workers, runs)
