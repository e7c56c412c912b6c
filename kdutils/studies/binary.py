"""Study B: a binarised WideResNet and distillation, CIFAR-10."""

from typing import ClassVar

from kdutils.networks.wide import Precision
from kdutils.specs import Bayesian, Count, DataSpec, ModelSpec, RunSpec
from kdutils.studies.base import ONE_CYCLE, SGD_CYCLE, Study, Training, Weights, taught
from kdutils.values import Temperatures

LABELS = {"full": "full precision", "stem": "stem binary", "xnor": "XNOR", "bonn": "BONN"}  # as arms name them
_SGD = SGD_CYCLE.with_(learning_rate=0.01)
_ADAM = ONE_CYCLE.with_(learning_rate=1e-2)  # latent weights do not decay
_SHORT = dict(seeds=(0, 1), teacher_seeds=(0,), network=ModelSpec(name="wrn_10_1"), widths=(), frozen=True)


class Binary(Study):
    """Study B: WideResNets with 1-bit weights (phase 1), and what a ResNet18 teaches them and a reduced CNN (phase 2).

    Where the document is silent, momentum and a cycle that ends at zero are ours. Its dropout comes before the
    classifier. Only BONN's lambda is compared on validation images; test losses are shown, the last epoch counts.
    """

    imagenet_networks: ClassVar = ("resnet18",)
    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=64, val_size=30, test_size=60, views=2), tuning_epochs=1)
        | dict(wide=Training(optimiser=_ADAM, epochs=1), cnn=Training(optimiser=ONE_CYCLE, epochs=1))
        | dict(head=Training(optimiser=ONE_CYCLE, epochs=2), tuning=Training(optimiser=ONE_CYCLE, epochs=1))
        | dict(kernel_weights=(1e-6, 1e-4))
        | _SHORT,
        "quick": dict(data=dict(train_size=3000, val_size=1000, test_size=2000, views=8), tuning_epochs=2)
        | dict(wide=Training(optimiser=_ADAM, epochs=10, batch_size=64), kernel_weights=(1e-6, 1e-4))
        | dict(cnn=Training(optimiser=ONE_CYCLE, epochs=10, batch_size=64))
        | dict(tuning=Training(optimiser=ONE_CYCLE, epochs=6, batch_size=64))
        | _SHORT
        | dict(seeds=(0, 1, 2)),
        "overnight": dict(network=ModelSpec(name="wrn_22", options={"width": 16}), precisions=("full", "xnor", "bonn"))
        | dict(seeds=(0, 1), teacher_seeds=(0,), wide=Training(optimiser=_ADAM, epochs=24, batch_size=128))
        | dict(cnn=Training(optimiser=ONE_CYCLE, epochs=50, batch_size=64), widths=(16,), tuning_epochs=2)
        | dict(wrn_22=Training(optimiser=_ADAM, epochs=24, batch_size=128), lambda_images=5000, lambda_epochs=8)
        | dict(tuning=Training(optimiser=SGD_CYCLE.with_(learning_rate=0.02), epochs=8, batch_size=64)),
    }

    data: DataSpec = DataSpec(name="cifar10")
    network: ModelSpec = ModelSpec(name="wrn_16_7", options={"dropout": 0.5})  # of phase 1, without its precision
    precisions: tuple[Precision, ...] = tuple(LABELS)
    wide: Training = Training(optimiser=_SGD, epochs=50, batch_size=64)
    tuning_epochs: Count = 10  # of fine-tuning with the feature loss
    kernel_weight: float = 1e-6  # BONN's lambda, for a loss that is summed over all entries
    kernel_weights: tuple[float, ...] = (0.0, 1e-6, 1e-5, 1e-4)  # compared on validation; the last is the paper's
    lambda_images: Count | None = None  # training images of the runs that compare lambda; None: all
    lambda_epochs: Count | None = None  # epochs of these runs; None: as many as elsewhere
    cnn: Training = Training(optimiser=_SGD, epochs=50, batch_size=64)
    tuning: Training = Training(optimiser=_SGD, epochs=50, batch_size=64)
    widths: tuple[int, ...] = (16, 64)  # of WRN-22, beyond the document
    wrn_22: Training = Training(optimiser=_SGD, epochs=200, batch_size=64)
    temperatures: Temperatures = (2.0,)
    kd_weights: Weights = (0.5,)

    @property
    def trainings(self) -> dict[str, Training]:
        teacher = {"head on a frozen ResNet18": self.head} if self.has_frozen_teacher else {"ResNet18": self.tuning}
        return {"WideResNets": self.wide, "reduced CNNs": self.cnn} | teacher

    def _wide(self, model: ModelSpec, precision: str, training: Training, seed: int) -> RunSpec:
        model = model.with_(options=model.options | {"precision": precision})
        bayesian = Bayesian(kernel_weight=self.kernel_weight) if precision == "bonn" else None
        return self._run(model, training, seed, bayesian=bayesian, test_curve=True)

    def wide_resnet(self, precision: str, seed: int = 0) -> RunSpec:
        """Phase 1: the WideResNet in full precision ("full"), or binary: "stem" (the document's), "xnor" or "bonn"."""
        return self._wide(self.network, precision, self.wide, seed)

    def reduced_cnn(self, seed: int = 0) -> RunSpec:
        """Phase 2's student: the reduced CNN alone."""
        return self._run(ModelSpec(name="reduced_cnn"), self.cnn, seed, test_curve=True)

    def teacher(self, seed: int = 0) -> RunSpec:
        """Phase 2's teacher: a ResNet18, fine-tuned under a 3x3 stem, or a linear layer on a frozen one."""
        if self.has_frozen_teacher:
            return self._head("resnet18", seed)
        return self._resnet("resnet18", self.tuning, seed).with_(test_curve=True)

    def _taught(self, students: list[RunSpec]) -> list[RunSpec]:
        return [taught(student, self.cells[0], self.teacher(self.teacher_seeds[0])) for student in students]

    def lambdas(self) -> dict[str, list[RunSpec]]:
        """BONN's network by lambda, judged on validation images with the first seed, beside XNOR; with both
        optimisers, because the distance between BONN and XNOR depends on them."""
        data = self.data if self.data.val_size else self.data.with_(val_size=5000)
        data, arms = data.with_(train_size=self.lambda_images or data.train_size), {}
        for name, optimiser in {"Adam": _ADAM, "SGD": SGD_CYCLE}.items():
            seed, fields = self.seeds[0], dict(data=data, optimiser=optimiser)
            fields["epochs"] = self.lambda_epochs or self.wide.epochs
            bonn, xnor = (self.wide_resnet(precision, seed).with_(**fields) for precision in ("bonn", "xnor"))
            losses = [Bayesian(kernel_weight=weight) for weight in self.kernel_weights]
            arms |= {f"BONN, {name}": [bonn.with_(bayesian=loss) for loss in losses], f"XNOR, {name}": [xnor]}
        return arms

    def phase_one(self) -> dict[str, list[RunSpec]]:
        """The WideResNet in every precision of the profile."""
        arms = {f"WideResNet, {LABELS[precision]}": precision for precision in self.precisions}
        return {name: [self.wide_resnet(precision, seed) for seed in self.seeds] for name, precision in arms.items()}

    def fine_tuning(self) -> dict[str, list[RunSpec]]:
        """BONN's network, also trained on at a tenth of the learning rate, without and with BONN's feature loss."""
        trained = [self.wide_resnet("bonn", seed) for seed in self.seeds]
        slow = self.wide.optimiser.with_(learning_rate=self.wide.optimiser.learning_rate / 10)
        arms = {"BONN, before": trained}
        for name, weight in (("BONN, fine-tuned without it", 0.0), ("BONN, fine-tuned with it", 1e-2)):
            loss = trained[0].bayesian.with_(feature_weight=weight)
            changes = dict(optimiser=slow, epochs=self.tuning_epochs, bayesian=loss)
            arms[name] = [start.with_(init=start, **changes) for start in trained]
        return arms

    def phase_two(self) -> dict[str, list[RunSpec]]:
        """The teacher, and its students alone and distilled."""
        arms = {"ResNet18": [self.teacher(seed) for seed in self.teacher_seeds]}
        students = {"reduced CNN": [self.reduced_cnn(seed) for seed in self.seeds]}
        students |= {name: specs for name, specs in self.phase_one().items() if name.endswith(("XNOR", "BONN"))}
        for name, specs in students.items():
            arms |= {name: specs, f"{name}, distilled": self._taught(specs)}
        return arms

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        return [self.lambdas(), self.phase_one(), self.fine_tuning(), self.beyond(), self.phase_two()]

    def beyond(self) -> dict[str, list[RunSpec]]:
        """BONN's WRN-22 in the profile's widths, in full precision and binary; the widest BONN also distilled."""
        arms = {}
        for width in self.widths:
            model = ModelSpec(name="wrn_22", options={"width": width})
            for precision in ("full", "xnor", "bonn"):
                specs = [self._wide(model, precision, self.wrn_22, seed) for seed in self.seeds]
                arms[f"WRN-22 ({width}-{width}-{2 * width}-{4 * width}), {LABELS[precision]}"] = specs
        if widest := arms.get("WRN-22 (64-64-128-256), BONN"):
            arms["WRN-22 (64-64-128-256), BONN, distilled"] = self._taught(widest)
        return arms
