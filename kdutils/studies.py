"""The studies as data: functions that return RunSpecs. Reading one tells its protocol without reading the trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from kdutils.analysis import best_cell
from kdutils.data import load_dataset, resolve_dataset
from kdutils.models import resolve_init
from kdutils.runs import run_all
from kdutils.specs import VIEWS, Bayesian, DataSpec, Distillation, InputError, ModelSpec, OptimiserSpec, RunSpec

PROFILES = ("smoke", "quick", "overnight", "paper")


class _Study:
    """What all studies share: data, seeds, init and profile, and how their captions put it."""

    @property
    def setting(self) -> str:
        """For captions: what these numbers hold for, in a sentence or two."""
        dataset, spec = load_dataset(self.data.name), self.data
        train = spec.train_size or len(dataset.train_labels) - spec.val_size
        test = min(spec.test_size or len(dataset.test_labels), len(dataset.test_labels))
        validation = f", {spec.val_size:,} validation" if spec.val_size else ""
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        start = "" if self.init == "imagenet" else " The ResNets start from random weights, for want of ImageNet's."
        title = dataset.title[0].upper() + dataset.title[1:]
        return f"{title}: {train:,} training{validation} and {test:,} test images, {spec.views} of {VIEWS} views, {seeds}; profile {self.profile}.{start}{self._remark}"

    _remark = ""


@dataclass(frozen=True)
class Assignment(_Study):
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
            temperature=float(temperature),
            kd_weight=float(kd_weight),
            average=average,
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
        chosen = best_cell(run_all(self.grid(teachers, average))).spec.distillation
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
            "distilled from both, probabilities averaged": [self.student(both, *two, seed, "probabilities") for seed in self.seeds],
        }

    def policies(self) -> list[RunSpec]:
        """What may train in a ResNet18, side by side, under ImageNet's stem and under the 3x3 stem."""
        choices = (("imagenet", "head"), ("imagenet", "all"), ("cifar_pool", "last_block"), ("cifar_pool", "layer3_up"), ("cifar_pool", "all"))
        return [self.resnet("resnet18", self.teacher_seeds[0], stem, trainable) for stem, trainable in choices]


