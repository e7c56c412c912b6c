"""Study D: ResNet32x4 into a four-layer CNN, CIFAR-100, with a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdutils.data.views import VIEWS
from kdutils.errors import InputError
from kdutils.networks.registry import build_model
from kdutils.networks.weights import load_weights_file
from kdutils.report.statistics import best_cell
from kdutils.runs.run import run_all
from kdutils.specs import DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, fitted, with_teacher

_DOCUMENT = OptimiserSpec(
    name="sgd", learning_rate=0.05, momentum=0.9, weight_decay=5e-4, schedule="step", milestones=(150, 180, 210)
)


_SHORT = OptimiserSpec(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule="one_cycle")


@dataclass(frozen=True)
class Cifar100(Study):
    """Study D: a ResNet32x4 teaches a four-layer CNN on CIFAR-100; kd_weight and temperature come from a grid.

    The student's optimiser and the grid are the document's: SGD at 0.1 without momentum, times 0.2 after 30, 60 and 90
    hundredths of the epochs. Its teacher was downloaded; ours is trained, or read from `teacher_file`. The document has no
    validation images; here every run, the teacher's too, leaves 5,000 of the 50,000 out, and the grid is judged by them.
    A teacher trains on all 162 views, whatever its students see.
    """

    data: DataSpec
    seeds: tuple[int, ...]
    teacher_seeds: tuple[int, ...]
    network: str  # of the teacher
    teacher_epochs: int
    epochs: int
    temperatures: tuple[float, ...]
    kd_weights: tuple[float, ...]
    teacher_optimiser: OptimiserSpec = _SHORT
    teacher_batch: int = 128
    batch_size: int = 128  # of the student
    beyond_epochs: int = 0  # of ResNet8x4 as the literature's student; 0: not run
    teacher_file: str | None = None
    init: str = "random"
    profile: str = "quick"

    @property
    def _remark(self) -> str:
        if self.teacher_file:
            return f" The teacher is {self.network} from {Path(self.teacher_file).name}; nothing is known here of the images it has seen."
        stand_in = "" if self.network == "resnet32x4" else ", which stands in for ResNet32x4"
        batch = "" if self.batch_size == 128 else f" with batches of {self.batch_size}"
        students = (
            ""
            if self.epochs == 100
            else f"; students train {self.epochs} epochs{batch}, 100 in the document{' with batches of 128' * bool(batch)}"
        )
        return f" The teacher is {self.network}{stand_in}, {self.teacher_epochs} epoch{'s' * (self.teacher_epochs > 1)} in all {VIEWS} views{students}."

    def student(self, seed: int = 0) -> RunSpec:
        """The four-layer CNN alone."""
        milestones = tuple(round(share * self.epochs) for share in (0.3, 0.6, 0.9))
        return RunSpec(
            data=self.data,
            model=ModelSpec(name="cnn4"),
            optimiser=OptimiserSpec(
                name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="step", milestones=milestones, factor=0.2
            ),
            epochs=self.epochs,
            batch_size=self.batch_size,
            seed=seed,
        )

    def teacher(self, seed: int = 0) -> RunSpec:
        """The teacher, trained by the profile's schedule; or from a file, as it is there."""
        return RunSpec(
            data=DataSpec(**dict(self.data) | {"views": VIEWS}),
            model=ModelSpec(name=self.network),
            init=f"file:{self.teacher_file}" if self.teacher_file else "random",
            optimiser=self.teacher_optimiser,
            epochs=0 if self.teacher_file else self.teacher_epochs,
            batch_size=self.teacher_batch,
            seed=seed,
        )

    def taught(self, temperature: float, kd_weight: float, seed: int = 0) -> RunSpec:
        """The student with the first teacher; with a kd_weight of 0 it is the student alone, at every temperature."""
        student = self.student(seed)
        return (
            with_teacher(student, self.teacher(self.teacher_seeds[0]), temperature, kd_weight) if kd_weight else student
        )

    def grid(self) -> list[RunSpec]:
        """Every kd_weight with every temperature, with the first seed; cells that coincide are one run."""
        cells = [
            self.taught(temperature, kd_weight, self.seeds[0])
            for temperature in self.temperatures
            for kd_weight in self.kd_weights
        ]
        return list({spec.key: spec for spec in cells}.values())

    def choose(self) -> tuple[float, float]:
        """Temperature and kd_weight of the grid's best distilled run on validation; runs what of the grid is not recorded."""
        chosen = best_cell(
            [record for record in run_all(self.grid()) if record.spec.distillation]
        ).spec.distillation.method
        return chosen.temperature, chosen.kd_weight

    def arms(self) -> dict[str, list[RunSpec]]:
        """The teacher, the student alone, and in the grid's chosen cell, by the names that the published table uses."""
        cell = self.choose()
        return {
            "teacher": [self.teacher(seed) for seed in self.teacher_seeds],
            "student alone": [self.student(seed) for seed in self.seeds],
            "distilled student": [self.taught(*cell, seed) for seed in self.seeds],
        }

    def beyond(self) -> dict[str, list[RunSpec]]:
        """ResNet8x4 alone and with the same teacher, by the literature's schedule, at T = 4 and kd_weight 0.9."""
        if not self.beyond_epochs:
            return {}
        alone = [
            RunSpec(
                **dict(self.teacher(seed))
                | {
                    "data": self.data,
                    "model": ModelSpec(name="resnet8x4"),
                    "init": "random",
                    "epochs": self.beyond_epochs,
                }
            )
            for seed in self.seeds
        ]
        teacher = self.teacher(self.teacher_seeds[0])
        return {"ResNet8x4 alone": alone, "ResNet8x4, KD": [with_teacher(spec, teacher, 4.0, 0.9) for spec in alone]}


