"""Workers that do jobs through Dask: processes of this machine, or of many.

A fit worker has one job at a time, so its death costs that job alone and shows which it was. All share the run store.
"""

import atexit
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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

import psutil
from tqdm import tqdm

import kdutils
from kdutils.data.datasets import is_cached, load_dataset
from kdutils.errors import InputError
from kdutils.machine import cores, detect_runtime
from kdutils.networks.weights import file_digest, imagenet_digest
from kdutils.runs import records
from kdutils.runs.records import Store
from kdutils.runs.schedule import Death, Job, Pool, Progress, first_line
from kdutils.settings import ROOT, settings

_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 300  # before its first answer a worker imports PyTorch and reads the data
_POLL_SECONDS = 1.0
_INCOHERENT = ("nfs", "cifs", "smb", "9p", "fuse.sshfs")  # on these, machines lose each other's mapped writes


class Cluster(Pool):
    """A slot for each fit worker of a scheduler: a worker that joins is checked (`_ask`), an unfit one gets no job."""

    def __init__(self, client: Any, address: str, progress: Progress | None, question: tuple):
        super().__init__(progress)
        self._client, self._address = client, address
        self._ours, self._question = _facts(*question), pickle.dumps(_Call((_facts, question)))
        self._asking = ThreadPoolExecutor(32)  # a worker that hangs keeps a thread waiting
        self._complaints: dict[str, Future] = {}
        self._found: dict[str, dict] = {}
        self._told: set[str] = set()
        self._topic, self._woken, self._looked = f"kdutils-{uuid4()}", SimpleQueue(), 0.0
        self._began, self._has_met_a_fit_one = time.monotonic(), False
        client.subscribe_topic(self._topic, self._hear)

    def free(self) -> list[str]:
        """The fit workers without a job; raises `InputError` if no worker has been fit and none is to be expected."""
        if time.monotonic() - self._looked > _POLL_SECONDS:
            self._look()
        answered = [worker for worker in self._found if self._complaints[worker].done()]
        complaints = {worker: said for worker in answered if (said := self._complaints[worker].result())}
        told, waited = list(complaints.values()), time.monotonic() - self._began
        if not self._found and waited > _CONNECT_SECONDS:
            told = [f"the scheduler at {self._address} has no workers: start some there, with --nthreads 1"]
        elif not answered and waited > _ANSWER_SECONDS:
            told = [f"none of the {len(self._found)} workers at {self._address} answers: start them again"]
        if len(answered) > len(complaints):
            self._has_met_a_fit_one = True  # from now on, whatever happens, others are waited for
        elif told and not self._has_met_a_fit_one and len(answered) in (0, len(self._found)):
            raise InputError(told[0])
        for sentence in set(told) - self._told:
            self._told.add(sentence)
            warnings.warn(f"{sentence}; until then others are used, or waited for", stacklevel=4)
        fit = [worker for worker in answered if worker not in complaints and worker not in self.running]
        return [worker for worker in fit if self._found[worker]["status"] == "running"]  # not a paused one

    def begin(self, slot: str, job: Job) -> None:
        call = pickle.dumps(_Call((_attend, (job.function, job.arguments, self._topic))))
        future = self._client.submit(pickle.loads, call, workers=[slot], pure=False)
        self.running[slot] = job, future
        future.add_done_callback(self._woken.put)

    def ended(self) -> list[tuple[Job, Any]]:
        with suppress(Empty):
            self._woken.get(timeout=_POLL_SECONDS)
        ended = [slot for slot, (_, future) in self.running.items() if future.done() or slot not in self._found]
        return [(job, _result(future)) for job, future in map(self.running.pop, ended)]

    def _hear(self, event: tuple) -> None:
        worker, fraction = event[1]
        if self.progress and worker in self.running:
            self.progress.advance(self.running[worker][0], fraction)

    def _look(self) -> None:
        """See which workers there are, and begin to check new ones."""
        found = None
        with suppress(OSError):  # not client.scheduler_info(): it may return a later answer without the workers
            found = self._client.sync(self._client.scheduler.identity, n_workers=-1)["workers"]
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
            return f"the worker {worker} has {threads} threads, but can do one run at a time: give it --nthreads 1"
        try:
            theirs, there = self._client.run(pickle.loads, self._question, workers=[worker])[worker]
        except (ImportError, AttributeError) as error:
            return f"the worker {worker} has no kdutils, or another ({first_line(error)}): install this one there"
        except Exception as error:
            return f"the worker {worker} cannot do these runs: {first_line(error)}"
        ours, here = self._ours
        for name, value in ours.items():
            if theirs.get(name) != value:
                edited = ", or, if kdutils was edited since, restart this kernel or command" * (name == "code")
                return (
                    f"the worker {worker} has {theirs.get(name)} as {name}, here it is {value}: give both the same and "
                    f"start it again{edited} (its KD_DATA_DIR is {there['data']}, its KD_RUNS_DIR {there['runs']})"
                )
        if there["host"] != here["host"] and there["disk"].startswith(_INCOHERENT):
            return (
                f"the worker {worker} is on another machine and has the run store on {there['disk']}, where machines "
                "lose each other's entries of teacher tables: use Lustre, GPFS or CephFS, or one machine"
            )
        return None


