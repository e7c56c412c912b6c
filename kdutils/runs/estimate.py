"""Estimates of the time and disk space of runs that are not recorded yet, measured on a few batches of each network."""

import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from kdutils.data.datasets import load_dataset
from kdutils.distillation.tables import FILL_BATCH
from kdutils.machine import cores
from kdutils.networks.counting import parameter_count
from kdutils.networks.registry import build_model
from kdutils.runs.cluster import workers
from kdutils.runs.records import Store
from kdutils.runs.run import image_work, missing, plan, run, run_work
from kdutils.specs import DataSpec, RunSpec


@dataclass(frozen=True)
class Estimate:
    """How many runs are missing, the seconds that they and their tables take with all workers, and bytes on disk."""

    runs: int
    seconds: float
    size: int


def estimate(specs: Iterable[RunSpec]) -> Estimate:
    """The estimate for specs that are not recorded and what they need; table entries already filled count, too."""
    _, todo = missing(specs, Store())
    datasets = {name: load_dataset(name) for name in {spec.data.name for spec in todo.values()}}
    _, tables = plan(todo, datasets)
    seconds = size = 0
    for spec in todo.values():
        data = datasets[spec.data.name]
        model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
        size += 4 * parameter_count(model) + 4 * len(data.classes) * (spec.data.test_size or len(data.test_labels))
        seconds += run_work(spec, data) * _rate(_few(spec)) if spec.epochs else 0
    for spec, bits in tables.values():
        entries = int(np.bitwise_count(bits).sum())
        model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
        size += 2 * entries * (model.fc.in_features if spec.has_frozen_backbone else spec.data.num_classes)
        seconds += entries * image_work(spec) * _rate(_few(spec))
    return Estimate(len(todo), seconds / workers(), size)


def _few(spec: RunSpec) -> RunSpec:
    """A run of one batch that costs as much per image as `spec`, on data that need no download."""
    batch = FILL_BATCH if spec.has_frozen_backbone else spec.batch_size  # a table pads its batches to this
    data = DataSpec(name="synthetic", train_size=batch, val_size=0, test_size=10)
    kept = {name: getattr(spec, name) for name in ("model", "trainable", "bayesian")}
    return RunSpec(data=data, epochs=1, batch_size=batch, **kept)


@cache
def _rate(few: RunSpec) -> float:
    """Seconds per unit of work (`run_work`), from what two more batches cost, so that start-up does not count."""
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(max(1, cores() // workers()))
    try:
        with tempfile.TemporaryDirectory(prefix="kdutils-", ignore_cleanup_errors=True) as folder:
            for batches in (1, 3):
                spec = few.with_(data=few.data.with_(train_size=batches * few.batch_size))
                began = time.monotonic()
                run(spec, Store(Path(folder)))
                seconds.append(time.monotonic() - began)
    finally:
        torch.set_num_threads(threads)
    passes = 1.0 if few.has_frozen_backbone else 3.0
    return max(0.0, seconds[1] - seconds[0]) / (passes * 2 * few.batch_size * image_work(few))
