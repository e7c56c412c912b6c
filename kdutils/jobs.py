"""Many jobs at once through any `concurrent.futures.Executor`, with progress, and safe against a dying worker."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch
from tqdm import tqdm

from kdutils.records import runs_dir
from kdutils.runtime import cores, detect_runtime
from kdutils.specs import InputError

_TRIES = 3  # how often jobs are given anew after a worker died
_POLL_SECONDS = 0.5


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
        active = [f"{job.title} {fraction:.0%}" for job, fraction in zip(jobs, fractions) if fraction is not None and fraction < 1]
        runs = sum(job.is_run for job in self._finished) + sum(job.is_run for job, done in zip(jobs, fractions) if done == 1)
        self._bar.set_description_str(f"{runs}/{self._runs} runs; {', '.join(active)}", refresh=False)
        work = sum(job.work for job in self._finished) + sum(job.work * (fraction or 0) for job, fraction in zip(jobs, fractions))
        self._bar.update(min(work, self._bar.total) - self._bar.n)

    def finish(self, jobs: list[Job]) -> None:
        """Count these jobs as done."""
        self._finished += jobs
        self.show([], [])


def workers() -> int:
    """Number of worker processes: `KD_WORKERS`, else one for each core, or one where there is a GPU."""
    given = os.environ.get("KD_WORKERS", "")
    if given and not (given.isdecimal() and int(given)):
        raise InputError(f"KD_WORKERS must be a positive whole number, got {given!r}")
    return int(given) if given else (cores() if detect_runtime().device.type == "cpu" else 1)


def execute(jobs: list[Job], progress: Progress, executor: Executor | None = None) -> None:
    """Do the jobs through `executor`, the most expensive first; raises what the first failing one raised, at the end.

    Without an executor, `workers()` processes share the machine, each with its share of the threads. Jobs must be
    repeatable at no cost once done: after a worker died, all of them are given again to a new pool.
    """
    jobs = sorted(jobs, key=lambda job: -job.work)
    if jobs and executor is None and workers() == 1:
        _in_this_process(jobs, progress)
    elif jobs:
        for attempt in range(_TRIES):
            try:
                with nullcontext(executor) if executor else _pool() as pool:
                    _through(pool, jobs, progress)
                break
            except BrokenProcessPool:
                if attempt == _TRIES - 1:
                    raise
                warnings.warn("a worker process died (killed, or out of memory): its run begins again", stacklevel=2)
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


def _through(pool: Executor, jobs: list[Job], progress: Progress) -> None:
    with tempfile.TemporaryDirectory(prefix=".progress-", dir=runs_dir()) as folder:
        notes = [Path(folder) / str(number) for number in range(len(jobs))]
        futures = [pool.submit(_attend, job, note) for job, note in zip(jobs, notes)]
        while wait(futures, timeout=_POLL_SECONDS).not_done:
            progress.show(jobs, [1.0 if future.done() else _fraction(note) for future, note in zip(futures, notes)])
    for future in futures:
        future.result()


def _attend(job: Job, note: Path) -> None:
    """In a worker: do the job, noting its progress in a file, which any machine that shares the store can read."""

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
    settings = {name: value for name, value in os.environ.items() if name.startswith("KD_")}  # the fork server has older ones
    return ProcessPoolExecutor(workers(), context, _begin_worker, (max(1, cores() // workers()), settings))


def _begin_worker(threads: int, settings: dict[str, str]) -> None:
    os.environ.update(settings)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot tell its workers to stop: they watch it."""
    parent_process().join()
    os._exit(1)