def _data(**sizes) -> DataSpec:
    return DataSpec(name="cifar100", normalisation="cifar100", **sizes)


_PROFILES = {
    "smoke": Cifar100(_data(train_size=200, val_size=100, test_size=200, views=2), (0, 1), (0,), "resnet8x4", 1, 2, (1.0, 4.0), (0.0, 0.5)),
    "quick": Cifar100(_data(train_size=5000, val_size=1000, test_size=2000, views=8), (0, 1), (0,), "resnet8x4", 4, 10, (2.0, 4.0), (0.0, 0.5, 0.75), batch_size=32),
    "overnight": Cifar100(_data(val_size=5000, views=8), (0, 1, 2), (0,), "resnet8x4", 12, 20, (2.0, 4.0), (0.0, 0.5, 0.75)),
    "paper": Cifar100(
        _data(val_size=5000), (0, 1, 2, 3, 4), (0,), "resnet32x4", 240, 100, (1.0, 2.0, 4.0, 8.0), (0.0, 0.25, 0.5, 0.75),
        teacher_optimiser=_DOCUMENT, teacher_batch=64, beyond_epochs=240,
    ),
}  # fmt: skip


def cifar100(
    profile: str = "quick",
    dataset: str = "auto",
    seeds: Sequence[int] | None = None,
    teacher_file: str | None = None,
    teacher_seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    kd_weight: float | None = None,
) -> Cifar100:
    """Study D in a profile's sizes (smoke, quick, overnight, paper); the other parameters as in `assignment`.

    A given temperature or kd_weight takes the place of the grid's; the student alone stays in it. `teacher_file` is the
    state dict of a public ResNet32x4 (`kdutils.models.load_weights_file`), which then teaches as it is.
    """
    if kd_weight == 0:
        raise InputError(
            "kd_weight: 0 is the student alone, which this study runs anyway: give a weight above 0 and at most 1"
        )
    study = fitted(_PROFILES, profile, dataset, seeds, teacher_seeds)
    if teacher_file:
        study = replace(
            study,
            teacher_file=str(Path(teacher_file).expanduser().absolute()),
            network="resnet32x4",
            teacher_seeds=study.teacher_seeds[:1],
        )
        load_weights_file(
            build_model(study.network, study.data.num_classes), Path(study.teacher_file)
        )  # complains before anything is run
    return replace(
        study,
        temperatures=study.temperatures if temperature is None else (float(temperature),),
        kd_weights=study.kd_weights if kd_weight is None else (0.0, float(kd_weight)),
    )
