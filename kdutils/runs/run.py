"""The ways to a record: `run` one spec, `run_all` many."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing

import numpy as np
import torch
from torch import nn

from kdutils.data.datasets import Dataset, load_dataset
from kdutils.data.views import VIEWS, epoch_stream, split_indices
from kdutils.distillation.tables import SHARD, ViewTable
from kdutils.errors import InputError
from kdutils.machine import Runtime, detect_runtime
from kdutils.networks.counting import forward_macs
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_imagenet, load_weights_file
from kdutils.runs.cluster import connect
from kdutils.runs.records import Record, Store
from kdutils.runs.schedule import Job, Progress, execute
from kdutils.settings import settings
from kdutils.specs import RunSpec
from kdutils.training.checkpoints import Checkpoint
from kdutils.training.inputs import Inputs, check_teachers, training_codes, validation_codes
from kdutils.training.loop import train

_OVERHEAD_MACS = 2e6  # what an image costs beside its network's arithmetic, in units of that arithmetic (for the ETA)

Report = Callable[[float], None]


def _silent(fraction: float) -> None:
    pass


def run(spec: RunSpec, store: Store | None = None, report: Report = _silent) -> Record:
    """The record of `spec`: from the store (by default that of `KD_RUNS_DIR`), else trained now, its teachers first.

    `report(fraction)` is called while this run itself (not its teachers) advances from 0 to 1. An interrupted run
    goes on from its last checkpoint, at most a minute (or one epoch) old.
    """
    store = store or Store.default()
    _note_use(spec.key)
    if found := store.find(spec):
        return found
    model, inputs = _resolve(spec, store)
    partial = store.folder / f"{spec.key}.partial"
    partial.mkdir(exist_ok=True)  # tells that the run has begun
    checkpoint = Checkpoint(partial / "checkpoint.safetensors", inputs.facts, settings().checkpoint_seconds)
    outcome = train(model, spec, inputs, lambda epoch: report(epoch / spec.epochs), checkpoint)
    record = store.save(spec, model, outcome, inputs.runtime, inputs.facts)
    shutil.rmtree(partial, ignore_errors=True)
    return record


def _resolve(spec: RunSpec, store: Store) -> tuple[nn.Module, Inputs]:
    """The network as it starts, and all that its training rests on; teachers are run, and their tables filled."""
    teachers = [run(teacher, store) for teacher in spec.teachers]
    start = run(spec.init, store) if isinstance(spec.init, RunSpec) else None
    for needed in [*teachers, *([start] if start else [])]:
        if needed.diverged:
            raise InputError(
                f"{needed.spec.key}, which {spec.key} needs, diverged in epoch {needed.summary['diverged']}: "
                "lower its learning rate"
            )
    dataset, runtime = load_dataset(spec.data.name), detect_runtime()
    check_teachers(spec, dataset)
    train_indices, val_indices = split_indices(dataset.train_labels, *spec.data.split)
    torch.manual_seed(spec.seed)
    model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
    facts = {
        "data": {"title": dataset.title, "digest": dataset.digest},
        "weights": _start_weights(spec, model, start),
        "teachers": {teacher.spec.key: teacher.digest for teacher in teachers},
        **({"start": {start.spec.key: start.digest}} if start else {}),
    }
    frozen = _has_frozen_backbone(spec)
    codes = training_codes(spec, train_indices) if teachers or frozen else np.array([], dtype=np.int64)
    tables = tuple(fill(teacher, codes, store) for teacher in teachers)
    features = None
    if frozen:
        features = _feature_table(spec, model, dataset, runtime, store)
        codes = np.concatenate([codes, validation_codes(val_indices)])
        features.fill(_backbone(model), dataset, codes, spec.data.normalisation, runtime)
    return model, Inputs(dataset, runtime, train_indices, val_indices, tables, features, facts)


def _start_weights(spec: RunSpec, model: nn.Module, start: Record | None) -> str | None:
    """Put the weights that the run starts from into `model`; their source with its digest, None for random ones."""
    if spec.weights_file:
        return load_weights_file(model, spec.weights_file)
    if spec.init == "imagenet":
        return load_imagenet(model, spec.model.name)
    if not start:
        return None
    same = start.spec.data.name == spec.data.name  # another data set has other classes: their classifier stays behind
    state = start.load_model().state_dict()
    kept = {name: value for name, value in state.items() if same or not name.startswith("fc.")}
    model.load_state_dict(kept, strict=same)
    return f"run {start.spec.key} (SHA-256 {start.digest[:16]})"


def _note_use(*keys: str) -> None:
    """Tell the suite, if it asks, which records a notebook rests on."""
    if path := settings().used_runs:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{key}\n" for key in keys)


def fill(teacher: Record, codes: np.ndarray, store: Store, report: Report = _silent) -> ViewTable:
    """The teacher's table of logits, filled at entry codes (image * 162 + view), int64 [N]."""
    dataset, runtime = load_dataset(teacher.spec.data.name), detect_runtime()
    table = _logit_table(teacher, dataset, runtime, store)
    if len(table.missing(codes)):
        table.fill(teacher.load_model(), dataset, codes, teacher.spec.data.normalisation, runtime, report)
    return table


