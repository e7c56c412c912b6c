"""What a run depends on, looked up once and passed on."""

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
    """A run's data set and split (int64 indices of training images), its machine, and cached results.

    tables: the teachers' logits, filled at the entries that the run looks up; features: a frozen backbone's outputs;
    features_seconds: the seconds that these took to compute; facts: the digests of data, teachers and start weights,
    which the run's record and its checkpoints keep.
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
    """The entry codes (image * 162 + view), int64, sorted, that the run looks up in its teachers' tables, the same for
    all seeds; with a frozen backbone, also those of the unaugmented validation images. train, val: int64 indices."""
    entries = np.zeros((1 + max(train.max(initial=0), val.max(initial=0)), VIEWS), dtype=bool)
    for epoch in range(spec.epochs):
        indices, views = epoch_stream(train, spec.data.views, spec.seed, epoch)
        entries[indices.numpy(), views.numpy()] = True
    if spec.has_frozen_backbone:
        entries[val, IDENTITY_VIEW] = True
    return np.flatnonzero(entries)


def check_teachers(spec: RunSpec, dataset: Dataset) -> None:
    """Raise `InputError` if a run that `spec` needs, even indirectly, was trained on images that validate `spec`."""
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
