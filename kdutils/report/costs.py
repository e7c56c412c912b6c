"""What networks and runs cost: counted, or measured on this machine."""

from __future__ import annotations

import copy
import math
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from threading import Barrier

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.benchmark import Timer

from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.tables import FILL_BATCH, ViewTable
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.networks.counting import accounting, forward_macs
from kdutils.networks.registry import build_model
from kdutils.report.statistics import Arms, count, finished, spread, values
from kdutils.report.tables import published
from kdutils.runs.records import Record, Store
from kdutils.runs.run import run
from kdutils.specs import RunSpec
from kdutils.training.frozen import freeze
from kdutils.training.inputs import training_codes


def precision_table(models: dict[str, nn.Module]) -> pd.DataFrame:
    """What binarising saves: parameters, MACs of one image and stored bytes, and the share of each that is 1 bit."""
    rows = []
    for table in map(accounting, models.values()):
        total, bits = table.sum(numeric_only=True), table[table["precision"] == "1 bit"].sum(numeric_only=True)
        shares = [f"{100 * bits[column] / total[column]:.3g}" for column in ("parameters", "MACs")]
        sizes = [f"{total[column]:,}" for column in ("parameters", "MACs", "bytes")]
        saved = f"{100 * (1 - total['bytes'] / total['float bytes']):.3g}"
        rows.append((sizes[0], shares[0], sizes[1], shares[1], sizes[2], saved))
    titles = ["parameters", "1-bit parameters (%)", "MACs", "1-bit MACs (%)", "stored (bytes)", "bytes saved (%)"]
    return pd.DataFrame(rows, columns=titles, index=pd.Index(models, name="network")).reset_index()


def stem_sentence(stem: nn.Module, blocks: nn.Module) -> str:
    """What binarising only the stem touches and saves, beside what binarising the blocks does."""
    table = precision_table({"only the first convolution": stem, "the blocks' convolutions": blocks})
    said = "binarising {} touches {} % of the multiplications and saves {} % of the bytes".format
    first, second = map(said, table["network"], table["1-bit MACs (%)"], table["bytes saved (%)"])
    return f"{first.capitalize()}; {second}."


def networks_table(arms: Arms, study: str) -> pd.DataFrame:
    """Networks as a study compares them: test accuracy (%), parameters and the bytes of storing them, beside published.

    A binary network's bytes are those of its packed file's content, another's 4 for each number.
    """
    known = {(row.arm, row.metric): row.value for row in published(study).itertuples()}
    rows = []
    for name, records in arms.items():
        spec = records[0].spec
        model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
        stored = accounting(model)[["parameters", "bytes", "float bytes"]].sum().map("{:,}".format)
        accuracy, parameters = known.get((name, "accuracy"), "–"), known.get((name, "parameters"))
        theirs = f"{parameters / 1e6:.1f} million" if parameters else "–"
        rows.append((name, count(records), spread(values(records, "test")), accuracy, theirs, *stored))
    titles = ["network", "n", "test (%)", "published (%)", "published parameters", "parameters", "stored (bytes)"]
    return pd.DataFrame(rows, columns=[*titles, "in full precision (bytes)"])


def cost_table(arms: Arms) -> pd.DataFrame:
    """Size and measured cost of an arm's runs: parameters, MACs of a forward pass, seconds, images/s, most memory."""
    rows = []
    for name, records in arms.items():
        spec, ran = records[0].spec, [record.summary for record in finished(records)]
        macs = forward_macs(spec.model.name, spec.data.num_classes, spec.model.options)
        measured = [spread((each[fact] for each in ran), 0) for fact in ("seconds", "images_per_second")]
        memory = max((each["peak_memory_mb"] for each in ran), default=math.nan)
        sizes = f"{records[0].summary['parameters']:,}", f"{macs:,}"
        rows.append((name, count(records), *sizes, *measured, spread([memory], 0)))
    titles = ["classifier", "n", "parameters", "MACs per image", "training time (s)", "images/s", "peak memory (MB)"]
    return pd.DataFrame(rows, columns=titles)


