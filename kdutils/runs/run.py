"""Functions that return records: `run` for one spec, `run_all` for many."""

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np

from kdutils.data.datasets import Dataset, load_dataset
from kdutils.data.views import VIEWS, split_indices
from kdutils.distillation.tables import SHARD
from kdutils.errors import InputError
from kdutils.networks.counting import forward_macs
from kdutils.runs.cluster import connect
from kdutils.runs.records import Record, Store, writing
from kdutils.runs.resolve import fill, open_table, resolve, table_name
from kdutils.runs.schedule import Job, Progress, execute
from kdutils.settings import settings
from kdutils.specs import RunSpec
from kdutils.training.checkpoints import Checkpoint
from kdutils.training.inputs import NONE, check_teachers, looked_up
from kdutils.training.loop import train

_OVERHEAD_MACS = 2e6  # what an image costs beside its network's arithmetic, in units of that arithmetic (for the ETA)

Report = Callable[[float], None]


def run(spec: RunSpec, store: Store | None = None, report: Report = lambda fraction: None) -> Record:
    """The record of `spec`: from the store (by default that of `KD_RUNS_DIR`), else trained now, its teachers first.

    `report(fraction)` is called while this run itself (not its teachers) advances from 0 to 1. An interrupted run
    goes on from its last checkpoint: one is written after an epoch, at least `KD_CHECKPOINT_SECONDS` after the last.
    """
    store = store or Store()
    _note_use(spec.key)
    if found := store.find(spec):
        return found
    model, inputs = resolve(spec, {needed.key: run(needed, store) for needed in spec.needs}, store)
    partial = store.folder / f"{spec.key}.partial"
    with writing(str(store.folder), "set KD_RUNS_DIR elsewhere"):
        partial.mkdir(exist_ok=True)  # tells that the run has begun
    rests_on = inputs.facts | {"arithmetic": inputs.runtime.name}
    checkpoint = Checkpoint(partial / "checkpoint.safetensors", rests_on, settings().checkpoint_seconds)
    outcome = train(model, spec, inputs, lambda epoch: report(epoch / max(1, spec.epochs)), checkpoint)
    record = store.save(spec, model, outcome, inputs.runtime, inputs.facts)
    shutil.rmtree(partial, ignore_errors=True)
    return record


def _note_use(*keys: str) -> None:
    """Note for the suite, if it asks, the keys of the records that a notebook uses."""
    if path := settings().used_runs:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{key}\n" for key in keys)


def run_all(specs: Iterable[RunSpec], store: Store | None = None) -> list[Record]:
    """The records of `specs`, in their order; equal specs are run once. Shows progress and the time left.

    Specs that are not recorded yet are run on the cluster of `KD_SCHEDULER` or in `KD_WORKERS` processes of this
    machine, each after the runs that it needs and the tables of its teachers, which are filled in shards. Raises
    `InputError` if `specs` is not a list of specs.
    """
    store, wanted = store or Store(), list(specs)
    if strange := [type(given).__name__ for given in wanted if not isinstance(given, RunSpec)]:
        raise InputError(f"a list of RunSpecs is needed, got a {type(specs).__name__} with a {strange[0]} in it")
    keys = [spec.key for spec in wanted]
    _note_use(*keys)
    found, todo = missing(wanted, store)
    if todo:
        _run_missing(todo, found, store)
    return [found[key] for key in keys]


def missing(wanted: Iterable[RunSpec], store: Store) -> tuple[dict[str, Record], dict[str, RunSpec]]:
    """Of the `wanted` runs and what the missing ones need: the records that exist, and the specs to be run, by key."""
    found, todo, stack = {}, {}, list(wanted)
    while stack:
        spec = stack.pop()
        key = spec.key
        if key in found or key in todo:
            continue
        if record := store.find(spec):
            found[key] = record
        else:
            todo[key] = spec
            stack += spec.needs
    return found, todo


