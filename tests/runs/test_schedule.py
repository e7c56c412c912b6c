"""Runs on a Dask cluster: the numbers of one process, whatever dies, and unfit workers refused by name."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import LocalCluster

from kdutils import cluster, records, runs
from kdutils.__main__ import main
from kdutils.data.datasets import load_dataset
from kdutils.errors import InputError
from kdutils.runs.cluster import check_address, connect
from kdutils.runs.jobs import Job, execute
from kdutils.runs.records import find
from kdutils.runs.run import run, run_all
from kdutils.settings import runs_dir
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training.checkpoints import Progress

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "threads_per_worker": 1}


@pytest.fixture(scope="module")
def home(data_folder, tmp_path_factory):
    """The run store and data folder of the module's workers."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_DATA_DIR", str(data_folder))
        patch.setenv("KD_RUNS_DIR", str(store))
        patch.setenv("KD_CHECKPOINT_SECONDS", "0")
        load_dataset("synthetic")
        with LocalCluster(n_workers=2, **LOOPBACK) as machines:
            yield machines.scheduler_address, store


@pytest.fixture
def address(home, monkeypatch):
    """The address of a scheduler with two workers, which share this process's store."""
    monkeypatch.setenv("KD_RUNS_DIR", str(home[1]))
    return home[0]


def cnn(**changes) -> RunSpec:
    data = DataSpec(name="synthetic", train_size=48, val_size=20, test_size=30, views=3)
    return RunSpec(**{"data": data, "model": ModelSpec(name="small_cnn"), "epochs": 2, "batch_size": 16} | changes)


def student(kd_weight: float) -> RunSpec:
    return cnn(distillation=Distillation(teachers=(cnn(seed=1),), temperature=2.0, kd_weight=kd_weight))


def numbers(record):
    return record.history.drop(columns="seconds").to_dict("records"), record.summary["metrics"], record.digest


# What follows is looked up by name in the workers.


def note(text: str, path: Path) -> None:
    with open(path, "a") as file:
        file.write(f"{text}\n")


def note_process(text: str, seconds: float, path: Path, report) -> None:
    time.sleep(seconds)
    note(f"{text} {os.getpid()}", path)


def run_and_die_once(spec: RunSpec, report=lambda fraction: None):
    """`run`, noted; the first of all to come half way dies there."""

    def report_or_die(fraction: float) -> None:
        report(fraction)
        flag = runs_dir() / "died"
        if fraction == 0.5 and not flag.exists():
            flag.write_text(spec.key)
            os.kill(os.getpid(), signal.SIGKILL)

    note(spec.key, runs_dir() / "begun")
    return run(spec, report_or_die)


def test_no_worker_idles_while_a_job_waits(address, tmp_path):
    path = tmp_path / "notes"
    todo = [
        Job(note_process, ("long", 4.0, path), 9.0, ""),
        *(Job(note_process, ("short", 0.1, path), 1.0, "") for _ in range(8)),
    ]
    with connect(address, []) as there, Progress(17.0, 0) as progress:
        execute(todo, progress, there)
    done = [line.split() for line in path.read_text().splitlines()]
    [long] = [process for text, process in done if text == "long"]
    assert len(done) == 9 and [text for text, process in done if process == long] == ["long"]


# Bad input


@pytest.mark.parametrize(
    "given",
    [
        "host:8786",
        "tcp://host",
        "tcp://:8786",
        "http://host:8786",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://ho st:1",
        " ",
    ],
)
def test_a_malformed_address_is_refused(given, monkeypatch):
    for_example = "such as tcp://host:8786"
    with pytest.raises(InputError, match=for_example):
        check_address(given)
    monkeypatch.setenv("KD_SCHEDULER", given)
    with pytest.raises(InputError, match=for_example):
        run_all([cnn()])


def refused(address: str, names=()) -> str:
    with pytest.raises(InputError) as error, connect(address, names):
        pass
    assert not list(runs_dir().glob(".*"))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("listening", [False, True], ids=["nobody listens", "no scheduler listens"])
