"""Many jobs at once, in worker processes here or elsewhere, with progress; a worker that dies costs its own job's work only."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from tqdm import tqdm

from kdutils.errors import InputError
from kdutils.machine import cores, detect_runtime
from kdutils.runs.records import Store
from kdutils.settings import settings

_TRIES = 3  # how often a job begins, each time but the first after its worker died


_POLL_SECONDS = 0.5


_DEADLY = f"{{}} has cost {_TRIES} worker processes (killed, or out of memory): give each worker more memory, on one machine by a smaller KD_WORKERS"


@dataclass(frozen=True)
class Job:
    """`function(*arguments, report)`, where it calls report(fraction) as it advances; `work` is its expected cost."""

    function: Callable
    arguments: tuple
    work: float
    title: str
    is_run: bool = False


class Progress:
    """A bar over all work of a suite of runs, with the time gone and left, on standard error."""

    def __init__(self, work: float, runs: int):
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} left; {desc}"
        self._bar = tqdm(total=work, bar_format=layout, smoothing=0, mininterval=1)
        self._runs = runs
        self._finished: list[Job] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def correct(self, difference: float) -> None:
        """Add what turned out to be more (or less) work than expected."""
        self._bar.total = max(self._bar.total + difference, 1.0)

    def show(self, jobs: list[Job], fractions: list[float | None]) -> None:
        """Show how far these jobs are (None: not begun), beside all that finished before them."""
        active = [
            f"{job.title} {fraction:.0%}"
            for job, fraction in zip(jobs, fractions)
            if fraction is not None and fraction < 1
        ]
        runs = sum(job.is_run for job in self._finished) + sum(
            job.is_run for job, done in zip(jobs, fractions) if done == 1
        )
        self._bar.set_description_str(f"{runs}/{self._runs} runs; {', '.join(active)}", refresh=False)
        work = sum(job.work for job in self._finished) + sum(
            job.work * (fraction or 0) for job, fraction in zip(jobs, fractions)
        )
        self._bar.update(min(work, self._bar.total) - self._bar.n)

    def finish(self, jobs: list[Job]) -> None:
        """Count these jobs as done."""
        self._finished += jobs
        self.show([], [])


def workers() -> int:
    """Number of worker processes: `KD_WORKERS`, else one for each core, or one where there is a GPU."""
    return settings().workers or (cores() if detect_runtime().device.type == "cpu" else 1)


class Slots:
    """Where jobs go: each slot does one at a time."""

    losses: tuple[type[BaseException], ...] = (BrokenExecutor,)
    """What a job's future raises when not the job failed, but its worker died."""

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *_) -> None:
        pass

    def present(self) -> Collection[Hashable]:
        """The slots there are now; a job whose slot is no longer among them has lost its worker."""
        raise NotImplementedError

    def begin(self, slot: Hashable, job: Job, note: Path) -> Future:
        """Have `job` done in a free slot, its progress noted in the file `note`."""
        raise NotImplementedError


class _Processes(Slots):
    """Worker processes of this machine, each a pool of its own, so that one that dies breaks no other."""

    def __init__(self, count: int):
        self._count, self._pools = count, {}

    def __exit__(self, *_) -> None:
        for pool in self._pools.values():
            pool.shutdown()

    def present(self) -> Collection[Hashable]:
        return range(self._count)

    def begin(self, slot: Hashable, job: Job, note: Path) -> Future:
        try:
            return self._pools[slot].submit(attend, job, note)
        except (KeyError, BrokenProcessPool):  # the slot's first job, or its process has died
            self._pools[slot] = _pool()
            return self._pools[slot].submit(attend, job, note)


