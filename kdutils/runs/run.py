"""The ways to a record: `run` one spec, `run_all` many."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from kdutils.data.datasets import load_dataset
from kdutils.distillation.tables import ViewTable
from kdutils.machine import detect_runtime
from kdutils.networks.counting import forward_macs
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_imagenet, load_weights_file
from kdutils.runs import cluster
from kdutils.runs.jobs import Job, Progress, Slots, execute
from kdutils.runs.records import Record, find, runs_dir, save
from kdutils.specs import RunSpec, unique
from kdutils.training.inputs import training_codes, validation_codes
from kdutils.training.loop import train

_SHARD = 4096  # table entries that a worker fills at a time


_OVERHEAD_MACS = 2e6  # what an image costs beside its network's arithmetic, in units of that arithmetic (for the ETA)


Report = Callable[[float], None]


def run(spec: RunSpec, report: Report = lambda fraction: None, store=None) -> Record:
    """The record of `spec`: from the store, else trained now, its teachers first.

    `report(fraction)` is called while this run itself (not its teachers) advances from 0 to 1. An interrupted run
    goes on from its last checkpoint, at most a minute (or one epoch) old.
    """
    if store:  # stand-in
        os.environ["KD_RUNS_DIR"] = str(store.folder)
    _note_use(spec)
    if found := find(spec):
        return found
    teachers = [run(teacher) for teacher in spec.teachers]
    start = run(spec.init) if isinstance(spec.init, RunSpec) else None
    dataset, runtime = load_dataset(spec.data.name), detect_runtime()
    torch.manual_seed(spec.seed)
    model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
    weights = load_imagenet(model, spec.model.name) if spec.init == "imagenet" else None
    if spec.weights_file:
        weights = load_weights_file(model, spec.weights_file)
    if start:
        same = (
            start.spec.data.name == spec.data.name
        )  # another data set has other classes: their classifier is left behind
        state = start.load_model().state_dict()
        model.load_state_dict(
            {name: value for name, value in state.items() if same or not name.startswith("fc.")}, strict=same
        )
        weights = f"run {start.spec.key} (SHA-256 {start.digest[:16]})"
    codes = training_codes(spec, dataset) if teachers or _has_frozen_backbone(spec) else np.array([], dtype=np.int64)
    for teacher in teachers:
        fill(teacher.spec, codes)
    features = _fill_features(spec, model, codes) if _has_frozen_backbone(spec) else None
    partial = runs_dir() / f"{spec.key}.partial"
    partial.mkdir(exist_ok=True)
    outcome = train(
        model, spec, dataset, runtime, [_table(teacher) for teacher in teachers], features,
        report=lambda epoch: report(epoch / spec.epochs),
        checkpoint=partial / "checkpoint.safetensors",
        checkpoint_seconds=float(os.environ.get("KD_CHECKPOINT_SECONDS", 60)),
    )  # fmt: skip
    data = {"title": dataset.title, "digest": dataset.digest}
    facts = {"data": data, "weights": weights, "teachers": {t.spec.key: t.digest for t in teachers}}
    if start:
        facts["start"] = {start.spec.key: start.digest}
    record = save(spec, model, outcome, runtime, facts)
    shutil.rmtree(partial, ignore_errors=True)
    return record


def _note_use(spec: RunSpec) -> None:
    """Tell the suite, if it asks, which records a notebook rests on."""
    if path := os.environ.get("KD_USED_RUNS"):
        with open(path, "a") as file:
            file.write(f"{spec.key}\n")


def fill(teacher: RunSpec, codes: np.ndarray, report: Report = lambda fraction: None) -> None:
    """Fill the logit table of the recorded run `teacher` at entry codes (image * 162 + view), int64 [N]."""
    record = run(teacher)
    table = _table(record)
    if len(table.missing(codes)):
        dataset = load_dataset(teacher.data.name)
        table.fill(record.load_model(), dataset, codes, teacher.data.normalisation, detect_runtime(), report)


def _table(teacher: Record) -> ViewTable:
    """The teacher's logits, known by its weights, its data and the arithmetic they are computed in."""
    dataset = load_dataset(teacher.spec.data.name)
    name = _hash(teacher.digest, dataset.digest, teacher.spec.data.normalisation, detect_runtime().name)
    return ViewTable(
        runs_dir() / "tables" / f"{teacher.spec.model.name}-{name}",
        len(dataset.train_labels),
        teacher.spec.data.num_classes,
    )


def _has_frozen_backbone(spec: RunSpec) -> bool:
    """Whether only the head trains, so that the features below it are constants (an adapted stem would train too)."""
    return spec.trainable == "head" and spec.model.options.get("stem") == "imagenet"


