"""What a run rests on, looked up once and handed down."""

from dataclasses import dataclass, field

import numpy as np

from kdutils.data.datasets import Dataset
from kdutils.data.views import IDENTITY_VIEW, VIEWS, epoch_stream, split_indices
from kdutils.distillation.tables import HeadTable, ViewTable
from kdutils.errors import InputError
from kdutils.machine import Runtime
from kdutils.specs import RunSpec

NONE = np.array([], dtype=np.int64)


@dataclass(frozen=True)
class Inputs:
    """A run's data set and split (int64 indices of training images), its machine, and what it need not compute.

    tables: the teachers' logits, filled where the run looks; features: a frozen backbone's outputs, and the seconds
    that these took to compute. facts: the digests of all of it and of the start weights, which its record and its
    checkpoints keep.
    """

    dataset: Dataset
    runtime: Runtime
    train: np.ndarray
    val: np.ndarray
    tables: tuple[ViewTable | HeadTable, ...] = ()
    features: ViewTable | None = None
    facts: dict = field(default_factory=dict)
    features_seconds: float = 0.0


def looked_up(spec: RunSpec, train: np.ndarray, val: np.ndarray = NONE) -> np.ndarray:
    """Every entry code (image * 162 + view), int64, that the run looks up in its teachers' tables, the same for all its
    seeds; and in a table of features those of the validation images (int64 indices, as `train`) as they are."""
    entries = np.zeros((1 + max(train.max(initial=0), val.max(initial=0)), VIEWS), dtype=bool)
    for epoch in range(spec.epochs):
        indices, views = epoch_stream(train, spec.data.views, spec.seed, epoch)
        entries[indices.numpy(), views.numpy()] = True
    if spec.has_frozen_backbone:
        entries[val, IDENTITY_VIEW] = True
    return np.flatnonzero(entries)


def check_teachers(spec: RunSpec, dataset: Dataset) -> None:
    """Raise `InputError` where a run that this one rests on, maybe through others, saw images that validate this."""
    val = split_indices(dataset.train_labels, *spec.data.split)[1]
    if not len(val):
        return
    for before in (*spec.teachers, spec.init):
        rests_on = [before] if isinstance(before, RunSpec) else []
        for seen in rests_on:
            rests_on += seen.needs
            if not spec.data.has_images_of(seen.data) or not seen.epochs:
                continue
            if known := len(np.intersect1d(val, split_indices(dataset.train_labels, *seen.data.split)[0])):
                who, whom = f"the teacher {before.model.name}", f"its student {spec.model.name}"
                if before is spec.init:
                    who, whom = f"the run that {spec.model.name} goes on from", "it"
                raise InputError(
                    f"{who} was trained on {known:,} of the {len(val):,} images that validate {whom}: give both the "
                    "same train_size, val_size and split_seed"
                )
