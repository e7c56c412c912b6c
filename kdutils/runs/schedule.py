"""Does jobs in order, again if their worker died, and shows progress; and the pool whose worker is this process."""

from __future__ import annotations

import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from itertools import count
from typing import Any

import torch
from tqdm import tqdm

from kdutils.errors import InputError
from kdutils.settings import settings

_TRIES = 3  # how often a job may begin: once, and again each time its worker died
_LINE_SECONDS = 60  # between two lines in a log


@dataclass(frozen=True, eq=False)
class Job:
    """The call `function(*arguments, report)` for `node` of a graph; it calls report(fraction) as it advances.

    `work` is its expected cost. A job begins again if its worker died, so it must cost nothing once it is done.
    """

    node: str
    function: Callable
    arguments: tuple
    work: float
    title: str
    is_run: bool = False


class Death(Exception):
    """The result of a job whose worker died."""


def execute(
    graph: dict[str, set[str]], work: dict[str, float], jobs_of: Callable, finish: Callable, pool: Pool
) -> None:
    """Do the jobs of every node after those of the nodes it needs; `work` is what each node is expected to cost.

    Of the jobs that can begin, those with the costliest chain (`chains`) come first, so that what others wait for is
    not left to the end; among equal ones, the costliest job comes first.

    `jobs_of(node)` is called when the node can begin; `finish(job, result)` takes what a job returned. Raises at the
    end what the first failing job raised; nodes that need it are left out, all others are done.
    """
    order, waiting, number, left, deaths, failures = TopologicalSorter(graph), [], count(), {}, Counter(), []
    chain, progress = chains(graph, work), pool.progress
    order.prepare()
    while True:
        while nodes := order.get_ready():
            for node in nodes:
                try:
                    jobs = jobs_of(node)
                except Exception as error:
                    failures.append(error)
                    continue
                left[node] = len(jobs)
                for job in jobs:
                    heappush(waiting, (-chain[node], -job.work, next(number), job))
                if not jobs:
                    order.done(node)
        if not waiting and not pool.running:
            break
        for slot in pool.free()[: len(waiting)]:
            pool.begin(slot, heappop(waiting)[-1])
        for job, result in pool.ended():
            deaths[job] += (died := isinstance(result, Death))
            if died and deaths[job] < _TRIES:
                progress.fractions.pop(job, None)
                what = f"a worker process died (death {deaths.total()}): {job.title} ({job.node}) begins again"
                warnings.warn(what, stacklevel=3)  # numbered, because Python shows equal warnings only once
                heappush(waiting, (-float("inf"), 0.0, next(number), job))
                continue
            progress.end(job)
            if isinstance(result, Exception):
                failures.append(_explain(result, job))
                continue
            finish(job, result)
            left[job.node] -= 1
            if not left[job.node]:
                order.done(job.node)
        progress.show()
    if failures:
        raise failures[0]


def chains(graph: dict[str, set[str]], work: dict[str, float]) -> dict[str, float]:
    """By node, the work of the costliest chain of nodes that begins with it, each needed by the next."""
    found = dict(work)
    for node in reversed([*TopologicalSorter(graph).static_order()]):
        for needed in graph[node]:
            found[needed] = max(found[needed], work[needed] + found[node])
    return found


def _explain(error: Exception, job: Job) -> Exception:
    if isinstance(error, Death):
        what = f"has cost {_TRIES} worker processes (killed, or out of memory)"
    elif isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        what = f"has run out of memory ({first_line(error)})"
    else:
        return error
    remedy = "give each worker more memory, on one machine by a smaller KD_WORKERS"
    return InputError(f"{job.title} ({job.node}) {what}: {remedy}")


class Progress:
    """Shows the progress of all runs on standard error, with the time gone and left: a bar, or lines in a log."""

    def __init__(self, work: float, runs: int):
        self.fractions: dict[Job, float] = {}  # how far the running jobs are
        self._begun: set[Job] = set()
        self._done, self._ended, self._runs = 0.0, 0, runs
        is_seen = sys.stderr.isatty() or "ipykernel" in sys.modules
        how = {"mininterval": 1}
        if settings().progress == "lines" or not (settings().progress or is_seen):
            how = dict.fromkeys(("mininterval", "maxinterval", "delay"), _LINE_SECONDS)
            how |= {"file": _Lines(), "leave": False, "position": 0}
        layout = "{percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} left; {desc}"
        self._bar = tqdm(total=max(work, 1.0), bar_format=layout, smoothing=0, miniters=0, **how)
        self.close = self._bar.close

    def correct(self, difference: float) -> None:
        """Add what turned out to be more (or less) work than expected."""
        self._bar.total = max(self._bar.total + difference, 1.0)

    def advance(self, job: Job, fraction: float) -> None:
        """Note how far a job is; its first report says where it begins, as work done before took no time here."""
        if job not in self._begun:
            self._begun.add(job)
            self._bar.initial += job.work * fraction
        self.fractions[job] = fraction

    def end(self, job: Job) -> None:
        """Count the job as done."""
        self.fractions.pop(job, None)
        self._done += job.work
        self._ended += job.is_run

    def show(self) -> None:
        """Show how far the running jobs are, beside all that is done."""
        running = dict(self.fractions)  # a copy: another thread may write
        active = ", ".join(f"{job.title} {fraction:.0%}" for job, fraction in running.items())
        self._bar.set_description_str(f"{self._ended}/{self._runs} runs; {active}", refresh=False)
        work = self._done + sum(job.work * fraction for job, fraction in running.items())
        self._bar.update(min(work, self._bar.total) - self._bar.n)


class _Lines(io.StringIO):
    """Standard error without control characters: each state that tqdm would draw over the last becomes a line."""

    def write(self, text: str) -> int:
        return sys.stderr.write(f"{text.strip()}\n") if text.strip() else 0


class Pool:
    """Where jobs are done. This pool has one slot, this process: `begin` returns when the job has ended."""

    def __init__(self, progress: Progress | None):
        self.progress = progress
        self.running: dict[Any, tuple[Job, Any]] = {}

    def free(self) -> list:
        """The slots that can take a job now."""
        return [None]

    def begin(self, slot: Any, job: Job) -> None:
        """Have `job` done in a free slot."""

        def report(fraction: float) -> None:
            self.progress.advance(job, fraction)
            self.progress.show()

        try:
            self.running[slot] = job, job.function(*job.arguments, report)
        except Exception as error:
            self.running[slot] = job, error

    def ended(self) -> list[tuple[Job, Any]]:
        """The jobs that have ended, each with what it returned or raised; waits a moment for the first."""
        return [self.running.popitem()[1]]


def first_line(error: BaseException) -> str:
    """What an error says, or its kind, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
