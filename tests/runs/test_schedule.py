"""Jobs on workers: the numbers of one process whatever dies, unfit workers refused by name, and nothing left behind.

`KD_DRILLS` says at how many random moments the command is killed (default 1).
"""

from __future__ import annotations

import errno
import gc
import io
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Security

import kdutils.runs.cluster as cluster
import kdutils.runs.run as runs
import kdutils.runs.schedule as schedule
from kdutils.data.datasets import load_dataset
from kdutils.data.views import VIEWS, split_indices
from kdutils.distillation.methods import KD
from kdutils.errors import InputError
from kdutils.runs import records
from kdutils.runs.cluster import connect, local_cluster
from kdutils.runs.records import Store
from kdutils.runs.run import run, run_all
from kdutils.runs.schedule import Job, Pool, Progress, chains, execute
from kdutils.settings import ROOT
from kdutils.specs import DataSpec, Distillation, ModelSpec, RunSpec
from kdutils.training.inputs import looked_up

HERE = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "processes": False, "protocol": "tcp"}


@pytest.fixture(scope="module")
def two_workers(data_folder):
    """The address of two workers of this machine, which read the session's data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_DATA_DIR", str(data_folder))
        patch.setenv("KD_CHECKPOINT_SECONDS", "0")
        patch.setenv("KD_SCHEDULER", "")
        patch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "2s")  # by default five minutes
        load_dataset("synthetic")
        with local_cluster(2, 1) as address:
            yield address


@pytest.fixture
def address(two_workers, monkeypatch):
    """The same, as the scheduler of the test."""
    monkeypatch.setenv("KD_SCHEDULER", two_workers)
    return two_workers


@pytest.fixture(params=["here", "workers"])
def anywhere(request, monkeypatch):
    """A test in this process, and again with two workers."""
    monkeypatch.setenv("KD_WORKERS", "1")
    if request.param == "workers":
        request.getfixturevalue("address")


def cnn(**changes) -> RunSpec:
    data = DataSpec(name="synthetic", train_size=48, val_size=20, test_size=30, views=3)
    return RunSpec(**{"data": data, "model": ModelSpec(name="small_cnn"), "epochs": 2, "batch_size": 16} | changes)


def student(kd_weight: float, **changes) -> RunSpec:
    method = KD(temperature=2.0, kd_weight=kd_weight)
    return cnn(distillation=Distillation(teachers=(cnn(seed=1),), method=method), **changes)


GRID = [cnn(), cnn(seed=2), *map(student, (0.1, 0.5, 0.9))]


def numbers(record):
    """All that a run's arithmetic decides."""
    history = record.history.drop(columns="seconds").to_dict("records")
    return history, record.summary["metrics"], record.digest, record.predictions[0].tobytes()


def do(jobs: list[Job], graph: dict[str, set[str]] | None = None) -> list:
    """Do the jobs; what they returned, in the order in which they ended."""
    progress, results = Progress(1.0, 0), []

    def finish(_, result) -> None:
        results.append(result)

    with connect(Store(), ["synthetic"], progress=progress) as pool:
        nodes, work = {job.node: [job] for job in jobs}, {job.node: job.work for job in jobs}
        execute(graph or {node: set() for node in nodes}, work, nodes.get, finish, pool)
    progress.close()
    return results


def job(function, *arguments, work: float = 1.0, node: str | None = None) -> Job:
    name = node or f"{function.__name__}{arguments}"
    return Job(name, function, arguments, work, f"the job {name}")


# What follows is looked up by name in the workers.


def note(text: str, path: Path, report=None, seconds: float = 0.0) -> str:
    time.sleep(seconds)
    with path.open("a") as file:
        file.write(f"{text} {os.getpid()}\n")
    return text


def note_late(text: str, path: Path, report) -> str:
    return note(text, path, report, 3.0)


def fail(report) -> None:
    raise InputError("this job cannot be done")


def exhaust(report) -> None:
    raise MemoryError