def test_a_scheduler_that_does_not_answer_is_refused(listening, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        if not listening:
            server.close()
        said = refused(address)
        assert address in said and "check that it runs" in said
        assert (
            main(
                ["report", "--profile", "smoke", "--dataset", "synthetic", "-p", "init=random", "--scheduler", address]
            )
            == 2
        )
    assert capfd.readouterr().err.splitlines() == [f"kdutils: {said}"]


def test_a_scheduler_without_workers_and_a_worker_with_threads_are_refused():
    with LocalCluster(n_workers=0, processes=False, **LOOPBACK | {"protocol": "tcp"}) as machines:
        said = refused(machines.scheduler_address)
        assert f"dask worker {machines.scheduler_address} --nthreads 1" in said
    with LocalCluster(
        n_workers=1, processes=False, **LOOPBACK | {"protocol": "tcp", "threads_per_worker": 2}
    ) as machines:
        said = refused(machines.scheduler_address)
        assert "2 threads" in said and "--nthreads 1" in said and "the worker tcp://127.0.0.1:" in said


def test_a_worker_with_other_code_is_refused(address, monkeypatch):
    monkeypatch.setattr(records, "_CODE", "sources 0123, commit 4567")
    said = refused(address)
    assert "sources 0123" in said and "the worker tcp://127.0.0.1:" in said and "4567" not in said


def test_a_worker_without_kdutils_is_refused(address, monkeypatch):
    monkeypatch.setattr(cluster._Call, "__reduce__", lambda call: (eval, ("__import__('no_kdutils')",)))
    said = refused(address)
    assert "has no kdutils, or another (No module named 'no_kdutils')" in said and "the worker tcp://127.0.0.1:" in said


def test_a_worker_without_the_data_or_with_others_is_refused(address, cifar, data_folder):
    said = refused(address, {"cifar10"})
    assert "no cifar10" in said and str(data_folder) in said and load_dataset("cifar10").digest in said
    try:
        shutil.copytree(cifar, data_folder / "cifar10")
        labels = data_folder / "cifar10" / "classes.txt"
        (cifar / "train_labels.npy").write_bytes((cifar / "train_labels.npy").read_bytes()[:-1] + b"\x03")
        (cifar / "SHA256").unlink(missing_ok=True)
        assert labels.exists() and "cifar10 with digest" in refused(address, {"cifar10"})
    finally:
        shutil.rmtree(data_folder / "cifar10")


def test_a_worker_with_another_store_is_refused(address, home, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "other"))
    said = refused(address)
    assert str(home[1]) in said and str(tmp_path / "other") in said and "KD_RUNS_DIR" in said


def test_a_worker_on_another_machine_may_not_share_a_store_on_nfs():
    ours = cluster._facts([], "token") | {"has_token": True, "host": "here"}
    assert cluster._difference(ours | {"file_system": "nfs4"}, ours) is None
    assert cluster._difference(ours | {"host": "there", "file_system": "lustre"}, ours) is None
    assert "nfs4" in cluster._difference(ours | {"host": "there", "file_system": "nfs4"}, ours)


def test_the_file_system_is_known_where_proc_tells():
    if Path("/proc/mounts").exists():
        assert cluster._file_system(Path("/proc/self")) == "proc"


def test_workers_that_all_leave_are_awaited_and_an_unfit_newcomer_gets_nothing(tmp_path, monkeypatch):
    class Client:
        """A scheduler's view: a worker that leaves, nobody, then one with two threads and one that is fit."""

        status, views = "running", [["a"], [], ["b2", "c"], ["b2", "c"]]

        def get_executor(self, pure):
            return None

        @property
        def scheduler(self):
            return self

        def sync(self, function, **arguments):
            return function(**arguments)

        def identity(self, n_workers):
            return {
                "workers": {
                    name: {"nthreads": 2 if name.endswith("2") else 1, "status": "running"}
                    for name in self.views.pop(0)
                }
            }

    class Done(cluster.Future):
        def __init__(self, result):
            super().__init__()
            self.set_result(result)

    client = Client()
    there = cluster.Cluster(client, "tcp://host:1", [], "token")
    monkeypatch.setattr(there, "_submit", lambda worker, function, *question: Done(there._ours | {"has_token": True}))
    assert there.present() == ["a"]
    with pytest.warns(UserWarning, match="all workers at tcp://host:1 are gone, waiting"):
        assert there.present() == []
    with pytest.warns(UserWarning, match="the worker b2 has 2 threads"):
        assert there.present() == ["c"]
    client.status = "closed"
    with pytest.raises(InputError, match="connection to the scheduler at tcp://host:1 is lost"):
        there.present()


# Last, for the others need not wait until a new worker is there


def test_a_grid_has_the_same_numbers_although_a_worker_was_killed(address, home, monkeypatch, tmp_path):
    specs = [cnn(), cnn(seed=2), *map(student, (0.1, 0.5, 0.9))]
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="a worker process died"):
        patch.setenv("KD_SCHEDULER", address)
        patch.setattr(runs, "run", run_and_die_once)
        patch.setattr(runs, "train", None)  # nothing trains in this process
        found = [numbers(record) for record in run_all(specs)]
    died, begun = (home[1] / "died").read_text(), (home[1] / "begun").read_text().split()
    assert begun.count(died) > 1 and not list(home[1].glob(".*"))
    assert not list(home[1].glob("*.partial")) and all(find(spec) for spec in specs)
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "alone"))
    assert [numbers(record) for record in run_all(specs)] == found


def test_the_demo_shows_a_grid_and_who_ran_what(capsys):
    assert main(["cluster-demo"]) == 0
    said = capsys.readouterr().out
    assert (
        "kd_weight" in said
        and said.count(" ran:") in (1, 2)
        and said.count("temperature 4, kd_weight 0.5") == 1
        and said.count("resnet8x4, seed 0") == 1
    )


def test_dask_is_imported_only_for_a_scheduler():
    code = "import sys, kdutils.runs; sys.exit('distributed' in sys.modules or 'dask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
