"""What a run depends on: its network at the start, its data and its teachers' logits, all resolved once."""

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import nn

from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.distillation.tables import HeadTable, ViewTable
from kdutils.errors import InputError
from kdutils.machine import detect_runtime
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_imagenet, load_weights_file
from kdutils.runs.records import Record, Store, start_digest
from kdutils.specs import RunSpec
from kdutils.training.inputs import NONE, Inputs, check_teachers, looked_up


def resolve(spec: RunSpec, needed: dict[str, Record], store: Store) -> tuple[nn.Module, Inputs]:
    """The network at the start, and all that its training depends on; missing table entries are computed.

    needed: the records of the runs that come before this one, by key. Raises `InputError` if one of them diverged,
    or a teacher was trained on images that validate its student.
    """
    for record in needed.values():
        if record.diverged:
            raise InputError(
                f"{record.spec.key}, which {spec.key} needs, diverged in epoch {record.summary['diverged']}: "
                "lower its learning rate"
            )
    dataset = load_dataset(spec.data.name)
    if spec.data.digest not in (None, dataset.digest):
        raise InputError(f"{dataset.title} has been replaced since this was planned: open its chapter again")
    if spec.data.num_classes != len(dataset.classes):
        raise InputError(
            f"{dataset.title} has {len(dataset.classes)} classes, not {spec.data.num_classes}: mend the spec"
        )
    check_teachers(spec, dataset)
    model, weights = start(spec, store)
    facts = {
        "data": {"title": dataset.title, "digest": dataset.digest},
        "weights": weights,
        "teachers": {teacher.key: needed[teacher.key].digest for teacher in spec.teachers},
    }
    if isinstance(spec.init, RunSpec):
        facts["start"] = {spec.init.key: needed[spec.init.key].digest}
    train, val = split_indices(dataset.train_labels, *spec.data.split)
    codes = looked_up(spec, train, val) if spec.teachers or spec.has_frozen_backbone else NONE
    answers = []
    for teacher in spec.teachers:
        table = fill(teacher, codes, store)
        is_head = teacher.has_frozen_backbone
        answers.append(HeadTable(table, *needed[teacher.key].load_head()) if is_head else table)
    features = fill(spec, codes, store) if spec.has_frozen_backbone else None
    spent = features.seconds(len(codes)) if features else 0.0
    return model, Inputs(dataset, detect_runtime(), train, val, tuple(answers), features, facts, spent)


def start(spec: RunSpec, store: Store) -> tuple[nn.Module, str | None]:
    """The network as its training begins, and the origin of its weights, with their digest; None for random weights."""
    torch.manual_seed(spec.seed)
    model = build_model(spec.model.name, spec.data.num_classes, **spec.model.options)
    if spec.weights_file:
        return model, load_weights_file(model, spec.weights_file)
    if spec.init == "imagenet":
        return model, load_imagenet(model, spec.model.name)
    if spec.init == "random":
        return model, None
    record = store.find(spec.init)
    same = spec.data.has_images_of(spec.init.data)  # another data set has other classes: its classifier is not used
    state = record.load_model().state_dict()
    kept = {name: value for name, value in state.items() if same or not name.startswith("fc.")}
    model.load_state_dict(kept, strict=same)
    return model, f"run {spec.init.key} (SHA-256 {record.digest[:16]})"


def table_name(spec: RunSpec) -> str:
    """The name of `spec`'s table in a plan; specs with the same name share the table."""
    if not spec.has_frozen_backbone:
        return f"table of {spec.key}"
    begun = spec.init if isinstance(spec.init, str) else spec.init.key
    begun += f" {spec.seed}" * (begun == "random")
    model = f"{spec.model.name} {spec.model.canonical()}"
    return f"features of {model} from {begun}, {spec.data.name}, {spec.data.normalisation}"


def open_table(spec: RunSpec, store: Store) -> tuple[ViewTable, Callable[[], nn.Module]]:
    """The table of the outputs of `spec`'s network, and a function that returns this network.

    Outputs are the logits of the trained network; or, of a frozen backbone, the features that its head is trained on,
    which need no training. A table is named by the weights, the data and the arithmetic that it is computed with.
    """
    dataset, runtime = load_dataset(spec.data.name), detect_runtime()
    made_in = dataset.digest, spec.data.normalisation, runtime.name
    if spec.has_frozen_backbone:
        source = store.find(spec.init).digest if isinstance(spec.init, RunSpec) else start_digest(spec)
        columns, name = _features(spec, store, source, made_in)
        label, network = f"{spec.model.name}-features", lambda: _backbone(spec, store)[0]
    else:
        record = store.find(spec)
        weights = [record.digest] + [spec.model.canonical()] * (not spec.epochs)  # trained weights differ by options
        columns, name = spec.data.num_classes, _hash(*weights, *made_in)
        label, network = spec.model.name, record.load_model
    return ViewTable(store.folder / "tables" / f"{label}-{name}", len(dataset.train_labels), columns), network


@cache  # else every student would build and hash the backbones of its teachers
def _features(spec: RunSpec, store: Store, source: str | None, made_in: tuple[str, ...]) -> tuple[int, str]:
    """The number of features that `spec`'s backbone gives an image, and the hash that names their table.

    source: the digest of the weights that it starts from, as they are now.
    """
    backbone, columns = _backbone(spec, store)
    weights = [tensor.contiguous().numpy().tobytes() for tensor in backbone.state_dict().values()]
    weights.append(spec.model.canonical().encode())  # a resized stem has the same weights at every size
    return columns, _hash(*weights, *made_in)


def _backbone(spec: RunSpec, store: Store) -> tuple[nn.Module, int]:
    """The network as its training begins, without its head, and the number of features that the head would take."""
    model = start(spec, store)[0]
    columns, model.fc = model.fc.in_features, nn.Identity()
    return model, columns


def fill(spec: RunSpec, codes: np.ndarray, store: Store, report: Callable[[float], None] = lambda _: None) -> ViewTable:
    """`spec`'s table (`open_table`), filled at entry codes (image * 162 + view), int64 [N]."""
    table, network = open_table(spec, store)
    if len(table.missing(codes)):
        dataset = load_dataset(spec.data.name)
        table.fill(network(), dataset, codes, spec.data.normalisation, detect_runtime(), report)
    return table


def _hash(*parts: str | bytes) -> str:
    content = b"\n".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    return hashlib.sha256(content).hexdigest()[:16]
