"""How a chapter opens: its study, resolved to what data and weights can be had here."""

from __future__ import annotations

import inspect

from kdutils.data.datasets import load_dataset
from kdutils.data.views import split_indices
from kdutils.errors import InputError
from kdutils.studies import assignment, binarised, cifar100, teacher_init
from kdutils.studies.base import Study

_FACTORIES = {"assignment": assignment, "binary": binarised, "teacher-init": teacher_init, "cifar100": cifar100}


def open_study(name: str, profile: str = "quick", dataset: str = "auto", **parameters) -> Study:
    """The study `name` in a profile's sizes, data and weights resolved (None: the profile's); raises `InputError`."""
    if name not in _FACTORIES:
        raise InputError(f"unknown study {name!r}: allowed are {', '.join(_FACTORIES)}")
    known = inspect.signature(_FACTORIES[name]).parameters
    given = {key: value for key, value in parameters.items() if key in known and value is not None}
    study = _FACTORIES[name](profile, dataset, **given)
    split_indices(load_dataset(study.data.name).train_labels, *study.data.split)  # a part of a set may be too small
    return study
