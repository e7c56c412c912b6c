"""What ten thousand runs cost the process that plans and hands them out: `python -m tests.benchmarks.driver [RUNS]`.

With two runs, its seconds are what chapters wait for the engine; a report starts the workers once.

They have study D's size at full protocol (CIFAR-100 where it lies in KD_DATA_DIR, else the synthetic images): a grid of
temperatures, weights and seeds under one teacher, on two workers of this machine. Training and filling do nothing.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import psutil

import kdutils.runs.run as runs
from kdutils.data.datasets import is_cached, load_dataset
from kdutils.distillation.methods import KD
from kdutils.distillation.tables import ViewTable
from kdutils.runs.cluster import local_cluster
from kdutils.runs.records import Store
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec


def no_run(spec: RunSpec, store: Store, report) -> dict:
    """A summary of a record's size, at once."""
    metrics = {split: {"loss": 1.0, "accuracy": 50.0} for split in ("train", "val", "test")}
    environment = {name: "x" * 40 for name in ("hardware", "platform", "python", "torch", "numpy", "code")}
    files = {name: "0" * 64 for name in ("spec.json", "history.csv", "predictions.npz", "model.safetensors")}
    return {"key": spec.key, "metrics": metrics, "environment": environment, "files": files}


def no_filling(teacher, codes, store: Store, report) -> None:
    """Nothing."""


def no_teacher(teacher: RunSpec, store: Store) -> tuple[ViewTable, None]:
    """An empty table."""
    return ViewTable(store.folder / "table", len(load_dataset(teacher.data.name).train_labels), 100), None


def grid(count: int) -> list[RunSpec]:
    """So many students of one teacher."""
    sizes = {"val_size": 5000} if is_cached("cifar100") else {}
    data = DataSpec(name="cifar100" if is_cached("cifar100") else "synthetic", **sizes)
    teacher = RunSpec(data=data, model=ModelSpec(name="resnet32x4"), epochs=240)
    specs = []
    for number in range(count):
        seed, cell = divmod(number, 100)
        method = KD(temperature=1.0 + cell // 10, kd_weight=(cell % 10) / 10)
        taught = Distillation(teachers=(teacher,), method=method)
        specs.append(RunSpec(data=data, model=ModelSpec(name="cnn4"), epochs=240, seed=seed, distillation=taught))
    return specs


def memory() -> str:
    """The most memory this process has held, and now, without mapped files (libraries, data sets), in 10^6 bytes."""
    now = psutil.Process().memory_info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"peak {peak / 1e6:.0f} MB, now {(now.rss - now.shared) / 1e6:.0f} MB without mapped files"


def main(count: int = 10_000) -> None:
    """Print seconds and memory of the driver, and of the scheduler beside it."""
    runs._run_job, runs._fill_job, runs.open_table = no_run, no_filling, no_teacher
    print(f"imported: {memory()}")
    specs = grid(count)
    print(f"{count} specs: {memory()}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, local_cluster(2, 1) as os.environ["KD_SCHEDULER"]:
        print(f"scheduler and workers have started: {time.perf_counter() - began:.1f} s")
        [serving] = [child for child in psutil.Process().children() if "serve" in " ".join(child.cmdline())]
        began, computed = time.perf_counter(), time.process_time()
        records = runs.run_all(specs, Store(Path(folder)))
        seconds, computed = time.perf_counter() - began, time.process_time() - computed
        again = time.perf_counter()
        runs.run_all([specs[0].teachers[0]], Store(Path(folder)))
        print(f"one that needs no table, as in a later chapter: {time.perf_counter() - again:.1f} s")
        assert len({record.spec.key for record in records}) == count
        used = serving.cpu_times()
        print(f"{seconds:.1f} s in all, {1000 * seconds / count:.2f} ms a run; with the table's shards as jobs")
        print(f"driver: {1000 * computed / count:.2f} ms of computing a run, {memory()}")
        served, held = 1000 * (used.user + used.system) / count, serving.memory_info().rss / 1e6
        print(f"scheduler: {served:.2f} ms of computing a run, {held:.0f} MB at the end")


if __name__ == "__main__":
    from tests.benchmarks import driver  # workers look functions up by their module's name

    driver.main(*map(int, sys.argv[1:]))