def die(report=None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition) -> None:
    """Until the condition holds, or three minutes have gone."""
    for _ in range(1800):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def die_beside(other: Path, own: Path, report) -> None:
    """Begun for the first time: dies once the other job has begun."""
    note("begun", own)
    if len(lines(own)) == 1:
        wait_for(lambda: lines(other))
        die()


def outlive(other: Path, own: Path, report) -> None:
    """Ends only after the other job has begun again."""
    note("begun", own)
    wait_for(lambda: len(lines(other)) == 2)


def go_on(path: Path, report) -> None:
    """Advances until it is told that nobody waits."""
    note("begun", path)
    try:
        wait_for(lambda: report(0.25))
    except InterruptedError:
        note("ended", path)


def run_and_die_once(spec: RunSpec, store: Store, report) -> dict:
    """A run, noted; the first of all to come half way dies there."""

    def report_or_die(fraction: float) -> None:
        report(fraction)
        if fraction == 0.5:
            with suppress(FileExistsError), (store.folder.parent / "died").open("x") as flag:
                flag.write(spec.key)
                flag.flush()
                die()

    note(spec.key, store.folder.parent / "begun")
    return run(spec, store, report_or_die).summary


# The order of jobs, and what becomes of those that fail


def test_the_costliest_jobs_begin_first_and_none_before_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "1")
    path = tmp_path / "notes"
    work = {"a": 3.0, "b": 5.0, "c": 4.0, "d": 0.5, "e": 9.0}
    jobs = [job(note, name, path, work=work[name], node=name) for name in work]
    assert do(jobs, {"a": set(), "b": set(), "c": set(), "d": {"a"}, "e": {"c"}}) == ["c", "e", "b", "a", "d"]
    nodes = {"empty": [], "a": jobs[:1]}
    execute({"empty": set(), "a": {"empty"}}, {"empty": 0.0, "a": 1.0}, nodes.get, print, Pool(Progress(1.0, 0)))
    assert [line[0] for line in lines(path)] == ["c", "e", "b", "a", "d", "a"]


SAID = {fail: "^this job cannot be done$", exhaust: r"the job failing \(failing\) has run out of memory .*KD_WORKERS"}


@pytest.mark.parametrize("function", SAID)
def test_a_failing_job_keeps_only_what_needs_it_from_being_done(tmp_path, anywhere, function):
    path = tmp_path / "notes"
    jobs = [job(function, work=5.0, node="failing"), *(job(note, name, path, node=name) for name in "abc")]
    with pytest.raises(InputError, match=SAID[function]):
        do(jobs, {"failing": set(), "a": set(), "b": set(), "c": {"failing"}})
    assert sorted(line[0] for line in lines(path)) == ["a", "b"]


def test_a_death_costs_no_other_job_its_work(tmp_path, address):
    dying, living = tmp_path / "dying", tmp_path / "living"
    with pytest.warns(UserWarning, match="a worker process died.*die_beside"):
        do([job(die_beside, living, dying), job(outlive, dying, living)])
    assert len(lines(dying)) == 2 and len(lines(living)) == 1


def test_a_job_that_keeps_killing_its_worker_is_named_after_the_others_are_done(tmp_path, address):
    path = tmp_path / "notes"
    with (
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(InputError, match=r"the job deadly \(deadly\) has cost 3 .*KD_WORKERS"),
    ):
        warnings.simplefilter("default")  # as outside of tests: of two that are equal, one is told
        do([job(die, work=5.0, node="deadly"), *(job(note, name, path) for name in "abc")])
    assert ["deadly" in str(each.message) for each in warned] == [True, True]
    assert sorted(line[0] for line in lines(path)) == list("abc")


def test_no_worker_idles_while_a_job_waits(tmp_path, address):
    path = tmp_path / "notes"
    do([job(note_late, "late", path, work=9.0), *(job(note, f"soon{n}", path) for n in range(8))])
    done = [line.split() for line in lines(path)]
    [late] = [process for text, process in done if text == "late"]
    assert len(done) == 9 and [text for text, process in done if process == late] == ["late"]


