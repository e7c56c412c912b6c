"""The ways to a record: `run` one spec, `run_all` many."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from kdutils.data.datasets import Dataset, load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.tables import SHARD, ViewTable
from kdutils.errors import InputError
from kdutils.machine import Runtime, detect_runtime
from kdutils.networks.counting import forward_macs
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_imagenet, load_weights_file
from kdutils.runs import cluster
from kdutils.runs.jobs import Job, Progress, execute
from kdutils.runs.records import Record, Store
from kdutils.settings import settings
from kdutils.specs import RunSpec, unique
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
    _note_use(spec)
    if found := store.find(spec):
        return found
    model, inputs = _resolve(spec, store)
    partial = store.folder / f"{spec.key}.partial"
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


def _note_use(spec: RunSpec) -> None:
    """Tell the suite, if it asks, which records a notebook rests on."""
    if path := settings().used_runs:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{spec.key}\n")


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
    """The records of `specs`, in their order, equal ones run once, with a progress bar and its ETA.

    They run on the Dask cluster that `KD_SCHEDULER` names, else in processes of this machine, the longest first: those
    that wait for none, then the filling of the tables of the next in shards, then these.
    """
    specs, store = list(specs), store or Store.default()
    todo = [spec for spec in unique(specs) if not store.find(spec)]
    if todo:
        datasets = {name: load_dataset(name) for name in {spec.data.name for spec in todo}}
        for spec in todo:
            check_teachers(spec, datasets[spec.data.name])
        missing = {spec.key for spec in todo}
        depths = [_depth(spec, missing) for spec in todo]
        levels = [
            [spec for spec, its in zip(todo, depths, strict=True) if its == depth] for depth in range(1 + max(depths))
        ]
        expected = [_fill_work(_wanted_entries(level, datasets)) for level in levels]
        work = sum(expected) + sum(_run_work(spec, datasets) for spec in todo)
        with (
            cluster.connect(settings().scheduler, set(datasets), store) as slots,
            Progress(work, len(todo)) as progress,
        ):
            for level, expectation in zip(levels, expected, strict=True):
                filling = _fill_jobs(_wanted_entries(level, datasets), datasets, store)
                progress.correct(sum(job.work for job in filling) - expectation)
                execute(filling, progress, store, slots)
                execute([_run_job(spec, datasets, store) for spec in level], progress, store, slots)
    return [run(spec, store) for spec in specs]


def run_arms(arms: dict[str, list[RunSpec]], store: Store | None = None) -> dict[str, list[Record]]:
    """The records of named lists of specs, under the same names, through one `run_all`."""
    records = iter(run_all([spec for specs in arms.values() for spec in specs], store))
    return {name: [next(records) for _ in specs] for name, specs in arms.items()}


def _depth(spec: RunSpec, missing: set[str]) -> int:
    """How many runs of `missing`, each needing the one before, come before this one."""
    return max((1 + _depth(needed, missing) for needed in spec.needs if needed.key in missing), default=0)


Entries = list[tuple[RunSpec, np.ndarray]]


def _wanted_entries(specs: list[RunSpec], datasets: dict[str, Dataset]) -> Entries:
    """Every teacher of `specs` with the entry codes that its students will look up, each once."""
    wanted: dict[RunSpec, list[np.ndarray]] = {}
    for spec in specs:
        if spec.teachers:
            train_indices, _ = split_indices(datasets[spec.data.name].train_labels, *spec.data.split)
            for teacher in spec.teachers:
                wanted.setdefault(teacher, []).append(training_codes(spec, train_indices))
    return [(teacher, np.unique(np.concatenate(codes))) for teacher, codes in wanted.items()]


def _fill_jobs(wanted: Entries, datasets: dict[str, Dataset], store: Store) -> list[Job]:
    jobs = []
    for teacher, codes in wanted:
        record = run(teacher, store)
        if record.diverged:  # its students say so
            continue
        missing = _logit_table(record, datasets[teacher.data.name], detect_runtime(), store).missing(codes)
        for shard in np.split(missing, range(SHARD, len(missing), SHARD)) if len(missing) else []:
            work = _fill_work([(teacher, shard)])
            jobs.append(Job(fill, (record, shard, store), work, f"table of {teacher.model.name}"))
    return jobs


def _run_job(spec: RunSpec, datasets: dict[str, Dataset], store: Store) -> Job:
    title = f"{spec.model.name}, seed {spec.seed}"
    return Job(run, (spec, store), _run_work(spec, datasets), title, is_run=True)


def _fill_work(wanted: Entries) -> float:
    return sum(len(codes) * _image_work(teacher) for teacher, codes in wanted)


def _run_work(spec: RunSpec, datasets: dict[str, Dataset]) -> float:
    """The run's cost in forward passes, for the ETA: backward costs twice forward."""
    images = spec.data.train_size or len(datasets[spec.data.name].train_labels)
    return 3.0 * images * spec.epochs * _image_work(spec)


def _image_work(spec: RunSpec) -> float:
    return _OVERHEAD_MACS + forward_macs(spec.model.name, spec.data.num_classes, spec.model.options)
