"""What all studies share: profiles, data and seeds, and how their captions put it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdutils.data.datasets import TITLES, load_dataset, resolve_dataset
from kdutils.data.views import VIEWS
from kdutils.errors import InputError
from kdutils.distillation.methods import KD
from kdutils.specs import DataSpec, Distillation, RunSpec

PROFILES = ("smoke", "quick", "overnight", "paper")


class Study:
    """A frozen dataclass with at least `data`, `seeds`, `teacher_seeds`, `init` and `profile`."""

    @property
    def setting(self) -> str:
        """For captions: what these numbers hold for, in a sentence or two."""
        dataset, spec = load_dataset(self.data.name), self.data
        train = spec.train_size or len(dataset.train_labels) - spec.val_size
        test = min(spec.test_size or len(dataset.test_labels), len(dataset.test_labels))
        validation = f", {spec.val_size:,} validation" if spec.val_size else ""
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        title = dataset.title[0].upper() + dataset.title[1:]
        return f"{title}: {train:,} training{validation} and {test:,} test images, {spec.views} of {VIEWS} views, {seeds}; profile {self.profile}.{self._remark}"

    @property
    def _remark(self) -> str:
        return "" if self.init == "imagenet" else " The ResNets start from random weights, for want of ImageNet's."


def with_teacher(student: RunSpec, teacher: RunSpec, temperature: float, kd_weight: float) -> RunSpec:
    """`student` with a teacher; alone and taught, runs of one seed differ in nothing but their loss."""
    taught = Distillation(teachers=(teacher,), method=KD(temperature=temperature, kd_weight=kd_weight))
    return RunSpec(**dict(student) | {"distillation": taught})


def fitted(
    profiles: dict, profile: str, dataset: str, seeds: Sequence[int] | None, teacher_seeds: Sequence[int] | None
):
    """The profile's study on a data set, with other seeds if given."""
    if profile not in profiles:
        raise InputError(f"unknown profile {profile!r}: allowed are {', '.join(PROFILES)}")
    study = profiles[profile]
    name, own = resolve_dataset(dataset, study.data.name), study.data.name
    if name not in (own, "synthetic"):
        raise InputError(
            f"this study is about {TITLES[own]}: dataset must be auto, cifar (each study's own), {own} or synthetic, got {dataset!r}"
        )
    data = DataSpec(**dict(study.data) | {"name": name})
    return replace(
        study,
        data=data,
        seeds=_distinct(seeds) or study.seeds,
        teacher_seeds=_distinct(teacher_seeds) or study.teacher_seeds,
        profile=profile,
    )


def _distinct(seeds: Sequence[int] | None) -> tuple[int, ...]:
    seeds = tuple(seeds or ())
    if len(set(seeds)) != len(seeds):
        raise InputError(f"seeds must differ from each other, got {', '.join(map(str, seeds))}")
    return seeds