def test_a_job_that_nobody_waits_for_ends_and_told_how_far_it_was(tmp_path, address):
    path, progress = tmp_path / "notes", Progress(1.0, 0)
    with connect(Store(), ["synthetic"], progress=progress) as pool:
        [slot] = pool.free()[:1]
        pool.begin(slot, going := job(go_on, path))
        wait_for(lambda: progress.fractions.get(going) == 0.25)
    wait_for(lambda: len(lines(path)) == 2)


def test_a_machine_that_sleeps_for_longer_than_dask_waits_loses_no_worker(tmp_path, address):
    path = tmp_path / "notes"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none dies
        do([job(note, n, path) for n in "ab"])
        workers = [process for process in psutil.Process().children(recursive=True) if not process.children()]
        for process in workers:
            process.suspend()
        time.sleep(6)
        for process in workers:
            process.resume()
        time.sleep(6)
        do([job(note, n, path, node=n) for n in "cd"])
        assert all(process.is_running() for process in workers)
    assert sorted(line[0] for line in lines(path)) == list("abcd")


def test_a_grid_has_the_same_numbers_although_a_worker_was_killed(tmp_path, address, monkeypatch):
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="a worker process died"):
        patch.setattr(runs, "_run_job", run_and_die_once)
        patch.setattr(runs, "train", None)  # nothing trains in this process
        found = [numbers(record) for record in run_all(GRID)]
    begun = [line.split()[0] for line in lines(tmp_path / "begun")]
    assert sorted(begun) == sorted([*(spec.key for spec in GRID), cnn(seed=1).key, (tmp_path / "died").read_text()])
    left = [path.name for path in Store().folder.iterdir()]
    assert sorted(left) == sorted([*(spec.key for spec in GRID), cnn(seed=1).key, "tables"])
    monkeypatch.setenv("KD_SCHEDULER", "")
    monkeypatch.setenv("KD_WORKERS", "1")
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "alone"))
    assert [numbers(record) for record in run_all(GRID)] == found


# What the driver holds


def test_a_bit_for_each_entry_that_any_student_looks_up():
    other = cnn(seed=1).data.with_(views=2)
    specs = [student(0.5), student(0.9, seed=7), student(0.5, epochs=5), student(0.5, data=other), cnn(seed=1)]
    labels = load_dataset("synthetic").train_labels
    graph, tables = runs.plan({spec.key: spec for spec in specs}, {"synthetic": load_dataset("synthetic")})
    [(node, (teacher, bits))] = tables.items()
    codes = [looked_up(spec, split_indices(labels, *spec.data.split)[0]) for spec in specs[:4]]
    entries = np.flatnonzero(np.unpackbits(bits, count=len(labels) * VIEWS))
    assert entries.tolist() == np.unique(np.concatenate(codes)).tolist()
    assert teacher == cnn(seed=1) and graph[node] == {teacher.key} and graph[specs[0].key] == {node, teacher.key}
    assert runs.plan({specs[0].key: specs[0]}, {"synthetic": load_dataset("synthetic")})[0][node] == set()  # recorded


def test_what_was_recorded_is_read_once_and_what_runs_not_at_all(monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "1")
    before = run(cnn()).digest
    read, reading = [], records.read_record
    monkeypatch.setattr(records, "read_record", lambda path: read.append(path.name) or reading(path))
    assert [record.digest for record in run_all([cnn(), cnn()])] == [before] * 2 and read == [cnn().key]


# Progress


def test_a_log_gets_lines_without_control_characters_and_a_terminal_a_bar(monkeypatch):
    for shape, seconds in (("lines", 0.3), ("lines", 60), ("bar", 60)):
        monkeypatch.setenv("KD_PROGRESS", shape)
        monkeypatch.setattr(schedule, "_LINE_SECONDS", seconds)
        monkeypatch.setattr(sys, "stderr", told := io.StringIO())
        progress, began = Progress(10.0, 10), time.monotonic()
        for _ in range(10):
            progress.end(Job("", print, (), 1.0, "", is_run=True))
            progress.show()
            time.sleep(0.1)
        progress.close()
        if shape == "bar":
            assert "\r" in told.getvalue()
        else:
            assert told.getvalue().replace("\n", "").isprintable()
            assert len(told.getvalue().splitlines()) <= (time.monotonic() - began) / seconds
            assert seconds == 60 or "% " not in told.getvalue().splitlines()[0] and "/10 runs" in told.getvalue()


