"""The same jobs on many machines: through the single-threaded workers of a Dask cluster, each checked before its first job.

All machines share one run store. Teacher tables in it are mapped into memory and filled by several machines at once, so
the store must lie on a file system that keeps maps coherent between machines (Lustre, GPFS, CephFS; not NFS or SMB).
`distributed` is imported only where there is a scheduler to talk to.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import BrokenExecutor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kdutils
from kdutils.data.datasets import is_cached, load_dataset
from kdutils.errors import InputError
from kdutils.runs import records
from kdutils.runs.jobs import Job, Slots, attend
from kdutils.runs.records import runs_dir
from kdutils.settings import settings

_CONNECT_SECONDS = 10


_ANSWER_SECONDS = 300  # before its first answer a worker imports PyTorch and reads the data


_POLL_SECONDS = 0.5


_INCOHERENT = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse.sshfs",
)  # file systems on which machines lose each other's mapped writes


_START = "start some with `dask worker {} --nthreads 1 --nworkers N`"


def scheduler() -> str | None:
    """The scheduler's address that `KD_SCHEDULER` holds; None where it is empty or not set."""
    given = os.environ.get("KD_SCHEDULER")
    return check_address(given) if given else None


def check_address(given: str) -> str:
    """`given`, if it can be a scheduler's address; raises `InputError`."""
    found = re.fullmatch(r"(tcp|tls)://([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", given)
    if not found or not 0 < int(found[3]) < 2**16:
        raise InputError(
            f"{given!r} is no scheduler's address: KD_SCHEDULER or --scheduler takes one such as tcp://host:8786 (`dask scheduler` prints its own)"
        )
    return given


@contextmanager
def connect(address: str | None, names: Collection[str]) -> Iterator[Cluster | None]:
    """The cluster whose scheduler listens at `address`, for runs on the data sets `names`; None without an address.

    Raises `InputError` where the scheduler cannot be reached, no worker is there, or one of them cannot do these runs.
    """
    if not address:
        yield None
        return
    with _client(address) as client, tempfile.NamedTemporaryFile(prefix=".cluster-", dir=runs_dir()) as token:
        cluster = Cluster(client, address, sorted(names), Path(token.name).name)
        cluster.check()
        yield cluster


@contextmanager
def _client(address: str) -> Iterator:
    from distributed import Client

    for name in ("distributed", "distributed.client"):  # what they would tell is said in one sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        _knock(address)
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # refused, unknown host, silent, not a scheduler, another protocol version
        raise InputError(
            f"no Dask scheduler answers at {address} within {_CONNECT_SECONDS} s ({_first_line(error)}): check that it runs, and its host, port and firewall"
        ) from None
    try:
        yield client
    finally:
        client.close()


def _knock(address: str) -> None:
    """Raise `OSError` where nobody speaks first, as a scheduler does: Dask's client would wait for ever for its greeting."""
    scheme, host, port = re.fullmatch(r"(\w+)://\[?(.*?)\]?:(\d+)", address).groups()
    with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as connection:
        if scheme == "tcp" and not connection.recv(1):
            raise OSError("what listens there is no scheduler")


