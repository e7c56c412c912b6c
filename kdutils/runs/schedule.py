"""Jobs in their order: in this process, or through Dask in worker processes of this machine or of many.

Each fit worker has one job at a time, so that a worker that dies costs and accuses its own job alone. All machines share
the run store, which must lie on a file system that keeps mapped files coherent between them (Lustre, GPFS, CephFS).
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import psutil
import torch
from tqdm import tqdm

import kdutils
from kdutils.data.datasets import is_cached, load_dataset
from kdutils.errors import InputError
from kdutils.machine import cores, detect_runtime
from kdutils.networks.weights import file_digest, imagenet_digest
from kdutils.runs import records
from kdutils.runs.records import Store
from kdutils.settings import ROOT, settings
from kdutils.specs import RunSpec

_TRIES = 3  # how often a job begins, each time but the first after its worker died
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 300  # before its first answer a worker imports PyTorch and reads the data
_POLL_SECONDS = 1.0
_LINE_SECONDS = 60
_START = "start some with `dask worker {} --nthreads 1 --nworkers N`"
_INCOHERENT = ("nfs", "cifs", "smb", "9p", "fuse.sshfs")  # where machines lose each other's mapped writes


@dataclass(frozen=True, eq=False)
class Job:
    """`function(*arguments, report)`, where it calls report(fraction) as it advances, for `node` of a graph.

    `work` is its expected cost. It may begin again where its worker died, so it costs nothing once it is done.
    """

    node: str
    function: Callable
    arguments: tuple
    work: float
    title: str
    is_run: bool = False


def execute(
    graph: dict[str, set[str]],
    jobs_of: Callable[[str], list[Job]],
    finish: Callable[[Job, Any], None],
    pool: Pool,
) -> None:
    """Do the jobs of every node after those of the nodes that it needs, of those that can begin the costliest first.

    `jobs_of(node)` is asked once the node can begin; `finish(job, result)` takes what a job returns. Raises at the end
    what the first failing job raised; what needs it is left out, all else is done.
    """
    order, waiting, number, left, deaths, failures = TopologicalSorter(graph), [], count(), Counter(), Counter(), []
    order.prepare()
    while True:
        while nodes := order.get_ready():
            for node in nodes:
                jobs = jobs_of(node)
                left[node] = len(jobs)
                for job in jobs:
                    heappush(waiting, (-job.work, next(number), job))
                if not jobs:
                    order.done(node)
        if not waiting and not pool.running:
            break
        for slot in pool.free()[: len(waiting)]:
            pool.begin(slot, heappop(waiting)[-1])
        for job, result in pool.ended():
            if isinstance(result, _Death):
                deaths[job] += 1
                if deaths[job] < _TRIES:
                    warnings.warn(f"a worker process died: its job ({job.title}) begins again", stacklevel=2)
                    heappush(waiting, (-float("inf"), next(number), job))
                    continue
            pool.progress.end(job)
            if isinstance(result, Exception):
                failures.append(_explained(result, job))
                continue
            finish(job, result)
            left[job.node] -= 1
            if not left[job.node]:
                order.done(job.node)
    if failures:
        raise failures[0]


class _Death(Exception):
    """The result of a job whose worker died."""


def _explained(error: Exception, job: Job) -> Exception:
    remedy = "give each worker more memory, on one machine by a smaller KD_WORKERS"
    if isinstance(error, _Death):
        return InputError(
            f"{job.title} ({job.node}) has cost {_TRIES} worker processes (killed, or out of memory): {remedy}"
        )
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return InputError(f"{job.title} ({job.node}) ran out of memory ({_line(error)}): {remedy}")
    return error


class Progress:
    """All work of a suite of runs on standard error, with the time gone and left: a bar, or lines in a log."""

    def __init__(self, work: float, runs: int):
        self.fractions: dict[Job, float] = {}  # of what runs
        self._done, self._ended, self._runs = 0.0, 0, runs
        is_bar = settings().progress == "bar" or not settings().progress and _is_seen()
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} left; {desc}"
        lines = {"file": _Lines(), "delay": _LINE_SECONDS, "maxinterval": _LINE_SECONDS, "leave": False}
        how = {"mininterval": 1} if is_bar else {"mininterval": _LINE_SECONDS, **lines}
        self._bar = tqdm(total=max(work, 1.0), bar_format=layout, smoothing=0, miniters=0, **how)
        self.close = self._bar.close

    def correct(self, difference: float) -> None:
        """Add what turned out to be more (or less) work than expected."""
        self._bar.total = max(self._bar.total + difference, 1.0)

    def end(self, job: Job) -> None:
        """Count the job as done."""
        self.fractions.pop(job, None)
        self._done += job.work
        self._ended += job.is_run
        self.show()

    def show(self) -> None:
        """Show how far the running jobs are, beside all that is done."""
        running = dict(self.fractions)  # a copy: another thread may write
        active = ", ".join(f"{job.title} {fraction:.0%}" for job, fraction in running.items())
        self._bar.set_description_str(f"{self._ended}/{self._runs} runs; {active}", refresh=False)
        work = self._done + sum(job.work * fraction for job, fraction in running.items())
        self._bar.update(min(work, self._bar.total) - self._bar.n)


def _is_seen() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class _Lines(io.StringIO):
    """Standard error without control characters: what tqdm would draw over itself, each in a line."""

    def write(self, text: str) -> int:
        return sys.stderr.write(f"{text.strip()}\n") if text.strip() else 0


class Pool:
    """Where jobs are done. This one has one slot, this process: `begin` returns when the job has ended."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.running: dict[Any, tuple[Job, Any]] = {}

    def free(self) -> list:
        """The slots that can take a job now."""
        return [None]

    def begin(self, slot: Any, job: Job) -> None:
        """Have `job` done in a free slot."""

        def report(fraction: float) -> None:
            self.progress.fractions[job] = fraction
            self.progress.show()

        try:
            self.running[slot] = job, job.function(*job.arguments, report)
        except Exception as error:
            self.running[slot] = job, error

    def ended(self) -> list[tuple[Job, Any]]:
        """The jobs that have ended, each with what it returned or raised; waits a moment for the first."""
        return [self.running.popitem()[1]] if self.running else []