def policies_table(records: list[Record]) -> pd.DataFrame:
    """What trains, side by side: stem, policy, trained parameters, accuracies (%) after the last epoch, seconds."""
    rows = []
    for record in records:
        model, policy = record.load_model(), record.spec.trainable
        freeze(model, policy)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        accuracies = [spread(values([record], split)) for split in ("train", "val", "test")]
        stem, seconds = record.spec.model.option("stem"), f"{record.summary['seconds']:.0f}"
        rows.append((stem, policy, f"{trained:,}", *accuracies, seconds))
    titles = ["stem", "trained", "trained parameters", "train (%)", "val (%)", "test (%)", "time (s)"]
    return pd.DataFrame(rows, columns=titles)


def inference_table(models: dict[str, nn.Module], batches=(1, 256), seconds: float = 0.5) -> pd.DataFrame:
    """What networks cost in use, and a last row of ratios: the first over the last, teacher over student.

    Columns: network; parameters; MACs of an image, 3 x 32 x 32; bytes of its numbers as float32; and, measured here for
    at least so many `seconds`, medians: milliseconds for a batch of the first size, images/s in batches of the second.
    """
    if len(models) < 2 or not seconds > 0 or min(batches) < 1:
        raise InputError("inference_table takes two networks or more, batches of at least 1 and more than 0 seconds")
    counted = pd.DataFrame({name: accounting(model).sum(numeric_only=True) for name, model in models.items()}).T
    table = counted[["parameters", "MACs", "float bytes"]]
    table = table.set_axis(["parameters", "MACs per image", "float32 (bytes)"], axis="columns")
    measured = np.array([[_forward_seconds(model, batch, seconds) for batch in batches] for model in models.values()])
    table[f"ms at batch {batches[0]}"] = 1000 * measured[:, 0]
    table[f"images/s at batch {batches[1]}"] = batches[1] / measured[:, 1]
    shown = table.apply(lambda column: column.map(("{:,.2f}" if column.name.startswith("ms") else "{:,.0f}").format))
    shown.loc[f"{table.index[0]} over {table.index[-1]}"] = (table.iloc[0] / table.iloc[-1]).map("{:.3g}".format)
    return shown.rename_axis("network").reset_index()


@torch.inference_mode()
def _forward_seconds(model: nn.Module, batch: int, seconds: float) -> float:
    """Median seconds of a forward pass in evaluation mode, in the suite's number format, with all threads."""
    runtime, images = detect_runtime(), torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    parts = (copy.deepcopy(model).eval(), images)
    model, images = (part.to(runtime.device, memory_format=torch.channels_last) for part in parts)
    with runtime.autocast():  # one context: it keeps the weights that it has cast
        timer = Timer("run(images)", globals={"run": model, "images": images}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=seconds).median


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
    one, training, entries = student.summary["seconds"], teacher.summary["seconds"], len(training_codes(spec, train))
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
    spans = [_spans([spec.with_(seed=spec.seed + copied) for copied in range(runs)], number) for number in workers]
    table = pd.DataFrame({"workers": workers, "seconds for all": map(np.ptp, spans)})
    table["seconds per run"] = [np.diff(span).mean() for span in spans]
    table["images/s"] = shown / table["seconds for all"]
    table["over one worker"] = table["images/s"] / table["images/s"][workers.index(1)]
    return table.round(3).round({"images/s": 0}).astype({"images/s": int})


def _cut(spec: RunSpec, images: int) -> RunSpec:
    return spec.with_(data=spec.data.with_(train_size=images, val_size=0, test_size=250), epochs=1)


def _spans(specs: list[RunSpec], workers: int) -> np.ndarray:
    """When each run began and ended, in seconds, [runs, 2]: done by so many processes, which start together, warm.

    The place for the workers of the engine that schedules runs, once it offers some.
    """
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # PyTorch is imported once, not once for each
    begin = _cut(specs[0], specs[0].batch_size), context.Barrier(workers)
    with tempfile.TemporaryDirectory(prefix="kdutils-") as folder:
        with ProcessPoolExecutor(workers, context, _begin, begin) as pool:
            return np.array(list(pool.map(_timed, specs, repeat(Path(folder)))))


def _begin(spec: RunSpec, barrier: Barrier) -> None:
    """In a worker: a first run, and a wait for the others."""
    torch.set_num_threads(1)
    os.environ.pop("KD_USED_RUNS", None)  # what is run for its time is no result of the chapter that asks
    with tempfile.TemporaryDirectory(prefix="kdutils-") as folder:
        _timed(spec, Path(folder))
    barrier.wait(timeout=600)


def _timed(spec: RunSpec, folder: Path) -> tuple[float, float]:
    began = time.time()
    run(spec, store=Store(folder))
    return began, time.time()