def _logit_table(teacher: Record, dataset: Dataset, runtime: Runtime, store: Store) -> ViewTable:
    """Known by the teacher's weights, its data and the arithmetic that it is computed in."""
    spec = teacher.spec
    name = _hash(teacher.digest, dataset.digest, spec.data.normalisation, runtime.name)
    folder = store.folder / "tables" / f"{spec.model.name}-{name}"
    return ViewTable(folder, len(dataset.train_labels), spec.data.num_classes)


def _has_frozen_backbone(spec: RunSpec) -> bool:
    """Whether only the head trains, so that the features below it are constants (an adapted stem would train too)."""
    return spec.trainable == "head" and spec.model.option("stem") == "imagenet"


def _backbone(model: nn.Module) -> nn.Module:
    backbone = copy.deepcopy(model)
    backbone.fc = nn.Identity()
    return backbone


def _feature_table(spec: RunSpec, model: nn.Module, dataset: Dataset, runtime: Runtime, store: Store) -> ViewTable:
    weights = [tensor.contiguous().numpy().tobytes() for tensor in _backbone(model).state_dict().values()]
    name = _hash(*weights, dataset.digest, spec.data.normalisation, runtime.name)
    folder = store.folder / "tables" / f"{spec.model.name}-features-{name}"
    return ViewTable(folder, len(dataset.train_labels), model.fc.in_features)


def _hash(*parts: str | bytes) -> str:
    content = b"\n".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return hashlib.sha256(content).hexdigest()[:16]


def run_all(specs: Iterable[RunSpec], store: Store | None = None) -> list[Record]:
    """The records of `specs`, in their order, equal ones run once, with progress and the time left.

    What is not recorded yet is run, on the cluster of `KD_SCHEDULER` or in `KD_WORKERS` processes of this machine: each
    run after those that it needs, and after the tables of its teachers, which are filled in shards.
    """
    store = store or Store.default()
    wanted = [(spec.key, spec) for spec in specs]
    _note_use(*(key for key, _ in wanted))
    found, todo, stack = {}, {}, list(wanted)
    while stack:
        key, spec = stack.pop()
        if key in found or key in todo:
            continue
        if record := store.find(spec):
            found[key] = record
        else:
            todo[key] = spec
            stack += [(needed.key, needed) for needed in spec.needs]
    if todo:
        _run_missing(todo, found, store)
    return [found[key] for key, _ in wanted]