def _run_missing(todo: dict[str, RunSpec], found: dict[str, Record], store: Store) -> None:
    """Run the specs `todo` and add their records to `found`, which holds the others that they need; both by key."""
    datasets = {name: load_dataset(name) for name in {spec.data.name for spec in todo.values()}}
    graph, tables = plan(todo, datasets)
    work = {key: run_work(spec, datasets[spec.data.name]) for key, spec in todo.items()}
    work |= {node: int(np.bitwise_count(bits).sum()) * image_work(spec) for node, (spec, bits) in tables.items()}

    def jobs_of(node: str) -> list[Job]:
        if node in todo:
            title = f"{todo[node].model.name}, seed {todo[node].seed}"
            return [Job(node, _run_job, (todo[node], store), work[node], title, is_run=True)]
        spec, bits = tables[node]
        absent, cost = NONE, image_work(spec)
        rests_on = [spec.init] if spec.has_frozen_backbone else [spec]
        if not any(found[run.key].diverged for run in rests_on if isinstance(run, RunSpec)):  # else `resolve` raises
            absent = open_table(spec, store)[0].missing(np.flatnonzero(np.unpackbits(bits)))
        progress.correct(len(absent) * cost - work[node])
        shards = [absent[first : first + SHARD] for first in range(0, len(absent), SHARD)]
        title = f"{'features' if spec.has_frozen_backbone else 'table'} of {spec.model.name}"
        return [Job(node, _fill_job, (spec, shard, store), len(shard) * cost, title) for shard in shards]

    def finish(job: Job, summary: dict | None) -> None:
        if job.is_run:
            found[job.node] = Record(store.folder / job.node, todo[job.node], summary)

    networks = {spec.model.name for spec in todo.values() if spec.init == "imagenet"}
    files = {spec.weights_file for spec in todo.values()} - {None}
    with (
        closing(Progress(float(sum(work.values())), len(todo))) as progress,
        connect(store, datasets, networks, files, progress) as pool,
    ):
        execute(graph, work, jobs_of, finish, pool)


def plan(todo: dict[str, RunSpec], datasets: dict[str, Dataset]) -> tuple[dict[str, set[str]], dict[str, tuple]]:
    """What each run and table needs of the others; by table, its spec and a bit for each entry that is looked up.

    Raises `InputError` if a run was trained on images that validate another run, which rests on it.
    """
    graph, tables, alike = {}, {}, {}
    for key, spec in todo.items():
        theirs = {table_name(each): each for each in (*spec.teachers, *([spec] if spec.has_frozen_backbone else []))}
        graph[key] = {needed.key for needed in spec.needs} & todo.keys() | theirs.keys()
        if isinstance(spec.init, RunSpec):
            check_teachers(spec, datasets[spec.data.name])
        for node, other in theirs.items():
            graph[node] = {run.key for run in (other.needs if other.has_frozen_backbone else (other,))} & todo.keys()
            same = spec.data.name, spec.data.split, spec.data.views, spec.epochs, spec.has_frozen_backbone
            alike.setdefault(same, {})[node] = spec, other  # these look up the same entries, whatever their seeds
    for those in alike.values():
        for spec, _ in those.values():
            check_teachers(spec, datasets[spec.data.name])
        labels = datasets[spec.data.name].train_labels
        entries = np.zeros(len(labels) * VIEWS, dtype=bool)
        entries[looked_up(spec, *split_indices(labels, *spec.data.split))] = True
        bits = np.packbits(entries)
        for node, (_, other) in those.items():
            tables[node] = other, bits | tables[node][1] if node in tables else bits
    return graph, tables


def _run_job(spec: RunSpec, store: Store, report: Report) -> dict:
    return run(spec, store, report).summary


def _fill_job(spec: RunSpec, codes: np.ndarray, store: Store, report: Report) -> None:
    fill(spec, codes, store, report)


def run_arms(arms: dict[str, list[RunSpec]]) -> dict[str, list[Record]]:
    """The records of named lists of specs, under the same names, through one `run_all`."""
    records = iter(run_all([spec for specs in arms.values() for spec in specs]))
    return {name: [next(records) for _ in specs] for name, specs in arms.items()}


def recorded_arms(arms: dict[str, list[RunSpec]]) -> dict[str, list[Record]]:
    """Like `run_arms`, but nothing is run: an arm with a missing record is left out."""
    store = Store()
    _note_use(*(spec.key for specs in arms.values() for spec in specs))
    found = {name: [store.find(spec) for spec in specs] for name, specs in arms.items()}
    return {name: records for name, records in found.items() if all(records)}


def run_work(spec: RunSpec, dataset: Dataset) -> float:
    """The run's cost for the ETA, by `image_work`: backward costs twice forward; a frozen backbone only tests."""
    tests = spec.data.test_size or len(dataset.test_labels)
    if spec.has_frozen_backbone:
        return tests * image_work(spec)
    images = spec.data.train_size or len(dataset.train_labels) - spec.data.val_size
    epoch = 3.0 * images + spec.data.val_size + tests * spec.test_curve
    return (spec.epochs * epoch + tests * (not spec.test_curve)) * image_work(spec)


def image_work(spec: RunSpec) -> float:
    """What an image costs in a forward pass of the run's network, in units of its arithmetic."""
    return _OVERHEAD_MACS + forward_macs(spec.model.name, spec.data.num_classes, **spec.model.options)