def test_the_time_left_does_not_count_what_was_done_before_as_done_now(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress, resumed = Progress(100.0, 1), Job("", print, (), 100.0, "")
    bar = progress._bar
    progress.advance(resumed, 0.6)  # from its checkpoint
    bar.start_t = time.time() - 10.0  # ten seconds for a tenth: thirty for the three that are left
    progress.advance(resumed, 0.7)
    progress.show()
    facts = bar.format_dict
    assert facts["n"] == 70.0
    assert (facts["total"] - facts["n"]) * facts["elapsed"] / (facts["n"] - facts["initial"]) == pytest.approx(30, 0.1)
    assert re.search(r"70%.* 00:(29|30|31) left", bar.format_meter(**facts))
    progress.fractions.pop(resumed)  # its worker died, and it begins again
    progress.advance(resumed, 0.65)
    assert bar.initial == 60.0
    progress.close()


def test_a_node_whose_jobs_cannot_be_told_keeps_only_what_needs_it_from_being_done(tmp_path):
    path = tmp_path / "notes"
    jobs = {name: [job(note, name, path, node=name)] for name in "abc"}

    def jobs_of(node):
        if node == "torn":
            raise InputError("its table is damaged")
        return jobs[node]

    graph = {"torn": set(), "a": set(), "b": {"a"}, "c": {"torn"}}
    with pytest.raises(InputError, match="its table is damaged"):
        execute(graph, dict.fromkeys(graph, 1.0), jobs_of, lambda *_: None, Pool(Progress(1.0, 0)))
    assert [line.split()[0] for line in lines(path)] == ["a", "b"]


def test_a_scheduler_that_has_died_is_started_anew(monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "2")
    first = cluster.scheduler()
    assert cluster.scheduler() == first
    host, port = first.removeprefix("tcp://").split(":")
    [server] = [
        process
        for process in psutil.Process().children()
        if any(found.laddr.port == int(port) for found in process.net_connections())
    ]
    server.kill()
    server.wait()
    again = cluster.scheduler()
    assert again != first
    cluster._own.close()


def test_a_job_whose_worker_died_is_not_shown_as_running_until_it_begins_again():
    progress, shown = Progress(1.0, 0), []

    class Deadly(Pool):
        def begin(self, slot, job) -> None:
            shown.append(dict(progress.fractions))
            progress.fractions[job] = 0.5
            self.running[slot] = job, schedule.Death() if len(shown) == 1 else None

    with pytest.warns(UserWarning, match="a worker process died"):
        execute({"a": set()}, {"a": 1.0}, {"a": [job(note, node="a")]}.get, lambda *_: None, Deadly(progress))
    assert shown == [{}, {}]


# Unfit workers, and schedulers that are none


def refused(*data: str, **more) -> str:
    with pytest.raises(InputError) as error, connect(Store(), data, **more):
        pass
    assert not list(Store().folder.glob(".*")) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("listening", [False, True], ids=["nobody listens", "no scheduler listens"])
def test_a_scheduler_that_does_not_answer_is_refused(listening, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        if not listening:
            server.close()
        monkeypatch.setenv("KD_SCHEDULER", address)
        said = refused()
        assert address in said and "check that it runs" in said


def test_a_scheduler_without_workers_and_a_worker_with_threads_are_refused(monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 3)
    for workers, said in ((0, "has no workers"), (1, "2 threads, but can do one run at a time")):
        with LocalCluster(n_workers=workers, threads_per_worker=2, **HERE) as machines:
            monkeypatch.setenv("KD_SCHEDULER", machines.scheduler_address)
            assert said in refused()


def test_workers_with_other_code_data_weights_or_store_are_refused_and_the_others_go_on(
    address, tmp_path, data_folder, monkeypatch
):
    other, weights = tmp_path / "other", tmp_path / "weights.pt"
    shutil.copytree(ROOT / "kdutils", other / "kdutils", ignore=shutil.ignore_patterns("__pycache__"))
    (other / "kdutils" / "values.py").open("a").write("\n# another\n")
    (tmp_path / "empty").mkdir()
    weights.write_bytes(b"weights")
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "KD_DATA_DIR": str(data_folder)}
    given = {
        "sources .* as code": {"PYTHONPATH": str(other)},
        "None as digest of synthetic": {"KD_DATA_DIR": str(tmp_path / "empty")},
    }
    command = [sys.executable, "-P", "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    command += ["--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
    guests = [subprocess.Popen(command, env=environment | each, stderr=subprocess.DEVNULL) for each in given.values()]
    try:
        path = tmp_path / "notes"
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")

            def told() -> list[str]:
                return [str(each.message) for each in warned if "the worker tcp://" in str(each.message)]

            progress = Progress(1.0, 0)
            with connect(Store(), ["synthetic"], files=[weights], progress=progress) as pool:
                wait_for(lambda: pool.free() and len(told()) == len(given))
                execute({"a": set()}, {"a": 1.0}, {"a": [job(note, "a", path, node="a")]}.get, print, pool)
        assert len(lines(path)) == 1 and all("\n" not in sentence for sentence in told())
        for part in given:
            [sentence] = [sentence for sentence in told() if re.search(part, sentence)]
            assert "give both the same" in sentence and "KD_DATA_DIR is" in sentence
    finally:
        for guest in guests:
            guest.kill()
            guest.wait()


@pytest.mark.parametrize("name, value", [("code", "kdutils 9"), ("run store", "/x"), ("digest of weights", "0123")])
def test_workers_that_are_all_unfit_are_refused(address, monkeypatch, name, value):
    begin = cluster.Cluster.__init__

    def begin_otherwise(self, *arguments) -> None:
        begin(self, *arguments)
        self._ours = self._ours[0] | {name: value}, self._ours[1]

    monkeypatch.setattr(cluster.Cluster, "__init__", begin_otherwise)
    said = refused("synthetic")
    assert f" as {name}, here it is {value}: give both the same" in said and "the worker tcp://127.0.0.1:" in said


def test_a_worker_without_kdutils_is_refused(address, monkeypatch):
    monkeypatch.setattr(cluster._Call, "__reduce__", lambda call: (eval, ("__import__('no_kdutils')",)))
    assert "has no kdutils, or another (No module named 'no_kdutils')" in refused()


def test_a_worker_on_another_machine_may_not_share_a_store_on_nfs(address, monkeypatch):
    class Client:
        def run(self, *_, workers):
            return {workers[0]: ({}, {"host": "there", "disk": "nfs4"})}

    asked = cluster.Cluster.__new__(cluster.Cluster)
    asked._client, asked._question = Client(), b""
    for host, said in (("there", None), ("here", "on nfs4, where machines lose each other's entries")):
        asked._ours = {}, {"host": host, "disk": "ext4"}
        found = asked._ask("tcp://there:1", 1)
        assert found is None if said is None else said in found


def test_workers_that_leave_are_missed_by_nobody_and_a_newcomer_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 2)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        LocalCluster(n_workers=1, threads_per_worker=1, **HERE) as machines,
    ):
        monkeypatch.setenv("KD_SCHEDULER", machines.scheduler_address)
        with connect(Store(), [], progress=Progress(1.0, 0)) as pool:
            [first] = pool.free()
            machines.scale(0)
            with pytest.warns(UserWarning, match="has no workers: start some"):
                wait_for(lambda: not pool.free() and time.monotonic() > pool._began + 3)
            machines.scale(1)
            wait_for(pool.free)
            assert pool.free() != [first]
            machines.scheduler.loop.add_callback(machines.scheduler.close)
            with pytest.raises(InputError, match="connection to the scheduler at .* is lost"):
                wait_for(lambda: time.sleep(0.2) or pool.free() is None)