def _result(future: Any) -> Any:
    """What a job returned or raised; a `Death` if its worker can no longer tell."""
    from distributed import KilledWorker

    try:
        return future.result(_CONNECT_SECONDS if future.done() else 0)
    except Exception as error:
        return error if future.status == "error" and not isinstance(error, KilledWorker) else Death()
    finally:
        future.cancel()  # no other worker may do it


class _Call(tuple):
    """(function, arguments): loading its pickle makes the call, so a scheduler without kdutils can pass it on."""

    def __reduce__(self) -> tuple:
        return tuple(self)


def _attend(function: Callable, arguments: tuple, topic: str) -> Any:
    """In a worker, do a job and tell how far it is, at most once a second; ends if nobody waits for it any more."""
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

    return function(*arguments, report)


def _facts(data: list[str], networks: list[str], files: list[Path], token: Path) -> tuple[dict, dict]:
    """What must be the same in a worker and in the process that gives it runs, by name; and where this process is."""
    same = {
        "code": f"kdutils {kdutils.__version__} ({records.CODE.partition(',')[0]})",
        "run store": str(token.parent) if token.is_file() else f"another one, {settings().runs_dir},",
        **{f"digest of {name}": load_dataset(name).digest if is_cached(name) else None for name in data},
        **{f"digest of the ImageNet weights of {name}": imagenet_digest(name) for name in networks},
        **{f"digest of {path}": file_digest(path) if path.is_file() else None for path in files},
    }
    disks = [disk for disk in psutil.disk_partitions(all=True) if token.resolve().is_relative_to(disk.mountpoint)]
    disk = max(disks, key=lambda disk: len(disk.mountpoint)).fstype if disks else ""
    where = {"data": str(settings().data_dir), "runs": str(settings().runs_dir)}
    return same, where | {"host": socket.gethostname(), "disk": disk}


@contextmanager
def connect(
    store: Store,
    data: Iterable[str],
    networks: Iterable[str] = (),
    files: Iterable[Path] = (),
    progress: Progress | None = None,
) -> Iterator[Pool]:
    """The pool for jobs on these data sets, ImageNet weights (of `networks`) and files: a cluster, or this process.

    Raises `InputError` if the store cannot be written, or the scheduler cannot be reached or has no fit worker.
    """
    if not (address := scheduler()):
        yield Pool(progress)
        return
    try:
        with records.writing(f"the run store {store.folder}"):
            token = tempfile.NamedTemporaryFile(prefix=".cluster-", dir=store.folder)  # shows workers which store it is
        with token, _client(address) as client:
            question = sorted(data), sorted(networks), sorted(files), Path(token.name)
            cluster = Cluster(client, address, progress, question)
            while not cluster.free():
                cluster.ended()
            yield cluster
    except BaseException:  # else jobs in workers of this process would go on
        _own.close()
        raise