class Cluster(Pool):
    """A slot for each fit worker of a scheduler; a worker that joins is checked, and gets no job if it is unfit."""

    def __init__(self, client: Any, address: str, question: tuple, progress: Progress):
        super().__init__(progress)
        self._client, self._address = client, address
        self._question, self._ours = pickle.dumps(_Call(_facts, question)), _facts(*question)
        self._asking = ThreadPoolExecutor(32)  # a worker that hangs keeps its own thread waiting
        self._complaints: dict[str, Future] = {}
        self._found: dict[str, dict] = {}
        self._told: set[str] = set()
        self._topic, self._woken, self._looked = f"kdutils-{uuid4()}", SimpleQueue(), 0.0
        self._patience = time.monotonic() + _ANSWER_SECONDS
        client.subscribe_topic(self._topic, self._hear)

    def free(self) -> list[str]:
        if time.monotonic() - self._looked > _POLL_SECONDS:
            self._look()
        answered = {worker: self._complaints[worker] for worker in self._found if self._complaints[worker].done()}
        complaints = [complaint for answer in answered.values() if (complaint := answer.result())]
        fit = [worker for worker, complaint in answered.items() if not complaint.result()]
        if not self._found:
            complaints = [f"the scheduler at {self._address} has no workers: {_START.format(self._address)}"]
        elif not answered and time.monotonic() > self._patience:
            complaints = [f"none of the {len(self._found)} workers at {self._address} answers: start them again"]
        if fit:
            self._patience = float("inf")  # whatever happens to workers from now on, others are waited for
        elif complaints and len(answered) == len(self._found) and self._patience < float("inf"):
            raise InputError(complaints[0])
        for complaint in complaints:
            if complaint not in self._told:
                self._told.add(complaint)
                warnings.warn(f"{complaint}; until then it is waited for", stacklevel=3)
        ready = [worker for worker in fit if self._found[worker]["status"] == "running"]  # not paused
        return [worker for worker in ready if worker not in self.running]

    def begin(self, slot: str, job: Job) -> None:
        call = pickle.dumps(_Call(_attend, (job.function, job.arguments, self._topic)))
        future = self._client.submit(pickle.loads, call, workers=[slot], pure=False)
        self.running[slot] = job, future
        future.add_done_callback(self._woken.put)

    def ended(self) -> list[tuple[Job, Any]]:
        with suppress(Empty):
            self._woken.get(timeout=_POLL_SECONDS)
        self.progress.show()
        ended = [slot for slot, (_, future) in self.running.items() if future.done() or slot not in self._found]
        return [(job, _result(future)) for job, future in map(self.running.pop, ended)]

    def _hear(self, event: tuple) -> None:
        worker, fraction = event[1]
        if worker in self.running:
            self.progress.fractions[self.running[worker][0]] = fraction

    def _look(self) -> None:
        """See which workers there are, and ask new ones what they have."""
        try:  # not client.scheduler_info(): what it returns may at times be a later answer without the workers
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
        except OSError:
            found = None
        if found is None or self._client.status != "running":
            raise InputError(
                f"the connection to the scheduler at {self._address} is lost: finished runs are kept, start it again "
                "and give the same command"
            )
        self._found, self._looked = found, time.monotonic()
        for worker in found.keys() - self._complaints.keys():
            self._complaints[worker] = self._asking.submit(self._ask, worker, found[worker]["nthreads"])
            self._complaints[worker].add_done_callback(self._woken.put)

    def _ask(self, worker: str, threads: int) -> str | None:
        """Why this worker cannot be used, in one sentence; None if it can."""
        if threads != 1:
            return f"the worker {worker} has {threads} threads, a process can do one run at a time: give --nthreads 1"
        try:
            theirs, there = self._client.run(pickle.loads, self._question, workers=[worker])[worker]
        except (ImportError, AttributeError) as error:
            return f"the worker {worker} has no kdutils, or another ({_line(error)}): install this one there"
        except Exception as error:
            return f"the worker {worker} cannot do these runs: {_line(error)}"
        ours, here = self._ours
        for name, value in ours.items():
            if theirs.get(name) != value:
                return (
                    f"the worker {worker} has {theirs.get(name)} as {name}, here it is {value}: give both the same, and "
                    f"start it again (its KD_DATA_DIR is {there['data_dir']}, its KD_RUNS_DIR {there['runs_dir']})"
                )
        if there["host"] != here["host"] and there["file_system"].startswith(_INCOHERENT):
            return (
                f"the worker {worker} is on another machine and has the run store on {there['file_system']}, where "
                "machines lose each other's entries of teacher tables: use Lustre, GPFS or CephFS, or one machine"
            )
        return None


