"""What a run looks up."""

from __future__ import annotations

import numpy as np

from kdutils.data.datasets import Dataset
from kdutils.data.views import IDENTITY_VIEW, VIEWS, epoch_stream, split_indices
from kdutils.specs import RunSpec


def training_codes(spec: RunSpec, dataset: Dataset) -> np.ndarray:
    """Every entry code (image * 162 + view), int64, that the run's epochs will look up."""
    train, _ = split_indices(dataset.train_labels, *spec.data.split)
    epochs = (epoch_stream(train, spec.data.views, spec.seed, epoch) for epoch in range(spec.epochs))
    return np.unique(np.concatenate([(indices * VIEWS + views).numpy() for indices, views in epochs]))


def validation_codes(spec: RunSpec, dataset: Dataset) -> np.ndarray:
    """The entry codes, int64, of the run's validation images as they are."""
    return split_indices(dataset.train_labels, *spec.data.split)[1] * VIEWS + IDENTITY_VIEW
