"""Whole reports whose processes are killed, and two on one store: all with the numbers of an undisturbed one.

`make drills` has every chapter in them and kills the command `KD_DRILLS` (20) times. Without it one chapter is reported
while its worker is killed, and the rest is left out.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from distributed import Client
from smoke_report import PROJECT, Copy

pytest_plugins = ["smoke_report"]

KILLS = int(os.environ.get("KD_DRILLS", "0"))
ONLY = () if KILLS else ("--only", "01")
long = pytest.mark.skipif(not KILLS, reason="takes minutes: make drills")

COUNTING = """
from kdutils.runs import run as runs
from kdutils.training.loop import train

def counted(model, spec, *rest):
    with open({path!r}, "a") as file:
        file.write(f"{{spec.key}} {{(runs.Store().folder / spec.key).exists()}}\\n")
    return train(model, spec, *rest)

runs.train = counted
"""  # loaded by every worker: notes which run begins, and whether it was recorded already
MEASURED = r"images/s|\((s|MB)\)|ms at|over float32"  # columns of what no two runs have alike


class Drill(Copy):
    """A copy of the project whose workers note what they train, and whose output is kept; every run is in its store."""

    def __init__(self, root: Path, data: Path, **places: str):
        super().__init__(root, data)
        self._environment |= {"KD_WORKERS": "2", "KD_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"} | places
        self.runs = Path(self._environment["KD_RUNS_DIR"])
        self._begun, self._said, counting = root / "begun", root / "said", root / "counting.py"
        counting.write_text(COUNTING.format(path=str(self._begun)))
        self._environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] = json.dumps([str(counting)])

    def begin(self, *command: str) -> subprocess.Popen:
        """A Python module, begun."""
        with self._said.open("a") as said:
            whole = [sys.executable, "-m", *command]
            return subprocess.Popen(whole, cwd=self.root, env=self._environment, stdout=said, stderr=said)

    def report(self, *more: str) -> subprocess.Popen:
        """The report, begun."""
        return self.begin("kdutils", *self.command, *ONLY, *more)

    def said(self) -> str:
        """What all of its commands have said."""
        return self._said.read_text()

    def trained(self) -> list[str]:
        """The runs that its workers have begun; none that was recorded."""
        lines = [line.split() for line in self._begun.read_text().splitlines()]
        assert all(recorded == "False" for _, recorded in lines), lines
        return [key for key, _ in lines]

    def check(self, serial: Copy) -> None:
        """Raise unless its report has the numbers of the serial one, and its store these runs and nothing else."""
        results, expected = (
            json.loads((copy.reports / "results.json").read_text())["chapters"] for copy in (self, serial)
        )
        assert results == {name: expected[name] for name in (results if ONLY else expected)}
        for path in self.reports.glob("tables/[01]*.csv"):
            here, there = map(pd.read_csv, (path, serial.reports / "tables" / path.name))
            pd.testing.assert_frame_equal(*(table.filter(regex=f"^(?!.*({MEASURED}))") for table in (here, there)))
        kept, wanted = (
            {key: summary["files"]["model.safetensors"] for key, summary in copy.summaries().items()}
            for copy in (self, serial)
        )
        assert kept and kept == {key: wanted[key] for key in (kept if ONLY else wanted)}
        names = {path.name for path in self.runs.iterdir() if not path.name.startswith(".")}
        assert names - {"tables"} == kept.keys()


@pytest.fixture(scope="module")
def serial(request, tmp_path_factory, data_folder):
    """A copy of the project in which one process made the smoke report; the short form takes that of all tests."""
    if not KILLS:
        return request.getfixturevalue("smoke")
    copy, began = Drill(tmp_path_factory.mktemp("serial"), data_folder, KD_WORKERS="1"), time.monotonic()
    assert copy.report().wait() == 0, copy.said()
    copy.seconds = time.monotonic() - began
    return copy


@pytest.fixture
def copy(tmp_path, data_folder):
    """A copy of the project without runs."""
    return Drill(tmp_path / "copy", data_folder)


@contextmanager
def two_workers(copy: Drill) -> Iterator[str]:
    """The address of a scheduler with two workers on the loopback, begun as on many machines."""
    alone = ("--host", "127.0.0.1", "--no-dashboard")
    with ExitStack() as begun:
        scheduler = copy.begin("distributed.cli.dask_scheduler", "--port", "0", *alone)
        begun.callback(scheduler.wait)
        begun.callback(scheduler.terminate)
        while not (address := re.search(r"tcp://127.0.0.1:\d+", copy.said())):
            time.sleep(0.1)
        options = ["--local-directory", str(copy.runs.parent), *"--nworkers 2 --nthreads 1 --memory-limit 0".split()]
        workers = copy.begin("distributed.cli.dask_worker", address[0], *options, *alone)
        begun.callback(workers.wait)
        begun.callback(workers.terminate)
        yield address[0]


def listening() -> dict[int, int]:
    """The process that listens at each port."""
    return {link.laddr.port: link.pid for link in psutil.net_connections() if link.status == "LISTEN"}


def strike(client: Client) -> bool:
    """Kill a worker that is within a job; whether there was one."""
    for worker, tasks in client.processing().items():
        if tasks and (number := listening().get(int(worker.rpartition(":")[2]))):
            process = psutil.Process(number)
            process.suspend()  # what it has told until now arrives: it is within the job, or it is not
            time.sleep(0.2)
            if client.processing().get(worker):
                process.kill()
                return True
            process.resume()
    return False


def chapters_with_runs(copy: Copy) -> list[str]:
    """The chapters of an executed report that rest on runs which no chapter before them does."""
    found, known = [], set()
    for path in sorted(copy.reports.glob("*.ipynb")):
        runs = set(nbformat.read(path, as_version=4).metadata["kdutils"]["runs"])
        found += [path.stem] if runs - known else []
        known |= runs
    return found


def test_a_worker_that_is_killed_in_every_chapter_changes_no_number_and_costs_its_own_run_alone(copy, serial):
    killed = []
    with two_workers(copy) as address, Client(address, set_as_default=False) as client:
        command = copy.report("--scheduler", address)
        while command.poll() is None:
            begun = re.findall(r"(?m)^\[\d+/\d+\] (\w+)$", copy.said())
            if begun and begun[-1] not in killed and strike(client):
                killed.append(begun[-1])
            time.sleep(0.02)
    assert command.returncode == 0, copy.said()
    print(*re.findall("a worker process died.*", copy.said()), sep="\n")
    copy.check(serial)
    assert killed == chapters_with_runs(copy), copy.said()
    assert copy.said().count("a worker process died") == len(killed), copy.said()
    trained = copy.trained()
    assert set(trained) == copy.summaries().keys() and len(trained) <= len(set(trained)) + len(killed)


@long
def test_a_command_that_is_killed_at_random_moments_leaves_nothing_and_goes_on_to_the_same_tables(
    copy, serial, processes_of
):
    chance, kills = random.Random(KILLS), 0
    while True:
        command, end = copy.report(), time.monotonic() + chance.uniform(0, serial.seconds / 5)
        while command.poll() is None and (kills == KILLS or time.monotonic() < end):
            time.sleep(0.05)
        if command.poll() is not None:
            assert command.returncode == 0, copy.said()
            copy.check(serial)
            if kills == KILLS:
                return
            shutil.rmtree(copy.runs)  # from the start
            shutil.rmtree(copy.reports)
            continue
        family = processes_of(copy.runs)
        numbers = [process.pid for process in family]
        ports = {port for port, number in listening().items() if number in numbers}
        command.kill()
        command.wait()
        kills += 1
        print(f"kill {kills}: {len(family)} processes, {len(ports)} ports, {len(copy.summaries())} records", flush=True)
        assert not psutil.wait_procs(family, 20)[1] and not processes_of(copy.runs)
        assert not ports & listening().keys()


@long
def test_two_reports_at_once_on_one_store_have_one_set_of_records(copy, serial, tmp_path, data_folder):
    other = Drill(tmp_path / "other", data_folder, KD_RUNS_DIR=str(copy.runs))
    commands = [each.report() for each in (copy, other)]
    assert [command.wait() for command in commands] == [0, 0], copy.said() + other.said()
    copy.check(serial)
    other.check(serial)


@long
def test_the_benchmark_of_the_driver_runs():
    command = [sys.executable, "-m", "tests.benchmarks.driver", "10"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and "ms of computing a run" in done.stdout, done.stderr