def execute(jobs: list[Job], progress: Progress, store: Store, slots: Slots | None = None) -> None:
    """Do the jobs, the most expensive first; raises what the first failing one raised, at the end.

    Without `executor`, `workers()` processes share the machine, each with its share of the threads. A job whose worker
    died begins again, so jobs must be repeatable at no cost once done.
    """
    jobs = sorted(jobs, key=lambda job: -job.work)
    if jobs and slots:
        _dispatch(slots, jobs, progress, store)
    elif jobs and workers() == 1:
        _in_this_process(jobs, progress)
    elif jobs:
        with _Processes(min(workers(), len(jobs))) as slots:
            _dispatch(slots, jobs, progress, store)
    progress.finish(jobs)


def _in_this_process(jobs: list[Job], progress: Progress) -> None:
    fractions: list[float | None] = [None] * len(jobs)
    failures: list[Exception] = []
    for number, job in enumerate(jobs):

        def report(fraction: float, number: int = number) -> None:
            fractions[number] = fraction
            progress.show(jobs, fractions)

        report(0.0)
        try:
            job.function(*job.arguments, report)
        except Exception as error:  # the others first, as in worker processes
            failures.append(error)
        report(1.0)
    if failures:
        raise failures[0]


def _dispatch(slots: Slots, jobs: list[Job], progress: Progress, store: Store) -> None:
    """Keep every slot at work until all jobs have ended; only what can begin at once is given away."""
    waiting, running, deaths, outcomes = list(range(len(jobs))), {}, Counter(), {}
    with tempfile.TemporaryDirectory(prefix=".progress-", dir=store.folder, ignore_cleanup_errors=True) as folder:
        notes = [Path(folder) / str(number) for number in range(len(jobs))]
        while waiting or running:
            present = slots.present()
            for slot in [slot for slot in present if slot not in running][: len(waiting)]:
                number = waiting.pop(0)
                running[slot] = number, slots.begin(slot, jobs[number], notes[number])
            _pause([future for _, future in running.values()])
            for slot in [slot for slot, (_, future) in running.items() if future.done() or slot not in present]:
                number, future = running.pop(slot)
                error = _error(future)
                died = isinstance(error, slots.losses)
                deaths[number] += died
                if died and deaths[number] < _TRIES:
                    warnings.warn(
                        f"a worker process died (killed, or out of memory): its job ({jobs[number].title}) begins again",
                        stacklevel=4,
                    )
                    waiting.insert(0, number)
                else:
                    outcomes[number] = InputError(_DEADLY.format(jobs[number].title)) if died else error
            progress.show(jobs, [1.0 if number in outcomes else _fraction(note) for number, note in enumerate(notes)])
    for number in sorted(outcomes):
        if outcomes[number]:
            raise outcomes[number]


def _pause(futures: list[Future]) -> None:
    if futures:
        wait(futures, _POLL_SECONDS, FIRST_COMPLETED)
    else:
        time.sleep(_POLL_SECONDS)


def _error(future: Future) -> BaseException | None:
    """What the job raised; a `BrokenExecutor` for one whose slot has gone, which then must not be done there any more."""
    future.cancel()
    return BrokenExecutor() if future.cancelled() else future.exception()


def attend(job: Job, note: Path) -> None:
    """In a worker: do the job, noting its progress in a file of the store, which all machines share."""

    def report(fraction: float) -> None:
        with suppress(OSError):  # the one who asked may have gone
            note.write_text(str(fraction))

    report(0.0)
    job.function(*job.arguments, report)


def _fraction(note: Path) -> float | None:
    try:
        return float(note.read_text())
    except (OSError, ValueError):  # not begun, or just being written
        return None


def _pool() -> ProcessPoolExecutor:
    context = get_context("forkserver")
    context.set_forkserver_preload(["kdutils.runs"])  # PyTorch is imported once, not once for each worker
    settings = {
        name: value for name, value in os.environ.items() if name.startswith("KD_")
    }  # the fork server has older ones
    return ProcessPoolExecutor(1, context, _begin_worker, (max(1, cores() // workers()), settings))


def _begin_worker(threads: int, settings: dict[str, str]) -> None:
    os.environ.update(settings)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop: they watch it."""
    parent_process().join()
    os._exit(1)