def _result(future: Any) -> Any:
    """What a job returned or raised; a `_Death` where its worker cannot tell any more."""
    from distributed import KilledWorker

    try:
        return future.result(_CONNECT_SECONDS if future.done() else 0)
    except Exception as error:
        return error if future.status == "error" and not isinstance(error, KilledWorker) else _Death()
    finally:
        future.cancel()  # no other worker may do it


@dataclass(frozen=True)
class _Call:
    """Its pickle makes the call when it is loaded: a scheduler without kdutils passes it on, a worker without it says so."""

    function: Callable
    arguments: tuple

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.function, self.arguments


def _attend(function: Callable, arguments: tuple, topic: str) -> Any:
    """In a worker: do a job, telling at most once a second how far it is; ends it where nobody waits for it any more."""
    from distributed import get_worker

    worker, told = get_worker(), 0.0
    task = worker.state.tasks[worker.get_current_task()]

    def report(fraction: float) -> None:
        nonlocal told
        if task.state != "executing":
            raise InterruptedError("nobody waits for this job any more")
        if time.monotonic() - told > _POLL_SECONDS:
            told = time.monotonic()
            worker.log_event(topic, [worker.address, fraction])

    report(0.0)
    return function(*arguments, report)


def _question(specs: Iterable[RunSpec], token: Path) -> tuple[set[str], set[str], set[Path], Path]:
    """What `_facts` takes: what these runs read, and a file of the run store."""
    specs = list(specs)
    networks = {spec.model.name for spec in specs if spec.init == "imagenet"}
    return {spec.data.name for spec in specs}, networks, {spec.weights_file for spec in specs} - {None}, token


def _facts(data: set[str], networks: set[str], files: set[Path], token: Path) -> tuple[dict, dict]:
    """What must be the same in a worker and in the process that gives it runs, by name; and where they are."""
    store = token.parent if token.is_file() else f"another one, {settings().runs_dir}"
    same = {
        "code": f"kdutils {kdutils.__version__} ({records.CODE.partition(',')[0]})",
        "run store": str(store),
        **{f"digest of {name}": load_dataset(name).digest if is_cached(name) else None for name in sorted(data)},
        **{f"digest of the ImageNet weights of {name}": imagenet_digest(name) for name in sorted(networks)},
        **{f"digest of {path}": file_digest(path) if path.is_file() else None for path in sorted(files)},
    }
    where = {"host": socket.gethostname(), "file_system": _file_system(token.parent)}
    return same, where | {"data_dir": str(settings().data_dir), "runs_dir": str(settings().runs_dir)}


