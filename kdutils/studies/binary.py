"""Study B: a binarised WideResNet and distillation, CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from kdutils.networks.weights import resolve_init
from kdutils.specs import Bayesian, DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, fitted, with_teacher


@dataclass(frozen=True)
class Binarised(Study):
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
        rate = (
            ""
            if self.learning_rate == 0.01
            else f" Learning rate {self.learning_rate:g} for the short schedule, 0.01 in the document."
        )
        return super()._remark + wide + rate

    def wide_resnet(self, precision: str, seed: int = 0) -> RunSpec:
        """Phase 1: the WideResNet in full precision ("full"), or binary: "stem" (the document's), "xnor" or "bonn"."""
        return self._from_scratch(self.network.name, self.network.options | {"precision": precision}, seed, self.epochs)

    def fine_tuned(self, feature_weight: float, seed: int = 0) -> RunSpec:
        """The trained BONN network goes on at a tenth of the learning rate, with BONN's feature loss or (0) without."""
        start = self.wide_resnet("bonn", seed)
        optimiser = OptimiserSpec(**dict(start.optimiser) | {"learning_rate": self.learning_rate / 10})
        return RunSpec(
            **dict(start)
            | {
                "init": start,
                "optimiser": optimiser,
                "epochs": self.tuning_epochs,
                "bayesian": Bayesian(feature_weight=feature_weight),
            }
        )

    def reduced_cnn(self, seed: int = 0) -> RunSpec:
        """Phase 2's student, alone."""
        return self._from_scratch("reduced_cnn", {}, seed, self.epochs)

    def teacher(self, seed: int = 0) -> RunSpec:
        """Phase 2's teacher: a ResNet18 from ImageNet's weights with a 3x3 stem, fine-tuned at learning rate 0.01."""
        spec = self._from_scratch("resnet18", {"stem": "cifar_pool"}, seed, self.teacher_epochs)
        optimiser = OptimiserSpec(**dict(spec.optimiser) | {"learning_rate": 0.01})
        return RunSpec(**dict(spec) | {"init": self.init, "optimiser": optimiser})

    def taught(self, student: RunSpec) -> RunSpec:
        """`student` with the first teacher."""
        return with_teacher(student, self.teacher(self.teacher_seeds[0]), self.temperature, self.kd_weight)

    def wrn_22(self, width: int, precision: str, seed: int = 0) -> RunSpec:
        """BONN's own network in stages (width, width, 2 width, 4 width), beyond the document."""
        return self._from_scratch("wrn_22", {"width": width, "precision": precision}, seed, self.wrn_22_epochs)

    def _from_scratch(self, name: str, options: dict, seed: int, epochs: int) -> RunSpec:
        return RunSpec(
            data=self.data,
            model=ModelSpec(name=name, options=options),
            optimiser=OptimiserSpec(
                name="sgd", learning_rate=self.learning_rate, momentum=0.9, weight_decay=5e-4, schedule="one_cycle"
            ),
            epochs=epochs,
            batch_size=64,
            seed=seed,
            bayesian=Bayesian() if options.get("precision") == "bonn" else None,
            test_curve=True,
        )

    def phase_one(self) -> dict[str, list[RunSpec]]:
        """The WideResNet in every precision of the profile."""
        return {
            f"WideResNet, {LABELS[precision]}": [self.wide_resnet(precision, seed) for seed in self.seeds]
            for precision in self.precisions
        }

    def fine_tuning(self) -> dict[str, list[RunSpec]]:
        """BONN's network, and gone on for some epochs without and with the feature loss."""
        arms = {"BONN, fine-tuned without it": 0.0, "BONN, fine-tuned with it": 1e-2}
        tuned = {name: [self.fine_tuned(weight, seed) for seed in self.seeds] for name, weight in arms.items()}
        return {"BONN, before": [self.wide_resnet("bonn", seed) for seed in self.seeds]} | tuned

    def phase_two(self) -> dict[str, list[RunSpec]]:
        """The teacher, and its students alone and distilled."""
        students = {"reduced CNN": self.reduced_cnn}
        students |= {
            f"WideResNet, {LABELS[p]}": partial(self.wide_resnet, p) for p in ("xnor", "bonn") if p in self.precisions
        }
        arms = {"ResNet18": [self.teacher(seed) for seed in self.teacher_seeds]}
        for name, student in students.items():
            arms[name] = [student(seed) for seed in self.seeds]
            arms[f"{name}, distilled"] = [self.taught(spec) for spec in arms[name]]
        return arms

    def beyond(self) -> dict[str, list[RunSpec]]:
        """BONN's WRN-22 in the profile's widths, in full precision and binary; the widest BONN also distilled."""
        arms = {
            f"WRN-22 ({width}-{width}-{2 * width}-{4 * width}), {LABELS[precision]}": [
                self.wrn_22(width, precision, seed) for seed in self.seeds
            ]
            for width in self.widths
            for precision in ("full", "xnor", "bonn")
        }
        if 64 in self.widths:
            arms["WRN-22 (64-64-128-256), BONN, distilled"] = [
                self.taught(self.wrn_22(64, "bonn", seed)) for seed in self.seeds
            ]
        return arms


LABELS = {
    "full": "full precision",
    "stem": "stem binary",
    "xnor": "XNOR",
    "bonn": "BONN",
    "wrn_16_1": "WRN-16-1",
    "wrn_22": "WRN-22 (16-16-32-64)",
}


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
    study = fitted(_BINARISED, profile, dataset, seeds, teacher_seeds)
    return replace(
        study,
        temperature=study.temperature if temperature is None else float(temperature),
        kd_weight=study.kd_weight if kd_weight is None else float(kd_weight),
        init=init if init in ("imagenet", "random") else resolve_init(init, ("resnet18",)),
    )
