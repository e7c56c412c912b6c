"""Study C: does the teacher's initialisation matter? CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdutils.data.datasets import load_dataset
from kdutils.data.views import VIEWS
from kdutils.errors import InputError, Unavailable
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_imagenet
from kdutils.specs import DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, fitted, with_teacher

TITLES = {"resnet18": "ResNet18", "resnet50": "ResNet50", "resnet101": "ResNet101"}


@dataclass(frozen=True)
class TeacherInit(Study):
    """Study C: one network as teacher twice, from random and from pretrained weights, and the students of both.

    Temperature, kd_weight, the teachers' 10 epochs and the images' mean and deviation of 0.5 are the document's. It is
    silent about optimisers, batch and stem; ours are in the methods below, the same for both teachers and for all students.
    Nothing is selected here, so there are no validation images; test curves are shown, the last epoch counts. A teacher
    trains on all 162 views, whatever its students see.
    """

    data: DataSpec
    seeds: tuple[int, ...]
    teacher_seeds: tuple[int, ...]
    network: str  # of the teachers
    epochs: int
    teacher_epochs: int
    temperature: float = 2.0
    kd_weight: float = 0.5
    init: str = "imagenet"  # where the pretrained weights come from: else "pretrain:cifar100"
    profile: str = "quick"

    @property
    def pretraining(self) -> str:
        """What the pretrained teacher starts from, in words."""
        if self.init == "imagenet":
            return "ImageNet's weights"
        return f"weights trained on {'other synthetic images' if self.data.name == 'synthetic' else 'CIFAR-100'}"

    @property
    def _remark(self) -> str:
        stand_in = "" if self.network == "resnet101" else ", which stand in for ResNet101"
        return f" Teachers are {TITLES[self.network]}s{stand_in}, trained in all {VIEWS} views; the pretrained one starts from {self.pretraining}."

    def student(self, seed: int = 0) -> RunSpec:
        """The student of 94,538 parameters, alone: Adam on one cycle that peaks at 4e-3, batch 64."""
        return RunSpec(
            data=self.data,
            model=ModelSpec(name="sparse_cnn"),
            optimiser=OptimiserSpec(name="adam", learning_rate=4e-3, schedule="one_cycle"),
            epochs=self.epochs,
            batch_size=64,
            seed=seed,
            test_curve=True,
        )

    def teacher(self, pretrained: bool, seed: int = 0) -> RunSpec:
        """A ResNet with a 3x3 stem: SGD on one cycle that peaks at 0.02, momentum 0.9, weight decay 5e-4, batch 64."""
        scratch = RunSpec(
            data=DataSpec(**dict(self.data) | {"views": VIEWS}),
            model=ModelSpec(name=self.network, options={"stem": "cifar_pool"}),
            optimiser=OptimiserSpec(
                name="sgd", learning_rate=0.02, momentum=0.9, weight_decay=5e-4, schedule="one_cycle"
            ),
            epochs=self.teacher_epochs,
            batch_size=64,
            seed=seed,
            test_curve=True,
        )
        if not pretrained:
            return scratch
        return RunSpec(
            **dict(scratch) | {"init": "imagenet" if self.init == "imagenet" else self._pretrained_on_others(scratch)}
        )

    def _pretrained_on_others(self, scratch: RunSpec) -> RunSpec:
        """The same training on CIFAR-100; on the synthetic set, which has no sibling, on another draw of its images."""
        other = {"split_seed": 1} if self.data.name == "synthetic" else {"name": "cifar100"}
        return RunSpec(**dict(scratch) | {"data": DataSpec(**dict(scratch.data) | other)})

    def taught(self, pretrained: bool, seed: int = 0) -> RunSpec:
        """The student with one of the two teachers (its first seed)."""
        return with_teacher(
            self.student(seed), self.teacher(pretrained, self.teacher_seeds[0]), self.temperature, self.kd_weight
        )

    def arms(self) -> dict[str, list[RunSpec]]:
        """Both teachers, the student alone and with each, by the names that the published table uses."""
        return {
            "teacher from scratch": [self.teacher(False, seed) for seed in self.teacher_seeds],
            "teacher pretrained": [self.teacher(True, seed) for seed in self.teacher_seeds],
            "student alone": [self.student(seed) for seed in self.seeds],
            "student of the teacher from scratch": [self.taught(False, seed) for seed in self.seeds],
            "student of the pretrained teacher": [self.taught(True, seed) for seed in self.seeds],
        }


_PROFILES = {
    "smoke": TeacherInit(DataSpec(name="cifar10", train_size=200, test_size=200, views=2, normalisation="half"), (0, 1), (0,), "resnet18", 2, 1),
    "quick": TeacherInit(DataSpec(name="cifar10", train_size=3000, test_size=2000, views=8, normalisation="half"), (0, 1), (0,), "resnet18", 10, 3),
    "overnight": TeacherInit(DataSpec(name="cifar10", views=8, normalisation="half"), (0, 1, 2), (0,), "resnet18", 10, 5),
    "paper": TeacherInit(DataSpec(name="cifar10", normalisation="half"), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4), "resnet101", 10, 10),
}  # fmt: skip


def teacher_init(
    profile: str = "quick",
    dataset: str = "auto",
    seeds: Sequence[int] | None = None,
    init: str = "auto",
    teacher_seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    kd_weight: float | None = None,
) -> TeacherInit:
    """Study C in a profile's sizes (smoke, quick, overnight, paper); the other parameters as in `assignment`.

    `init` says where the pretrained teacher's weights come from: "imagenet" (for ResNet101, where it has none, ResNet50
    stands in), "pretrain:cifar100" (also for "random": without ImageNet's weights), or "auto", the first that can be had.
    """
    study = fitted(_PROFILES, profile, dataset, seeds, teacher_seeds)
    network, init = _source(study.network, init)
    if init != "imagenet" and study.data.name != "synthetic":
        load_dataset("cifar100")  # complains before anything is run
    return replace(
        study,
        temperature=study.temperature if temperature is None else float(temperature),
        kd_weight=study.kd_weight if kd_weight is None else float(kd_weight),
        network=network,
        init=init,
    )


def _source(network: str, init: str) -> tuple[str, str]:
    """The network and the source of its pretrained weights, after what can be had here."""
    if init not in ("auto", "imagenet", "random", "pretrain:cifar100"):
        raise InputError(f"unknown init {init!r}: allowed are auto, imagenet, random, pretrain:cifar100")
    missing = None
    for name in (
        dict.fromkeys((network, "resnet50" if network == "resnet101" else network))
        if init in ("auto", "imagenet")
        else ()
    ):
        try:
            load_imagenet(build_model(name, 2), name)
            return name, "imagenet"
        except Unavailable as error:
            missing = error
    if init == "imagenet":
        raise missing
    return network, "pretrain:cifar100"