def _file_system(folder: Path) -> str:
    """The kind of file system that holds `folder`, such as ext4 or nfs4; empty where nothing tells."""
    mounts = [disk for disk in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(disk.mountpoint)]
    return max(mounts, key=lambda disk: len(disk.mountpoint)).fstype if mounts else ""


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def workers() -> int:
    """Number of worker processes: `KD_WORKERS`, else one for each core, or one where there is a GPU."""
    return settings().workers or (cores() if detect_runtime().device.type == "cpu" else 1)


@contextmanager
def connect(specs: Iterable[RunSpec], store: Store, progress: Progress) -> Iterator[Pool]:
    """Where the jobs of `specs` are done: on the cluster of `KD_SCHEDULER`, in workers of this process, or in itself.

    Raises `InputError` where the scheduler cannot be reached.
    """
    if not settings().scheduler and workers() == 1:
        yield Pool(progress)
        return
    try:
        address = settings().scheduler or _own_cluster()
        with _client(address) as client, tempfile.NamedTemporaryFile(prefix=".cluster-", dir=store.folder) as token:
            if settings().dashboard:
                tqdm.write(f"Dask's dashboard: {client.dashboard_link}", file=sys.stderr)
            yield Cluster(client, address, _question(specs, Path(token.name)), progress)
    except BaseException:  # what runs in workers of this process would go on after an interrupt
        _own.close()
        raise


def check(specs: Iterable[RunSpec], store: Store) -> None:
    """Raise `InputError` unless the cluster that `KD_SCHEDULER` names, if any, has a worker that can do these runs."""
    if settings().scheduler:
        progress = Progress(1.0, 0)
        with connect(specs, store, progress) as pool:
            while not pool.free():
                pool.ended()


@contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client, Security

    for name in ("distributed", "distributed.client"):  # what they would tell is said in one sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    given = settings()
    files = {"tls_ca_file": given.tls_ca_file, "tls_client_cert": given.tls_cert, "tls_client_key": given.tls_key}
    security = Security(**{name: str(path) for name, path in files.items() if path})
    try:
        _knock(address)
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False, security=security)
    except Exception as error:  # refused, unknown host, silent, not a scheduler, another protocol version
        raise InputError(
            f"no Dask scheduler answers at {address} within {_CONNECT_SECONDS} s ({_line(error)}): check that it runs, "
            "and its host, port, firewall and TLS files"
        ) from None
    with client:
        yield client


def _knock(address: str) -> None:
    """Raise `OSError` where nobody speaks first, as a scheduler does: Dask's client would wait for ever for its greeting."""
    scheme, host, port = re.fullmatch(r"(\w+)://\[?(.*?)\]?:(\d+)", address).groups()
    with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as connection:
        if scheme == "tcp" and not connection.recv(1):
            raise OSError("what listens there is no scheduler")


@contextmanager
def local_cluster(count: int, threads: int | None = None) -> Iterator[str]:
    """The address of a scheduler with `count` workers on this machine's loopback, which end with this process at the latest.

    threads: PyTorch's in each worker; None: its share of the cores.
    """
    threads = threads or max(1, cores() // count)
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("KD_USED_RUNS", None)
    if os.name == "posix" and len(tempfile.gettempdir()) > 60:
        environment["TMPDIR"] = "/tmp"  # a Unix socket's name has at most 107 characters
    code = f"from kdutils.runs.serve import serve; serve({count}, {threads}, {settings().dashboard})"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=-1, stdout=-1, text=True, env=environment, start_new_session=True
    )  # a process of its own: it starts no main module again, and no key stroke interrupts it
    with process:  # closes its standard input, and waits
        address = process.stdout.readline().strip()
        if not address:
            raise InputError(
                f"the worker processes do not start (exit status {process.wait()}): see what they say above"
            )
        yield address


@contextmanager
def shared_cluster() -> Iterator[None]:
    """One cluster for this process and all that it starts, through `KD_SCHEDULER`, unless there is one or one worker is enough."""
    if settings().scheduler or workers() == 1:
        yield
        return
    with local_cluster(workers()) as os.environ["KD_SCHEDULER"]:
        try:
            yield
        finally:
            del os.environ["KD_SCHEDULER"]


_own = ExitStack()
_own_address: dict[tuple, str] = {}
atexit.register(_own.close)


def _own_cluster() -> str:
    """The address of this process's own workers: one set, kept warm, and started anew when the settings change."""
    given = settings()
    wanted = workers(), given.data_dir, given.checkpoint_seconds, given.dashboard
    if wanted not in _own_address:
        _own.close()
        _own_address[wanted] = _own.enter_context(local_cluster(workers()))
        _own.callback(_own_address.clear)
    return _own_address[wanted]