_ASSIGNMENT = {
    "smoke": Assignment(DataSpec(name="cifar10", train_size=200, val_size=100, test_size=200, views=2), (0, 1), (0,), 2, 1, (4.0,), (0.5, 0.9)),
    "quick": Assignment(DataSpec(name="cifar10", train_size=4000, val_size=1000, test_size=2000, views=8), (0, 1, 2), (0,), 20, 4, (2.0, 4.0), (0.5, 0.9)),
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
    study = _fitted(_ASSIGNMENT, profile, dataset, seeds, teacher_seeds)
    return replace(
        study,
        temperatures=study.temperatures if temperature is None else (float(temperature),),
        kd_weights=study.kd_weights if kd_weight is None else (float(kd_weight),),
        init=resolve_init(init) if init == "auto" else init,
    )


@dataclass(frozen=True)
class Binarised(_Study):
    """Study B: WideResNets with 1-bit weights on CIFAR-10 (phase 1), and what a ResNet18 teaches them and a reduced CNN
    (phase 2).

    SGD, weight decay, batch, temperature and kd_weight are the document's. It is silent about momentum and schedule:
    0.9, and one cycle that ends at zero, are ours. Its dropout stands before the classifier. Nothing is selected here, so
    there are no validation images; as its figures show test losses, the test set is evaluated after every epoch.
    """

    data: DataSpec
    seeds: tuple[int, ...]
    teacher_seeds: tuple[int, ...]
    network: ModelSpec  # of phase 1, but for its precision
    epochs: int
    tuning_epochs: int  # of fine-tuning with the feature loss
    teacher_epochs: int
    learning_rate: float  # of what starts from random weights; 0.01 in the document
    precisions: tuple[str, ...] = ("full", "stem", "xnor", "bonn")
    widths: tuple[int, ...] = ()  # of WRN-22, beyond the document
    wrn_22_epochs: int = 0
    temperature: float = 2.0
    kd_weight: float = 0.5
    init: str = "imagenet"
    profile: str = "quick"

    @property
    def _remark(self) -> str:
        wide = "" if self.network.name == "wrn_16_7" else f" {LABELS[self.network.name]} stands in for WRN-16-7."
        rate = "" if self.learning_rate == 0.01 else f" Learning rate {self.learning_rate:g} for the short schedule, 0.01 in the document."
        return wide + rate

    def wide_resnet(self, precision: str, seed: int = 0) -> RunSpec:
        """Phase 1: the WideResNet in full precision ("full"), or binary: "stem" (the document's), "xnor" or "bonn"."""
        return self._from_scratch(self.network.name, self.network.options | {"precision": precision}, seed, self.epochs)

    def fine_tuned(self, feature_weight: float, seed: int = 0) -> RunSpec:
        """The trained BONN network goes on at a tenth of the learning rate, with BONN's feature loss or (0) without."""
        start = self.wide_resnet("bonn", seed)
        optimiser = OptimiserSpec(**dict(start.optimiser) | {"learning_rate": self.learning_rate / 10})
        return RunSpec(**dict(start) | {"init": start, "optimiser": optimiser, "epochs": self.tuning_epochs, "bayesian": Bayesian(feature_weight=feature_weight)})

    def reduced_cnn(self, seed: int = 0) -> RunSpec:
        """Phase 2's student, alone."""
        return self._from_scratch("reduced_cnn", {}, seed, self.epochs)

    def teacher(self, seed: int = 0) -> RunSpec:
        """Phase 2's teacher: a ResNet18 from ImageNet's weights with a 3x3 stem, fine-tuned at learning rate 0.01."""
        spec = self._from_scratch("resnet18", {"stem": "cifar_pool"}, seed, self.teacher_epochs)
        optimiser = OptimiserSpec(**dict(spec.optimiser) | {"learning_rate": 0.01})
        return RunSpec(**dict(spec) | {"init": self.init, "optimiser": optimiser})

    def taught(self, student: RunSpec) -> RunSpec:
        """`student` with the first teacher; alone and taught, runs of one seed differ in nothing but their loss."""
        taught = Distillation(teachers=(self.teacher(self.teacher_seeds[0]),), temperature=self.temperature, kd_weight=self.kd_weight)
        return RunSpec(**dict(student) | {"distillation": taught})

    def wrn_22(self, width: int, precision: str, seed: int = 0) -> RunSpec:
        """BONN's own network in stages (width, width, 2 width, 4 width), beyond the document."""
        return self._from_scratch("wrn_22", {"width": width, "precision": precision}, seed, self.wrn_22_epochs)

    def _from_scratch(self, name: str, options: dict, seed: int, epochs: int) -> RunSpec:
        return RunSpec(
            data=self.data,
            model=ModelSpec(name=name, options=options),
            optimiser=OptimiserSpec(name="sgd", learning_rate=self.learning_rate, momentum=0.9, weight_decay=5e-4, schedule="one_cycle"),
            epochs=epochs,
            batch_size=64,
            seed=seed,
            bayesian=Bayesian() if options.get("precision") == "bonn" else None,
            test_curve=True,
        )

    def phase_one(self) -> dict[str, list[RunSpec]]:
        """The WideResNet in every precision of the profile."""
        return {f"WideResNet, {LABELS[precision]}": [self.wide_resnet(precision, seed) for seed in self.seeds] for precision in self.precisions}

    def fine_tuning(self) -> dict[str, list[RunSpec]]:
        """BONN's network, and gone on for some epochs without and with the feature loss."""
        arms = {"BONN, fine-tuned without it": 0.0, "BONN, fine-tuned with it": 1e-2}
        tuned = {name: [self.fine_tuned(weight, seed) for seed in self.seeds] for name, weight in arms.items()}
        return {"BONN, before": [self.wide_resnet("bonn", seed) for seed in self.seeds]} | tuned

    def phase_two(self) -> dict[str, list[RunSpec]]:
        """The teacher, and its students alone and distilled."""
        students = {"reduced CNN": self.reduced_cnn}
        students |= {f"WideResNet, {LABELS[p]}": partial(self.wide_resnet, p) for p in ("xnor", "bonn") if p in self.precisions}
        arms = {"ResNet18": [self.teacher(seed) for seed in self.teacher_seeds]}
        for name, student in students.items():
            arms[name] = [student(seed) for seed in self.seeds]
            arms[f"{name}, distilled"] = [self.taught(spec) for spec in arms[name]]
        return arms

    def beyond(self) -> dict[str, list[RunSpec]]:
        """BONN's WRN-22 in the profile's widths, in full precision and binary; the widest BONN also distilled."""
        arms = {
            f"WRN-22 ({width}-{width}-{2 * width}-{4 * width}), {LABELS[precision]}": [self.wrn_22(width, precision, seed) for seed in self.seeds]
            for width in self.widths
            for precision in ("full", "xnor", "bonn")
        }
        if 64 in self.widths:
            arms["WRN-22 (64-64-128-256), BONN, distilled"] = [self.taught(self.wrn_22(64, "bonn", seed)) for seed in self.seeds]
        return arms


LABELS = {"full": "full precision", "stem": "stem binary", "xnor": "XNOR", "bonn": "BONN", "wrn_16_1": "WRN-16-1", "wrn_22": "WRN-22 (16-16-32-64)"}

_BINARISED = {
    "smoke": Binarised(DataSpec(name="cifar10", train_size=128, test_size=100, views=2), (0, 1), (0,), ModelSpec(name="wrn_16_1"), 1, 1, 1, 0.1),
    "quick": Binarised(DataSpec(name="cifar10", train_size=2000, test_size=1000, views=8), (0, 1), (0,), ModelSpec(name="wrn_16_1"), 5, 2, 3, 0.1),
    "overnight": Binarised(
        DataSpec(name="cifar10"), (0,), (0,), ModelSpec(name="wrn_22", options={"width": 16}), 24, 2, 3, 0.1,
        precisions=("full", "xnor", "bonn"), widths=(16,), wrn_22_epochs=24,
    ),
    "paper": Binarised(
        DataSpec(name="cifar10"), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4), ModelSpec(name="wrn_16_7", options={"dropout": 0.5}), 50, 10, 50, 0.01,
        widths=(16, 64), wrn_22_epochs=200,
    ),
}  # fmt: skip


