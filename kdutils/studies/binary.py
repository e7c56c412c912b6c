"""Study B: a binarised WideResNet and distillation, CIFAR-10."""

from typing import ClassVar, Literal

from kdutils.specs import Bayesian, DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, Temperatures, Weights, taught

LABELS = {"full": "full precision", "stem": "stem binary", "xnor": "XNOR", "bonn": "BONN"}  # as arms name them
_SHORT = dict(seeds=(0, 1), teacher_seeds=(0,), network=ModelSpec(name="wrn_16_1"), learning_rate=0.1, widths=())


class Binary(Study):
    """Study B: WideResNets with 1-bit weights (phase 1), and what a ResNet18 teaches them and a reduced CNN (phase 2).

    Momentum, and one cycle that ends at zero, are ours where the document is silent. Its dropout stands before the
    classifier. Nothing is selected, so there are no validation images; test losses are shown, the last epoch counts.
    """

    IMAGENET: ClassVar = ("resnet18",)
    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=128, test_size=100, views=2), epochs=1, tuning_epochs=1, teacher_epochs=1)
        | _SHORT,
        "quick": dict(data=dict(train_size=2000, test_size=1000, views=8), epochs=5, tuning_epochs=2, teacher_epochs=3)
        | _SHORT,
        "overnight": dict(network=ModelSpec(name="wrn_22", options={"width": 16}), precisions=("full", "xnor", "bonn"))
        | dict(seeds=(0,), teacher_seeds=(0,), epochs=24, tuning_epochs=2, teacher_epochs=3, learning_rate=0.1)
        | dict(widths=(16,), wrn_22_epochs=24),
    }

    data: DataSpec = DataSpec(name="cifar10")
    network: ModelSpec = ModelSpec(name="wrn_16_7", options={"dropout": 0.5})  # of phase 1, but for its precision
    precisions: tuple[str, ...] = tuple(LABELS)
    epochs: int = 50
    tuning_epochs: int = 10  # of fine-tuning with the feature loss
    teacher_epochs: int = 50
    learning_rate: float = 0.01  # of what starts from random weights
    widths: tuple[int, ...] = (16, 64)  # of WRN-22, beyond the document
    wrn_22_epochs: int = 200
    temperatures: Temperatures = (2.0,)
    kd_weights: Weights = (0.5,)
    init: Literal["imagenet", "random"] = "imagenet"

    def _from_scratch(self, name: str, options: dict, epochs: int, seed: int) -> RunSpec:
        sgd = OptimiserSpec(name="sgd", learning_rate=self.learning_rate, momentum=0.9, weight_decay=5e-4)
        model, bayesian = ModelSpec(name=name, options=options), options.get("precision") == "bonn"
        spec = self._run(model, sgd.with_(schedule="one_cycle"), epochs=epochs, batch_size=64, seed=seed)
        return spec.with_(bayesian=Bayesian() if bayesian else None, test_curve=True)

    def wide_resnet(self, precision: str, seed: int = 0) -> RunSpec:
        """Phase 1: the WideResNet in full precision ("full"), or binary: "stem" (the document's), "xnor" or "bonn"."""
        return self._from_scratch(self.network.name, self.network.options | {"precision": precision}, self.epochs, seed)

    def teacher(self, seed: int = 0) -> RunSpec:
        """Phase 2's teacher: a ResNet18 from ImageNet's weights with a 3x3 stem, fine-tuned at learning rate 0.01."""
        spec = self._from_scratch("resnet18", {"stem": "cifar_pool"}, self.teacher_epochs, seed)
        return spec.with_(init=self.init, optimiser=spec.optimiser.with_(learning_rate=0.01))

    def _taught(self, students: list[RunSpec]) -> list[RunSpec]:
        return [taught(student, self.methods[0], self.teacher(self.teacher_seeds[0])) for student in students]

    def phase_one(self) -> dict[str, list[RunSpec]]:
        """The WideResNet in every precision of the profile."""
        arms = {f"WideResNet, {LABELS[precision]}": precision for precision in self.precisions}
        return {name: [self.wide_resnet(precision, seed) for seed in self.seeds] for name, precision in arms.items()}

    def fine_tuning(self) -> dict[str, list[RunSpec]]:
        """BONN's network, and gone on at a tenth of the learning rate without and with BONN's feature loss."""
        trained = [self.wide_resnet("bonn", seed) for seed in self.seeds]
        slow = trained[0].optimiser.with_(learning_rate=self.learning_rate / 10)
        arms = {"BONN, before": trained}
        for name, weight in (("BONN, fine-tuned without it", 0.0), ("BONN, fine-tuned with it", 1e-2)):
            changes = dict(optimiser=slow, epochs=self.tuning_epochs, bayesian=Bayesian(feature_weight=weight))
            arms[name] = [start.with_(init=start, **changes) for start in trained]
        return arms

    def phase_two(self) -> dict[str, list[RunSpec]]:
        """The teacher, and its students alone and distilled."""
        arms = {"ResNet18": [self.teacher(seed) for seed in self.teacher_seeds]}
        students = {"reduced CNN": [self._from_scratch("reduced_cnn", {}, self.epochs, seed) for seed in self.seeds]}
        students |= {name: specs for name, specs in self.phase_one().items() if name.endswith(("XNOR", "BONN"))}
        for name, specs in students.items():
            arms |= {name: specs, f"{name}, distilled": self._taught(specs)}
        return arms

    def beyond(self) -> dict[str, list[RunSpec]]:
        """BONN's WRN-22 in the profile's widths, in full precision and binary; the widest BONN also distilled."""
        arms = {}
        for width in self.widths:
            for precision in ("full", "xnor", "bonn"):
                options = {"width": width, "precision": precision}
                specs = [self._from_scratch("wrn_22", options, self.wrn_22_epochs, seed) for seed in self.seeds]
                arms[f"WRN-22 ({width}-{width}-{2 * width}-{4 * width}), {LABELS[precision]}"] = specs
        if widest := arms.get("WRN-22 (64-64-128-256), BONN"):
            arms["WRN-22 (64-64-128-256), BONN, distilled"] = self._taught(widest)
        return arms