def test_a_scheduler_that_speaks_tls_takes_who_has_its_certificates(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    files = {"tls_ca_file": str(certificate)}
    for who in ("scheduler", "worker", "client"):
        files |= {f"tls_{who}_key": str(key), f"tls_{who}_cert": str(certificate)}
    security = Security(require_encryption=True, **files)
    with LocalCluster(n_workers=1, threads_per_worker=1, security=security, **HERE | {"protocol": "tls"}) as machines:
        monkeypatch.setenv("KD_SCHEDULER", machines.scheduler_address)
        monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 2)
        assert "TLS files" in refused()
        left = [each for each in gc.get_objects() if issubclass(type(each), Client) and each.status != "closed"]
        assert not left  # collected while the next one starts, it would wait for that one's lock for ever
        for name, path in {"CA_FILE": certificate, "CERT": certificate, "KEY": key}.items():
            monkeypatch.setenv(f"KD_TLS_{name}", str(path))
        assert do([job(note, "said", tmp_path / "notes")]) == ["said"]


# Whole processes: scripts without a main guard, commands that are killed, and what they leave

SCRIPT = """
import sys
assert "distributed" not in sys.modules
import kdutils as kd
from kdutils.distillation.methods import KD
data = kd.DataSpec(name="synthetic", train_size=48, val_size=20, test_size=30, views=3)
def cnn(**more):
    return kd.RunSpec(data=data, model=kd.ModelSpec(name="small_cnn"), epochs=2, batch_size=16, **more)

def student(weight):
    method = KD(temperature=2.0, kd_weight=weight)
    return cnn(distillation=kd.Distillation(teachers=(cnn(seed=1),), method=method))

print("begins", flush=True)
records = kd.run_all([cnn(), cnn(seed=2), student(0.1), student(0.5), student(0.9)])
print(*(record.digest for record in records), flush=True)
"""