def binarised(
    profile: str = "quick",
    dataset: str = "auto",
    seeds: Sequence[int] | None = None,
    init: str = "imagenet",
    teacher_seeds: Sequence[int] | None = None,
    temperature: float | None = None,
    kd_weight: float | None = None,
) -> Binarised:
    """Study B in a profile's sizes (smoke, quick, overnight, paper); the other parameters as in `assignment`."""
    study = _fitted(_BINARISED, profile, dataset, seeds, teacher_seeds)
    return replace(
        study,
        temperature=study.temperature if temperature is None else float(temperature),
        kd_weight=study.kd_weight if kd_weight is None else float(kd_weight),
        init=resolve_init(init, ("resnet18",)) if init == "auto" else init,
    )


def _fitted(profiles: dict, profile: str, dataset: str, seeds: Sequence[int] | None, teacher_seeds: Sequence[int] | None):
    """The profile's study on a data set, with other seeds if given."""
    if profile not in profiles:
        raise InputError(f"unknown profile {profile!r}: allowed are {', '.join(PROFILES)}")
    study = profiles[profile]
    data = DataSpec(**dict(study.data) | {"name": resolve_dataset(dataset)})
    return replace(study, data=data, seeds=_distinct(seeds) or study.seeds, teacher_seeds=_distinct(teacher_seeds) or study.teacher_seeds, profile=profile)


def _distinct(seeds: Sequence[int] | None) -> tuple[int, ...]:
    seeds = tuple(seeds or ())
    if len(set(seeds)) != len(seeds):
        raise InputError(f"seeds must differ from each other, got {', '.join(map(str, seeds))}")
    return seeds
