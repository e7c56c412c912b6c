"""Study A: four classifiers on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdutils.networks.weights import resolve_init
from kdutils.report.statistics import best_cell
from kdutils.runs.run import run_all
from kdutils.distillation.methods import KD
from kdutils.specs import DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, fitted


@dataclass(frozen=True)
class Assignment(Study):
    """Study A: four classifiers on CIFAR-10. A profile sets these sizes; the code paths are the same for all."""

    data: DataSpec
    seeds: tuple[int, ...]
    teacher_seeds: tuple[int, ...]
    epochs: int  # of the small CNN, alone and distilled
    resnet_epochs: int
    temperatures: tuple[float, ...]  # the grid, searched on validation
    kd_weights: tuple[float, ...]
    init: str = "imagenet"
    profile: str = "quick"

    def small_cnn(self, seed: int = 0) -> RunSpec:
        """Task 1: the small CNN alone. Adam and 1e-3 are our choice, the document names no optimiser."""
        return RunSpec(
            data=self.data,
            model=ModelSpec(name="small_cnn"),
            optimiser=OptimiserSpec(name="adam", learning_rate=1e-3),
            epochs=self.epochs,
            batch_size=32,
            seed=seed,
        )

    def resnet(self, name: str, seed: int = 0, stem: str = "cifar_pool", trainable: str = "all") -> RunSpec:
        """Task 2: an ImageNet ResNet (resnet18 or resnet50), fine-tuned."""
        return RunSpec(
            data=self.data,
            model=ModelSpec(name=name, options={"stem": stem}),
            init=self.init,
            trainable=trainable,
            optimiser=OptimiserSpec(name="adam", learning_rate=1e-4),
            epochs=self.resnet_epochs,
            batch_size=32,
            seed=seed,
        )

    def student(
        self, teachers: tuple[str, ...], temperature: float, kd_weight: float, seed: int = 0, average: str = "logits"
    ) -> RunSpec:
        """Tasks 3 and 4: the small CNN of Task 1, taught by the fine-tuned ResNets `teachers` (their first seed)."""
        taught = Distillation(
            teachers=tuple(self.resnet(name, self.teacher_seeds[0]) for name in teachers),
            method=KD(temperature=temperature, kd_weight=kd_weight, average=average),
        )
        return RunSpec(**dict(self.small_cnn(seed)) | {"distillation": taught})

    def grid(self, teachers: tuple[str, ...], average: str = "logits") -> list[RunSpec]:
        """Every temperature with every kd_weight, with the first seed; the best is chosen on validation."""
        return [
            self.student(teachers, temperature, kd_weight, self.seeds[0], average)
            for temperature in self.temperatures
            for kd_weight in self.kd_weights
        ]

    def choose(self, teachers: tuple[str, ...], average: str = "logits") -> tuple[float, float]:
        """Temperature and kd_weight of the grid's best run on validation; runs what of the grid is not recorded."""
        chosen = best_cell(run_all(self.grid(teachers, average))).spec.distillation.method
        return chosen.temperature, chosen.kd_weight

    def classifiers(self) -> dict[str, list[RunSpec]]:
        """All classifiers of the study, by the names that the published table uses; chooses the distilled ones' cells."""
        one, two = self.choose(("resnet50",)), self.choose(("resnet18", "resnet50"))
        both = ("resnet18", "resnet50")
        return {
            "small CNN": [self.small_cnn(seed) for seed in self.seeds],
            "ResNet18": [self.resnet("resnet18", seed) for seed in self.teacher_seeds],
            "ResNet50": [self.resnet("resnet50", seed) for seed in self.teacher_seeds],
            "distilled from ResNet50": [self.student(("resnet50",), *one, seed) for seed in self.seeds],
            "distilled from ResNet18": [self.student(("resnet18",), *one, seed) for seed in self.seeds],
            "distilled from both, logits averaged": [self.student(both, *two, seed) for seed in self.seeds],
            "distilled from both, probabilities averaged": [
                self.student(both, *two, seed, "probabilities") for seed in self.seeds
            ],
        }

    def policies(self) -> list[RunSpec]:
        """What may train in a ResNet18, side by side, under ImageNet's stem and under the 3x3 stem."""
        choices = (
            ("imagenet", "head"),
            ("imagenet", "all"),
            ("cifar_pool", "last_block"),
            ("cifar_pool", "layer3_up"),
            ("cifar_pool", "all"),
        )
        return [self.resnet("resnet18", self.teacher_seeds[0], stem, trainable) for stem, trainable in choices]


_ASSIGNMENT = {
    "smoke": Assignment(DataSpec(name="cifar10", train_size=200, val_size=100, test_size=200, views=2), (0, 1), (0,), 2, 1, (4.0,), (0.5, 0.9)),
    "quick": Assignment(DataSpec(name="cifar10", train_size=3000, val_size=1000, test_size=2000, views=8), (0, 1, 2), (0,), 20, 3, (2.0, 4.0), (0.5, 0.9)),
    "overnight": Assignment(DataSpec(name="cifar10", train_size=9000, val_size=1000), (0, 1, 2), (0,), 30, 20, (2.0, 4.0, 8.0), (0.3, 0.5, 0.7, 0.9)),
    "paper": Assignment(DataSpec(name="cifar10", train_size=9000, val_size=1000), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4), 30, 20, (2.0, 4.0, 8.0), (0.3, 0.5, 0.7, 0.9)),
}  # fmt: skip


def assignment(
    profile: str = "quick",
    dataset: str = "auto",
    seeds: Sequence[int] | None = None,
    init: str = "imagenet",
    teacher_seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    kd_weight: float | None = None,
) -> Assignment:
    """Study A in a profile's sizes (smoke, quick, overnight, paper), on a data set, with other seeds if given.

    A given temperature or kd_weight takes the place of the grid's. `dataset` and `init` may be "auto": see `kdutils.data.resolve_dataset` and `kdutils.models.resolve_init`.
    """
    study = fitted(_ASSIGNMENT, profile, dataset, seeds, teacher_seeds)
    return replace(
        study,
        temperatures=study.temperatures if temperature is None else (float(temperature),),
        kd_weights=study.kd_weights if kd_weight is None else (float(kd_weight),),
        init=init if init in ("imagenet", "random") else resolve_init(init),
    )
