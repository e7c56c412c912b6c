"""What a further worker adds, and what a grid of ten thousand runs would need of a hundred workers like those here."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from kdutils.data.datasets import available, load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.tables import FILL_BATCH, ViewTable
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.runs.cluster import local_cluster
from kdutils.runs.records import Record, Store
from kdutils.runs.run import run_all
from kdutils.settings import write_atomic
from kdutils.specs import RunSpec
from kdutils.studies import study
from kdutils.training.inputs import looked_up


def fill_rate(teacher: Record, entries: int = 512) -> float:
    """Entries per second at which a worker with as many threads as the teacher's run had fills the teacher's table."""
    dataset, model, threads = load_dataset(teacher.spec.data.name), teacher.load_model(), torch.get_num_threads()
    torch.set_num_threads(int(teacher.summary["environment"]["threads"]))
    try:
        with tempfile.TemporaryDirectory(prefix="kdutils-") as folder:
            table = ViewTable(Path(folder), len(dataset.train_labels), teacher.spec.data.num_classes)
            for codes in np.split(np.arange(FILL_BATCH + entries), [FILL_BATCH]):
                began = time.perf_counter()
                table.fill(model, dataset, codes, teacher.spec.data.normalisation, detect_runtime())
            return entries / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def grid_needs(student: Record, teacher: Record, fill_rate: float, runs=10_000, workers=100) -> pd.DataFrame:
    """What a grid of `runs` such as `student`, taught from one table of `teacher`, needs of `workers`: quantity, value.

    Every worker is as fast as the one that recorded these two runs, and as `fill_rate` (entries per second); nothing is
    said of other hardware, start-up and evaluation. The runs may differ in all that leaves epochs and views the same
    (temperature, weight, seed): they share the entries of one. First the teacher trains, then all fill, then all run.
    """
    if min(fill_rate, runs, workers) <= 0:
        raise InputError(f"fill_rate, runs and workers must be positive, got {fill_rate}, {runs} and {workers}")
    spec, data = student.spec, load_dataset(student.spec.data.name)
    facts = [record.summary["environment"] for record in (student, teacher)]
    machines = sorted({f"{fact['hardware']}, threads used {fact['threads']}" for fact in facts})
    train, _ = split_indices(data.train_labels, *spec.data.split)
    one, training, entries = student.summary["seconds"], teacher.summary["seconds"], len(looked_up(spec, train))
    filling, wall = entries / fill_rate, training + entries / fill_rate / workers + math.ceil(runs / workers) * one
    table = 2 * len(train) * spec.data.views * spec.data.num_classes
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    read, sizes = table + sum(part.nbytes for part in arrays), [path.stat().st_size for path in student.path.iterdir()]
    values = {
        "every worker as fast as the worker measured here": "; ".join(machines),
        "worker-hours in all": f"{(training + filling + runs * one) / 3600:,.2f}",
        f"hours of wall clock with {workers:,} workers": f"{wall / 3600:,.2f}",
        "bytes of a record": f"{sum(sizes):,}",
        f"bytes of {runs:,} records": f"{runs * sum(sizes):,}",
        "files in the store": f"{runs * len(sizes) + len(list(teacher.path.iterdir())) + 2:,}",  # a table has two
        "bytes of the teacher's full table": f"{table:,}",
        "entries to fill": f"{entries:,}",
        "worker-hours to fill them": f"{filling / 3600:,.2f}",
        "bytes that every worker reads, table and data set": f"{read:,}",
        "MB/s of network if all read them within one epoch": f"{workers * read * spec.epochs / one / 1e6:,.1f}",
        "runs that the scheduler ends per second": f"{runs / wall:,.3g}",
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])


def scaling_table(spec: RunSpec, workers=(1, 2, 4), runs: int = 4, images: int | None = None) -> pd.DataFrame:
    """What a worker adds: `runs` copies of `spec`, which needs no other run, with other seeds, in so many processes.

    With `images`, each is cut to one epoch of so many training images, or all there are. Columns: workers, of one
    thread each; seconds for all; seconds per run (mean, beside the others); images/s of all; over one worker.
    """
    if spec.needs or not spec.epochs or min(workers) < 1 or 1 not in workers or runs < max(workers):
        raise InputError(
            "scaling_table takes the student alone (a spec that trains and needs no other run), numbers of workers, "
            f"1 among them, and at least as many runs; got {spec.key}, {workers} and {runs} runs"
        )
    labels = load_dataset(spec.data.name).train_labels
    spec = _cut(spec, min(images, len(labels))) if images else spec
    shown = runs * spec.epochs * len(split_indices(labels, *spec.data.split)[0])
    copies = [spec.with_(seed=spec.seed + copied) for copied in range(runs)]
    times = [(number, *_times(copies, number)) for number in workers]
    table = pd.DataFrame(times, columns=["workers", "seconds for all", "seconds per run"])
    table["images/s"] = shown / table["seconds for all"]
    table["over one worker"] = table["images/s"] / table["images/s"][workers.index(1)]
    return table.round(3).round({"images/s": 0}).astype({"images/s": int})


def _cut(spec: RunSpec, images: int) -> RunSpec:
    return spec.with_(data=spec.data.with_(train_size=images, val_size=0, test_size=250), epochs=1)


def _times(specs: list[RunSpec], workers: int) -> tuple[float, float]:
    """Seconds for all through the engine, on so many warm workers with one thread each, and for a run's own (mean)."""
    with tempfile.TemporaryDirectory(prefix="kdutils-") as folder, local_cluster(workers, threads=1) as address:
        with patch.dict(os.environ, {"KD_SCHEDULER": address, "KD_USED_RUNS": ""}):  # they are no results of a chapter
            run_all([_cut(spec, spec.batch_size) for spec in specs], Store(Path(folder, "first")))
            began = time.monotonic()
            records = run_all(specs, Store(Path(folder, "then")))
            return time.monotonic() - began, float(np.mean([record.summary["seconds"] for record in records]))


def benchmark_scaling(json_file: Path | None = None) -> dict:
    """Measure what workers add to study D's student, and what ten thousand of its taught runs would need; print both.

    On CIFAR-100 where it can be had, else on the synthetic data; writes every figure to `json_file`.
    """
    plan = study("cifar100", "quick", dataset="cifar100" if available("cifar100") else "synthetic", seeds=(0,))
    runs = 24  # so many that what comes before and after counts little, and no worker waits for the last one for long
    scaling = scaling_table(plan.student(), runs=runs, images=4096)
    with tempfile.TemporaryDirectory(prefix="kdutils-") as folder:
        student, teacher = run_all([plan.taught(plan.cells[-1]), plan.teacher()], Store(Path(folder)))
        needs = grid_needs(student, teacher, fill_rate(teacher))
    print(f"{runs} runs of one epoch:\n{scaling.to_string(index=False)}\n\n{needs.to_string(index=False)}")
    result = {"scaling": scaling.to_dict("records"), "needs": dict(needs.itertuples(index=False))}
    if json_file:
        write_atomic(json_file, json.dumps(result, indent=1).encode())
    return result
