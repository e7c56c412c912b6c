"""A small grid on a Dask scheduler and two workers of this machine: `make cluster-demo`."""

from __future__ import annotations

import os
import tempfile

from distributed import LocalCluster
from kdutils.runs.jobs import Job

from kdutils.data.datasets import load_dataset
from kdutils.report.tables import grid_table
from kdutils.runs.cluster import connect
from kdutils.runs.run import run_all
from kdutils.studies import cifar100


def main() -> None:
    """Run the grid in a store of its own; print its table and who ran what."""
    load_dataset("synthetic")
    study = cifar100("smoke", "synthetic")
    here = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with tempfile.TemporaryDirectory(prefix="kdutils-") as store:
        os.environ["KD_RUNS_DIR"] = store
        with LocalCluster(**here) as machines, connect(machines.scheduler_address, {"synthetic"}) as cluster:
            print(f"2 workers on this machine, scheduler {machines.scheduler_address}", flush=True)
            grid = grid_table(run_all(study.grid(), cluster)).to_string(float_format="{:.1f}".format)
    print(
        "\nvalidation accuracy (%) of the four-layer CNN, alone (kd_weight 0) and taught by a ResNet8x4:",
        grid,
        sep="\n",
    )
    for worker in sorted({worker for worker, _ in cluster.begun}):
        print(f"\n{worker} ran:", *(_label(job) for place, job in cluster.begun if place == worker), sep="\n  ")


def _label(job: Job) -> str:
    taught = getattr(job.arguments[0], "distillation", None) if job.is_run else None
    return job.title + (f", temperature {taught.temperature:g}, kd_weight {taught.kd_weight:g}" if taught else "")


if __name__ == "__main__":
    main()