def start(*command, store: Path, **more) -> subprocess.Popen:
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "KD_RUNS_DIR": str(store), "KD_WORKERS": "2"}
    environment |= {"KD_CHECKPOINT_SECONDS": "0"} | more
    return subprocess.Popen(command, env=environment, text=True, stdin=-1, stdout=-1, stderr=-1)


def test_scripts_without_a_guard_side_by_side_on_one_store_and_under_a_long_temporary_folder(
    tmp_path, data_folder, processes_of
):
    load_dataset("synthetic")
    store, long = tmp_path / "shared", tmp_path / ("long" * 30)
    long.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    both = [
        start(sys.executable, script, store=store, TMPDIR=str(long)),
        start(sys.executable, "-c", SCRIPT, store=store),
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    first, second = (output.split()[1:] for output, _ in said)
    assert first == second and len(first) == 5 and said[0][0].count("begins") == 1
    assert not any(errors for _, errors in said)
    found = sorted(path.name for path in store.iterdir())
    assert found == sorted([*(spec.key for spec in GRID), cnn(seed=1).key, "tables"])
    wait_for(lambda: not processes_of(store))
    assert [Store(store).find(spec).digest for spec in GRID] == first


@pytest.mark.parametrize("drill", range(int(os.environ.get("KD_DRILLS", "1"))))
def test_a_killed_repl_leaves_no_process_and_no_port_and_the_next_ends_with_the_serial_numbers(
    drill, tmp_path, processes_of
):
    load_dataset("synthetic")
    store = tmp_path / "store"
    killed = start(sys.executable, "-i", store=store)
    killed.stdin.write(SCRIPT)
    killed.stdin.flush()
    assert killed.stdout.readline() == "begins\n"
    wait_for(lambda: store.exists() and len(processes_of(store)) > 4)
    time.sleep(random.Random(drill).uniform(0, 8))
    family = processes_of(store)
    ports = {link.laddr.port for each in family for link in each.net_connections() if link.status == "LISTEN"}
    killed.kill()
    killed.communicate()
    gone, alive = psutil.wait_procs(family, 20)
    assert not alive and not processes_of(store)
    listening = {link.laddr.port for link in psutil.net_connections() if link.status == "LISTEN"}
    assert not ports & listening
    digests = [record.digest for record in run_all(GRID, Store(store))]
    assert digests == [record.digest for record in run_all(GRID, Store(tmp_path / "alone"))]


def test_a_notebook_works_and_an_interrupted_cell_leaves_no_worker_behind(
    tmp_path, data_folder, monkeypatch, processes_of
):
    from jupyter_client.manager import start_new_kernel

    load_dataset("synthetic")
    store = tmp_path / "store"
    for name, value in {"KD_RUNS_DIR": store, "KD_WORKERS": 2, "PYTHONPATH": ROOT}.items():
        monkeypatch.setenv(name, str(value))
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        asked = client.execute(SCRIPT.replace("epochs=2", "epochs=2000"))
        wait_for(lambda: list(store.glob("*.partial")))
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        wait_for(lambda: [each.pid for each in processes_of(store)] == [manager.provisioner.pid])
        told = []
        again = SCRIPT.split("\n", 3)[3]  # distributed is there by now

        def hear(message: dict) -> None:
            told.append(message["content"].get("text", ""))

        reply = {"content": {"status": "aborted"}}
        while reply["content"]["status"] == "aborted":  # as ipykernel answers at once after an error
            reply = client.execute_interactive(again, timeout=300, output_hook=hear)
        assert reply["content"]["status"] == "ok" and "\r" in "".join(told)  # a bar, for somebody looks
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    wait_for(lambda: not processes_of(store))


@pytest.mark.skipif(os.name != "posix", reason="Windows has other pipes")
def test_workers_whose_command_is_gone_before_they_answer_leave_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with tempfile.TemporaryDirectory(prefix="kd") as folder:  # a short name, for sockets
        environment = os.environ | {"TMPDIR": folder, "PYTHONPATH": str(ROOT)}
        quick = "from multiprocessing import forkserver; forkserver.set_forkserver_preload = lambda modules: None"
        command = [sys.executable, "-P", "-c", f"{quick}; from kdutils.runs.serve import serve; serve(1, 1, False)"]
        streams = dict(stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE)
        done = subprocess.run(command, env=environment, text=True, timeout=300, **streams)
        os.close(writing)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert not [path for path in Path(folder).iterdir() if path.name.startswith(("kdutils-", "pymp-"))]


def test_a_store_that_cannot_be_written_is_one_sentence(two_workers, monkeypatch):
    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setenv("KD_SCHEDULER", two_workers)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refused)
    with pytest.raises(InputError, match="the run store .* cannot be written .Read-only file system.: free space"):
        with connect(Store(), ["synthetic"]):
            pass