def _client(address: str) -> Any:
    """A client of the scheduler at `address`; raises `InputError` if none answers."""
    from distributed import Client, Security

    for name in ("distributed", "distributed.client"):  # their messages become one sentence
        logging.getLogger(name).setLevel(logging.CRITICAL)

    class Started(Client):
        """Closed at once if it cannot start: Python, closing it during the next one's start, would wait for ever."""

        def start(self, **options: Any) -> None:
            try:
                super().start(**options)
            except BaseException:
                self.close()
                raise

    given = settings()
    files = {"tls_ca_file": given.tls_ca_file, "tls_client_cert": given.tls_cert, "tls_client_key": given.tls_key}
    security = Security(**{name: str(path) for name, path in files.items() if path})
    try:
        _knock(address)
        client = Started(address, timeout=_CONNECT_SECONDS, set_as_default=False, security=security)
    except Exception as error:  # refused, unknown host, silent, not a scheduler, another protocol version
        raise InputError(
            f"no Dask scheduler answers at {address} within {_CONNECT_SECONDS} s ({first_line(error)}): check that it "
            "runs, and its host, port, firewall and TLS files"
        ) from None
    if given.dashboard:
        tqdm.write(f"Dask's dashboard: {client.dashboard_link}", sys.stderr)
    return client


def _knock(address: str) -> None:
    """Raise `OSError` if nobody there sends first, as a scheduler does: Dask's client would wait for that for ever."""
    scheme, host, port = re.fullmatch(r"(\w+)://\[?(.*?)\]?:(\d+)", address).groups()
    with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as connection:
        if scheme == "tcp" and not connection.recv(1):
            raise OSError("what listens there is no scheduler")


def workers() -> int:
    """Number of worker processes: `KD_WORKERS`, else one for each core, or one where there is a GPU."""
    return settings().workers or (cores() if detect_runtime().device.type == "cpu" else 1)


@contextmanager
def local_cluster(count: int, threads: int) -> Iterator[str]:
    """The address of a scheduler on the loopback with `count` workers, in each of which PyTorch has `threads` threads.

    They end with this process at the latest, however that ends.
    """
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths), "KD_USED_RUNS": ""}
    if os.name == "posix" and len(tempfile.gettempdir()) > 60:
        environment["TMPDIR"] = "/tmp"  # a Unix socket's name has at most 107 characters
    code = f"from kdutils.runs.serve import serve; serve({count}, {threads}, {settings().dashboard})"
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"  # the tracker ends with its parent
    command = [sys.executable, "-P", "-W", quiet, "-c", code]
    with subprocess.Popen(  # a process of its own imports no main module again, and no key interrupts it
        command, stdin=-1, stdout=-1, text=True, env=environment, start_new_session=True
    ) as process:
        address = process.stdout.readline().strip()
        if not address:
            raise InputError("the worker processes do not start: see their messages above; KD_WORKERS=1 needs none")
        yield address


_own = ExitStack()
_own_address: dict[tuple, str] = {}
atexit.register(_own.close)


def scheduler() -> str | None:
    """The address of the scheduler that `KD_SCHEDULER` names, else of this process's own; None if one worker is enough.

    This process's own has `workers()` processes, is kept running, and is started anew if the settings change.
    """
    given, number = settings(), workers()
    if given.scheduler or number == 1:
        return given.scheduler
    wanted = number, given.data_dir, given.checkpoint_seconds, given.dashboard
    with suppress(KeyError, OSError):  # there is none yet, or it has died
        _knock(_own_address[wanted])
        return _own_address[wanted]
    _own.close()
    _own_address[wanted] = _own.enter_context(local_cluster(number, max(1, cores() // number)))
    _own.callback(_own_address.clear)
    return _own_address[wanted]
