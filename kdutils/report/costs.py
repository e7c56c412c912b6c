"""What runs and networks cost: measured tables of a chapter."""

from __future__ import annotations

import copy
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdutils.data.datasets import Dataset, load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.tables import FILL_BATCH, ViewTable
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.networks.counting import accounting
from kdutils.runs.records import Record
from kdutils.runs.run import run
from kdutils.specs import DataSpec, RunSpec
from kdutils.training.inputs import training_codes


def _fill(teacher: nn.Module, spec: RunSpec, dataset: Dataset, table: ViewTable, codes: np.ndarray) -> float:
    began = time.perf_counter()
    return table.fill(teacher, dataset, codes, spec.data.normalisation, detect_runtime()) / (
        time.perf_counter() - began
    )


def _table(spec: RunSpec, dataset: Dataset, folder: Path) -> ViewTable:
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def _sized(spec: RunSpec, images: int, epochs: int) -> RunSpec:
    """`spec` on so many training images for so many epochs, its schedule and its teachers as they are."""
    data = DataSpec(**dict(spec.data) | {"train_size": images, "val_size": 0, "test_size": 250})
    return RunSpec(**dict(spec) | {"data": data, "epochs": epochs})


def _copies(spec: RunSpec, count: int) -> list[RunSpec]:
    return [RunSpec(**dict(spec) | {"seed": spec.seed + number}) for number in range(count)]


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kdutils-") as name:
        yield Path(name)


@contextmanager
def _processes(count: int, threads: int, spec: RunSpec, folder: Path) -> Iterator[list[ProcessPoolExecutor]]:
    """So many processes of so many threads, each warm from a run of one batch of `spec`'s student, without its teachers."""
    alone, context = (
        _sized(RunSpec(**dict(spec) | {"distillation": None}), spec.batch_size, 1),
        get_context("forkserver"),
    )
    context.set_forkserver_preload(["kdutils.benchmark"])  # PyTorch is imported once, not once for each
    settings = {
        name: value for name, value in os.environ.items() if name.startswith("KD_")
    }  # the fork server has older ones
    with ExitStack() as stack:
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, context, _begin, (threads, settings))) for _ in range(count)
        ]
        _together(pools, _timed_run, _copies(alone, count), repeat(folder / "warm"))
        yield pools


def _begin(threads: int, settings: dict[str, str]) -> None:
    os.environ.update(settings)
    os.environ.pop("KD_USED_RUNS", None)  # what is run for its time is no result of the chapter that asks
    torch.set_num_threads(threads)


def _together(
    pools: Iterable[ProcessPoolExecutor], function: Callable[..., float], *arguments: Iterable
) -> list[float]:
    """What `function` returns for each row of the arguments, in these processes by turns."""
    futures = [pool.submit(function, *own) for *own, pool in zip(*arguments, cycle(pools))]
    return [future.result() for future in futures]


def _timed_run(spec: RunSpec, folder: Path) -> float:
    """In a worker: seconds that the run takes, from its spec to its record in the store `folder`."""
    os.environ["KD_RUNS_DIR"] = str(folder)
    began = time.perf_counter()
    run(spec)
    return time.perf_counter() - began


def scaling_table(
    spec: RunSpec, workers: tuple[int, ...] = (1, 2, 4), runs: int = 4, images: int | None = None
) -> pd.DataFrame:
    """What a worker adds: `runs` copies of `spec` that differ in their seed, really run in so many processes.

    With `images`, each is cut to one epoch of so many training images (or all there are).

    Every worker has one thread, however many cores there are, and is started and warm before its time counts; its records
    go to a temporary store. `spec` needs no other run: the student alone is enough, a taught one only looks its targets up.

    Columns: workers; seconds for all; seconds per run (mean wall time of one beside the others, from spec to record);
    images/s (training images of all runs); over one worker (images/s).
    """
    if spec.needs or not spec.epochs:
        raise InputError(
            f"scaling_table times runs that train and need no other run, {spec.key} is not one: give the student alone"
        )
    if 1 not in workers or min(workers) < 1 or runs < max(workers):
        raise InputError(
            f"workers must be positive, 1 among them, and runs at least as many as the most workers; got {workers} and {runs} runs"
        )
    labels = load_dataset(spec.data.name).train_labels
    spec = _sized(spec, min(images, len(labels)), 1) if images else spec
    shown = runs * spec.epochs * len(split_indices(labels, *spec.data.split)[0])
    rows = []
    with _folder() as folder, _processes(max(workers), 1, spec, folder) as pools:
        for count in workers:
            began = time.perf_counter()
            seconds = _together(pools[:count], _timed_run, _copies(spec, runs), repeat(folder / str(count)))
            rows.append((count, time.perf_counter() - began, statistics.mean(seconds)))
    table = pd.DataFrame(rows, columns=["workers", "seconds for all", "seconds per run"])
    alone = table.set_index("workers").loc[1, "seconds for all"]
    table = table.assign(
        **{"images/s": shown / table["seconds for all"], "over one worker": alone / table["seconds for all"]}
    )
    return table.round({"seconds for all": 3, "seconds per run": 3, "images/s": 0, "over one worker": 3}).astype(
        {"images/s": int}
    )