def _fill_features(spec: RunSpec, model: nn.Module, codes: np.ndarray) -> ViewTable:
    dataset, runtime = load_dataset(spec.data.name), detect_runtime()
    backbone = copy.deepcopy(model)
    backbone.fc = nn.Identity()
    weights = [tensor.contiguous().numpy().tobytes() for tensor in backbone.state_dict().values()]
    name = _hash(*weights, dataset.digest, spec.data.normalisation, runtime.name)
    table = ViewTable(
        runs_dir() / "tables" / f"{spec.model.name}-features-{name}", len(dataset.train_labels), model.fc.in_features
    )
    table.fill(
        backbone, dataset, np.concatenate([codes, validation_codes(spec, dataset)]), spec.data.normalisation, runtime
    )
    return table


def _hash(*parts: str | bytes) -> str:
    return hashlib.sha256(b"\n".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()[
        :16
    ]


def run_all(specs: Iterable[RunSpec], executor: Executor | Slots | None = None) -> list[Record]:
    """The records of `specs`, in their order, equal ones run once, with a progress bar and its ETA.

    They run through `executor`, else on the Dask cluster that `KD_SCHEDULER` names, else in processes of this machine.

    Runs go together through `kdutils.jobs.execute`, the longest first: those that wait for none, then the filling of the
    tables of the next in shards, then these.
    """
    specs = list(specs)
    todo = [spec for spec in unique(specs) if not find(spec)]
    if todo:
        missing = {spec.key for spec in todo}
        depths = [_depth(spec, missing) for spec in todo]
        levels = [[spec for spec, its in zip(todo, depths) if its == depth] for depth in range(1 + max(depths))]
        expected = [_fill_work(_wanted_entries(level)) for level in levels]
        with (
            _executor(executor, todo) as executor,
            Progress(sum(expected) + sum(map(_run_work, todo)), len(todo)) as progress,
        ):
            for level, expectation in zip(levels, expected):
                filling = _fill_jobs(_wanted_entries(level))
                progress.correct(sum(job.work for job in filling) - expectation)
                execute(filling, progress, executor)
                execute(
                    [
                        Job(run, (spec,), _run_work(spec), f"{spec.model.name}, seed {spec.seed}", is_run=True)
                        for spec in level
                    ],
                    progress,
                    executor,
                )
    return [run(spec) for spec in specs]


def _executor(given: Executor | Slots | None, specs: list[RunSpec]):
    return nullcontext(given) if given else cluster.connect(cluster.scheduler(), {spec.data.name for spec in specs})


def run_arms(arms: dict[str, list[RunSpec]]) -> dict[str, list[Record]]:
    """The records of named lists of specs, under the same names, through one `run_all`."""
    records = iter(run_all([spec for specs in arms.values() for spec in specs]))
    return {name: [next(records) for _ in specs] for name, specs in arms.items()}


def _depth(spec: RunSpec, missing: set[str]) -> int:
    """How many runs of `missing`, each needing the one before, come before this one."""
    return max((1 + _depth(needed, missing) for needed in spec.needs if needed.key in missing), default=0)


def _wanted_entries(specs: list[RunSpec]) -> list[tuple[RunSpec, np.ndarray]]:
    """Every teacher of `specs` with the entry codes that its students will look up, each once."""
    wanted: dict[str, tuple[RunSpec, list[np.ndarray]]] = {}
    for spec in specs:
        for teacher in spec.teachers:
            wanted.setdefault(teacher.key, (teacher, []))[1].append(training_codes(spec, load_dataset(spec.data.name)))
    return [(teacher, np.unique(np.concatenate(codes))) for teacher, codes in wanted.values()]


def _fill_jobs(wanted: list[tuple[RunSpec, np.ndarray]]) -> list[Job]:
    shards = [
        (teacher, missing[start : start + _SHARD])
        for teacher, codes in wanted
        for missing in [_table(run(teacher)).missing(codes)]
        for start in range(0, len(missing), _SHARD)
    ]
    return [Job(fill, shard, _fill_work([shard]), f"table of {shard[0].model.name}") for shard in shards]


def _fill_work(wanted: list[tuple[RunSpec, np.ndarray]]) -> float:
    return sum(len(codes) * _image_work(teacher) for teacher, codes in wanted)


def _run_work(spec: RunSpec) -> float:
    """The run's cost in forward passes, for the ETA: backward costs twice forward."""
    images = spec.data.train_size or len(load_dataset(spec.data.name).train_labels)
    return 3.0 * images * spec.epochs * _image_work(spec)


def _image_work(spec: RunSpec) -> float:
    return _OVERHEAD_MACS + forward_macs(spec.model.name, spec.data.num_classes, spec.model.options)