class Cluster(Slots):
    """A slot for each worker there is at the moment; a worker that joins is checked, and gets no job if it is unfit."""

    def __init__(self, client, address: str, names: list[str], token: str):
        from distributed import KilledWorker

        self.losses = (BrokenExecutor, KilledWorker)
        self.begun: list[tuple[str, Job]] = []
        """Every worker with a job that began there, in their order."""
        self._client, self._address, self._question = client, address, (names, token)
        self._ours = _facts(*self._question)
        self._executor = client.get_executor(pure=False)
        self._answers: dict[str, Future] = {}
        self._jobs: dict[str, Future] = {}
        self._told: set[str] = set()

    def check(self) -> None:
        """Raise `InputError` unless there is a worker that answers, and all that answer are fit."""
        found, deadline = self._workers(), time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < deadline and not all(self._answers[worker].done() for worker in found):
            wait(self._answers.values(), _POLL_SECONDS)
            found = self._workers()
        if not found:
            raise InputError(f"the scheduler at {self._address} has no workers: {_START.format(self._address)}")
        answered = [worker for worker in found if self._answers[worker].done()]
        if not answered:
            raise InputError(
                f"none of the {len(found)} workers at {self._address} answers within {_ANSWER_SECONDS} s: they are busy with other work, or hang"
            )
        for worker in answered:
            if complaint := self._complaint(worker, found[worker]):
                raise InputError(complaint)

    def present(self) -> list[str]:
        found = self._workers()
        fit = []
        for worker, facts in found.items():
            if not self._answers[worker].done():
                continue
            if complaint := self._complaint(worker, facts):
                self._tell(f"{complaint}; it gets no run until then")
            elif (
                facts["status"] == "running" or not self._jobs.get(worker, self._answers[worker]).done()
            ):  # paused with a job: it goes on
                fit.append(worker)
        if not found:
            self._tell(f"all workers at {self._address} are gone, waiting for new ones: {_START.format(self._address)}")
        return fit

    def begin(self, slot: str, job: Job, note: str) -> Future:
        self.begun.append((slot, job))
        self._jobs[slot] = self._submit(slot, attend, job, note)
        return self._jobs[slot]

    def _submit(self, worker: str, function: Callable, *arguments) -> Future:
        """Have this worker and no other do it: left to itself, Dask may queue a job behind a long one."""
        return self._executor.submit(pickle.loads, pickle.dumps(_Call(function, arguments)), workers=[worker])

    def _workers(self) -> dict[str, dict]:
        """What the scheduler knows of every worker, by address; those it did not know before are asked for their facts."""
        try:  # not client.scheduler_info(): what it returns may at times be a later answer without the workers
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
        except OSError:
            found = None
        if found is None or self._client.status != "running":
            raise InputError(
                f"the connection to the scheduler at {self._address} is lost: finished runs are kept, start it again and give the same command"
            )
        self._answers = {
            worker: self._answers.get(worker) or self._submit(worker, _facts, *self._question) for worker in found
        }
        return found

    def _complaint(self, worker: str, known: dict) -> str | None:
        """Why an answer shows that this worker cannot be used, in one sentence; None if it can."""
        answer = self._answers[worker]
        if known["nthreads"] != 1:
            return f"the worker {worker} has {known['nthreads']} threads, but a process can do only one run at a time: start it with --nthreads 1"
        if answer.cancelled():
            return f"the worker {worker} left while it was asked what it has: start it again"
        error = answer.exception()
        if isinstance(error, (ImportError, AttributeError)):
            return f"the worker {worker} has no kdutils, or another ({error}): install this one, {self._ours['code']}, there and start the worker again"
        if error:
            return f"the worker {worker} cannot do these runs: {_first_line(error)}"
        unlike = _difference(answer.result(), self._ours)
        return f"the worker {worker} {unlike}" if unlike else None

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            warnings.warn(sentence, stacklevel=5)


@dataclass(frozen=True)
class _Call:
    """Its pickle makes the call when it is loaded: a scheduler passes it on without kdutils, and a worker without it says so."""

    function: Callable
    arguments: tuple

    def __reduce__(self) -> tuple[Callable, tuple]:
        return self.function, self.arguments


def _facts(names: list[str], token: str) -> dict:
    """What must be the same in a worker and in the process that gives it runs."""
    return {
        "code": f"kdutils {kdutils.__version__} ({records._CODE.partition(',')[0]})",
        "data_dir": str(settings().data_dir),
        "data": {name: load_dataset(name).digest if is_cached(name) else None for name in names},
        "runs_dir": str(runs_dir()),
        "has_token": (runs_dir() / token).is_file(),
        "file_system": _file_system(runs_dir()),
        "host": socket.gethostname(),
    }


def _difference(theirs: dict, ours: dict) -> str | None:
    """What a worker with these facts has that makes it unfit, and what to do; None if it is fit."""
    if theirs["code"] != ours["code"]:
        return f"has {theirs['code']}, here it is {ours['code']}: install the same there and start the worker again"
    for name, digest in ours["data"].items():
        if theirs["data"][name] != digest:
            has = f"{name} with digest {theirs['data'][name]}" if theirs["data"][name] else f"no {name}"
            return f"has {has} in its KD_DATA_DIR, {theirs['data_dir']}, here it has digest {digest}: give both the same folder"
    if not theirs["has_token"]:
        return f"has another run store, {theirs['runs_dir']}, than this process, {ours['runs_dir']}: give both the same KD_RUNS_DIR, on a file system they share"
    if theirs["host"] != ours["host"] and theirs["file_system"].startswith(_INCOHERENT):
        return f"is on another machine and has the run store on {theirs['file_system']}, where machines lose each other's entries of teacher tables: use Lustre, GPFS or CephFS, or one machine"
    return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _file_system(folder: Path) -> str:
    """The kind of file system that holds `folder`, such as ext4 or nfs4; empty where /proc does not tell."""
    mounts = Path("/proc/mounts")
    fields = [line.split() for line in mounts.read_text().splitlines()] if mounts.is_file() else []
    return max(
        ((len(where), kind) for _, where, kind, *_ in fields if folder.resolve().is_relative_to(where)), default=(0, "")
    )[1]