def test_nothing_of_dask_interrupts_a_run_more_than_twice_a_second(two_workers):
    def periods(dask_worker) -> dict[str, float]:
        return {name: callback.callback_time for name, callback in dask_worker.periodic_callbacks.items()}

    with Client(two_workers, set_as_default=False) as client:
        found = client.run(periods)
    assert len(found) == 2
    for milliseconds in found.values():
        assert "heartbeat" in milliseconds and min(milliseconds.values()) >= 500, milliseconds


@pytest.mark.parametrize("seed", range(20))
def test_chains_are_the_longest_of_all(seed):
    drawn = random.Random(seed)
    names = "abcdefgh"
    graph = {name: {other for other in names[:place] if drawn.random() < 0.4} for place, name in enumerate(names)}
    work = {name: drawn.uniform(0, 9) for name in names}

    def longest(name: str) -> float:  # by walking all that need it
        return work[name] + max((longest(other) for other in names if name in graph[other]), default=0.0)

    assert chains(graph, work) == pytest.approx({name: longest(name) for name in names})


def test_what_others_wait_for_begins_before_what_costs_more(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_WORKERS", "1")
    table, student, alone = (
        Job(name, note, (name, tmp_path / "notes"), work, name)
        for name, work in (("table", 1.0), ("student", 5.0), ("alone", 5.5))
    )
    graph = {"table": set(), "student": {"table"}, "alone": set()}
    assert do([alone, student, table], graph) == ["table", "alone", "student"]