def _run_missing(todo: dict[str, RunSpec], found: dict[str, Record], store: Store) -> None:
    """Run the specs `todo`, by key, into `found`, which holds what else they need."""
    datasets = {name: load_dataset(name) for name in {spec.data.name for spec in todo.values()}}
    graph, tables = _plan(todo, datasets)
    work = {key: _run_work(spec, datasets[spec.data.name]) for key, spec in todo.items()}
    work |= {node: int(np.bitwise_count(bits).sum()) * _image_work(teacher) for node, (teacher, bits) in tables.items()}

    def jobs_of(node: str) -> list[Job]:
        if node in todo:
            title = f"{todo[node].model.name}, seed {todo[node].seed}"
            return [Job(node, _run_job, (todo[node], store), work[node], title, is_run=True)]
        teacher, bits = tables[node]
        missing, cost = np.array([], dtype=np.int64), _image_work(teacher)
        if not found[teacher.key].diverged:  # else its students say so
            filled = _logit_table(found[teacher.key], datasets[teacher.data.name], detect_runtime(), store).filled
            missing = np.flatnonzero(np.unpackbits(bits, count=filled.size) & ~filled.reshape(-1))
        progress.correct(len(missing) * cost - work[node])
        shards = [missing[first : first + SHARD] for first in range(0, len(missing), SHARD)]
        given = ((found[teacher.key], shard, store) for shard in shards)
        return [Job(node, _fill_job, each, len(each[1]) * cost, f"table of {teacher.model.name}") for each in given]

    def finish(job: Job, summary: dict | None) -> None:
        if job.is_run:
            found[job.node] = Record(store.folder / job.node, todo[job.node], summary)

    networks = {spec.model.name for spec in todo.values() if spec.init == "imagenet"}
    files = {spec.weights_file for spec in todo.values()} - {None}
    with (
        closing(Progress(float(sum(work.values())), len(todo))) as progress,
        connect(store, datasets, networks, files, progress) as pool,
    ):
        execute(graph, jobs_of, finish, pool, progress)


def _plan(todo: dict[str, RunSpec], datasets: dict[str, Dataset]) -> tuple[dict[str, set[str]], dict[str, tuple]]:
    """What each run and table needs of the others; by table its teacher, and a bit for each entry that is looked up.

    Raises `InputError` where a teacher was trained on images that validate its student.
    """
    graph, tables, students = {}, {}, {}
    for key, spec in todo.items():
        teachers = {f"table of {teacher.key}": teacher for teacher in spec.teachers}
        graph[key] = {needed.key for needed in spec.needs} & todo.keys() | teachers.keys()
        for node, teacher in teachers.items():
            graph[node] = {teacher.key} & todo.keys()
            looked_up = spec.data.name, spec.data.split, spec.data.views, spec.epochs  # the same for all seeds
            students.setdefault(looked_up, {})[node] = spec, teacher
    for those in students.values():
        for spec, _ in those.values():
            check_teachers(spec, datasets[spec.data.name])
        labels = datasets[spec.data.name].train_labels
        train, entries = split_indices(labels, *spec.data.split)[0], np.zeros(len(labels) * VIEWS, dtype=bool)
        for epoch in range(spec.epochs):
            indices, views = epoch_stream(train, spec.data.views, spec.seed, epoch)
            entries[(indices * VIEWS + views).numpy()] = True
        bits = np.packbits(entries)
        for node, (_, teacher) in those.items():
            tables[node] = teacher, bits | tables[node][1] if node in tables else bits
    return graph, tables


def _run_job(spec: RunSpec, store: Store, report: Report) -> dict:
    return run(spec, store, report).summary


def _fill_job(teacher: Record, codes: np.ndarray, store: Store, report: Report) -> None:
    fill(teacher, codes, store, report)


def run_arms(arms: dict[str, list[RunSpec]], store: Store | None = None) -> dict[str, list[Record]]:
    """The records of named lists of specs, under the same names, through one `run_all`."""
    records = iter(run_all([spec for specs in arms.values() for spec in specs], store))
    return {name: [next(records) for _ in specs] for name, specs in arms.items()}


def _run_work(spec: RunSpec, dataset: Dataset) -> float:
    """The run's cost in forward passes, for the ETA: backward costs twice forward."""
    return 3.0 * (spec.data.train_size or len(dataset.train_labels)) * spec.epochs * _image_work(spec)


def _image_work(spec: RunSpec) -> float:
    return _OVERHEAD_MACS + forward_macs(spec.model.name, spec.data.num_classes, spec.model.options)