def inference_table(
    models: dict[str, nn.Module], batches: tuple[int, int] = (1, 256), rounds: int = 10
) -> pd.DataFrame:
    """What networks cost in use, a row for each, and a last row of ratios: the first over the last, teacher over student.

    Columns: network; parameters; MACs of one image, 3 x 32 x 32; bytes of its numbers as float32 (`kdutils.packing.accounting`);
    and, measured on this machine, medians over `rounds`: milliseconds for a batch of the first size, images/s in batches of
    the second. Evaluation mode and channels_last, in the suite's number format, the weights brought into it once.
    """
    if len(models) < 2 or rounds < 1 or min(batches) < 1:
        raise InputError(
            "inference_table compares networks, the teacher first and the student last: give two or more, and batches and rounds of at least 1"
        )
    rows = []
    for name, model in models.items():
        counts = accounting(model)[["parameters", "MACs", "float bytes"]].sum().to_list()
        latency, seconds = (_forward_seconds(model, batch, rounds) for batch in batches)
        rows.append((name, *counts, 1000 * latency, batches[1] / seconds))
    titles = [
        "network",
        "parameters",
        "MACs per image",
        "float32 (bytes)",
        f"ms at batch {batches[0]}",
        f"images/s at batch {batches[1]}",
    ]
    ratios = [f"{first / last:.3g}" for first, last in zip(rows[0][1:], rows[-1][1:])]
    shown = [
        [name, *(f"{count:,}" for count in counts), f"{latency:,.2f}", f"{rate:,.0f}"]
        for name, *counts, latency, rate in rows
    ]
    return pd.DataFrame([*shown, [f"{rows[0][0]} over {rows[-1][0]}", *ratios]], columns=titles)


@torch.inference_mode()
def _forward_seconds(model: nn.Module, batch: int, rounds: int) -> float:
    """Median seconds of a forward pass of a copy of `model`, after a first one that is not counted."""
    runtime, seconds = detect_runtime(), []
    model = copy.deepcopy(model).to(runtime.device, memory_format=torch.channels_last).eval()
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(
        runtime.device, memory_format=torch.channels_last
    )
    with runtime.autocast():  # one context: it keeps the weights that it has cast
        for _ in range(rounds + 1):
            began = time.perf_counter()
            model(images)
            if runtime.device.type != "cpu":
                getattr(torch, runtime.device.type).synchronize()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def fill_rate(teacher: Record, entries: int = 512) -> float:
    """Entries per second at which a worker fills the teacher's table: measured here in a temporary folder, after a first
    batch, with as many threads as its run had."""
    spec, model, dataset, threads = (
        teacher.spec,
        teacher.load_model(),
        load_dataset(teacher.spec.data.name),
        torch.get_num_threads(),
    )
    first, counted = np.split(np.arange(FILL_BATCH + entries), [FILL_BATCH])
    torch.set_num_threads(int(teacher.summary["environment"]["threads"]))
    try:
        with _folder() as folder:
            table = _table(spec, dataset, folder)
            _fill(model, spec, dataset, table, first)
            return _fill(model, spec, dataset, table, counted)
    finally:
        torch.set_num_threads(threads)


def grid_needs(
    student: Record, teacher: Record, fill_rate: float, runs: int = 10_000, workers: int = 100
) -> pd.DataFrame:
    """What a grid of `runs` such as `student`, taught from one table of `teacher`, needs of `workers`: quantity, value.

    Every worker is as fast as the one that recorded these two runs, and as `fill_rate` (entries per second): nothing is
    said of other hardware, nor of start-up and evaluation. The runs may differ in all that leaves epochs and views the same
    (temperature, weight, seed): they share the entries of one (`kdutils.data.epoch_stream`). First the teacher trains,
    then all workers fill, then they run.
    """
    if min(fill_rate, runs, workers) <= 0:
        raise InputError(
            f"grid_needs takes a positive fill_rate, runs and workers, got {fill_rate}, {runs} and {workers}"
        )
    spec, dataset = student.spec, load_dataset(student.spec.data.name)
    measured = {
        f"{facts['hardware']}, threads used {facts['threads']}"
        for facts in (record.summary["environment"] for record in (student, teacher))
    }
    one, training, entries = student.summary["seconds"], teacher.summary["seconds"], len(training_codes(spec, dataset))
    filling, wall = entries / fill_rate, training + entries / fill_rate / workers + math.ceil(runs / workers) * one
    table = len(split_indices(dataset.train_labels, *spec.data.split)[0]) * spec.data.views * spec.data.num_classes * 2
    read = table + sum(
        array.nbytes for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    )
    files = [path.stat().st_size for path in student.path.iterdir()]
    values = {
        "every worker as fast as the worker measured here": "; ".join(sorted(measured)),
        "worker-hours in all": f"{(training + filling + runs * one) / 3600:,.2f}",
        f"hours of wall clock with {workers:,} workers": f"{wall / 3600:,.2f}",
        "bytes of a record": f"{sum(files):,}",
        f"bytes of {runs:,} records": f"{runs * sum(files):,}",
        "files in the store": f"{runs * len(files) + len(list(teacher.path.iterdir())) + 2:,}",  # a table has two
        "bytes of the teacher's full table": f"{table:,}",
        "entries to fill": f"{entries:,}",
        "worker-hours to fill them": f"{filling / 3600:,.2f}",
        "bytes that every worker reads, table and data set": f"{read:,}",
        "MB/s of network if all read them within one epoch": f"{workers * read * spec.epochs / one / 1e6:,.1f}",
        "runs that the scheduler ends per second": f"{runs / wall:,.3g}",
    }
    return pd.DataFrame(values.items(), columns=["quantity", "value"])
