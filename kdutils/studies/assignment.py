"""Study A: four classifiers on CIFAR-10."""

from typing import ClassVar, Literal

from kdutils.distillation.methods import KD
from kdutils.specs import DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, Temperatures, Weights, taught


class Assignment(Study):
    """Study A: a small CNN alone, ResNets from ImageNet's weights, and the small CNN taught by one and by both."""

    IMAGENET: ClassVar = ("resnet18", "resnet50")
    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=200, val_size=100, test_size=200, views=2), epochs=2, resnet_epochs=1)
        | dict(seeds=(0, 1), teacher_seeds=(0,), temperatures=(4.0,), kd_weights=(0.5, 0.9)),
        "quick": dict(data=dict(train_size=3000, val_size=1000, test_size=2000, views=8), epochs=20, resnet_epochs=3)
        | dict(seeds=(0, 1, 2), teacher_seeds=(0,), temperatures=(2.0, 4.0), kd_weights=(0.5, 0.9)),
        "overnight": dict(seeds=(0, 1, 2), teacher_seeds=(0,)),
    }

    data: DataSpec = DataSpec(name="cifar10", train_size=9000, val_size=1000)
    epochs: int = 30  # of the small CNN, alone and distilled
    resnet_epochs: int = 20
    temperatures: Temperatures = (2.0, 4.0, 8.0)
    kd_weights: Weights = (0.3, 0.5, 0.7, 0.9)
    init: Literal["imagenet", "random"] = "imagenet"

    def small_cnn(self, seed: int = 0) -> RunSpec:
        """Task 1: the small CNN alone. Adam and 1e-3 are our choice, the document names no optimiser."""
        adam = OptimiserSpec(name="adam", learning_rate=1e-3)
        return self._run(ModelSpec(name="small_cnn"), adam, epochs=self.epochs, batch_size=32, seed=seed)

    def resnet(self, name: str, seed: int = 0, stem: str = "cifar_pool", trainable: str = "all") -> RunSpec:
        """Task 2: an ImageNet ResNet (resnet18 or resnet50), fine-tuned."""
        model, adam = ModelSpec(name=name, options={"stem": stem}), OptimiserSpec(name="adam", learning_rate=1e-4)
        sizes = dict(epochs=self.resnet_epochs, batch_size=32, seed=seed)
        return self._run(model, adam, **sizes, init=self.init, trainable=trainable)

    def policies(self) -> list[RunSpec]:
        """What may train in a ResNet18, side by side, under ImageNet's stem and under the 3x3 stem."""
        seed = self.teacher_seeds[0]
        stems = {"imagenet": ("head", "all"), "cifar_pool": ("last_block", "layer3_up", "all")}
        return [self.resnet("resnet18", seed, stem, what) for stem, parts in stems.items() for what in parts]

    def student(self, teachers: tuple[str, ...], method: KD, seed: int = 0) -> RunSpec:
        """Tasks 3 and 4: the small CNN of Task 1, taught by the fine-tuned ResNets `teachers`."""
        return taught(self.small_cnn(seed), method, *(self.resnet(name, self.teacher_seeds[0]) for name in teachers))

    def grid(self, teachers: tuple[str, ...]) -> list[RunSpec]:
        """A student of the first seed for every method; the best of them is chosen on validation."""
        return [self.student(teachers, method, self.seeds[0]) for method in self.methods]

    def arms(self, one: KD, both: KD) -> dict[str, list[RunSpec]]:
        """All classifiers by their published names; `one` is the method of a single teacher, `both` that of two."""
        students = {
            "distilled from ResNet50": (("resnet50",), one),
            "distilled from ResNet18": (("resnet18",), one),
            "distilled from both, logits averaged": (self.IMAGENET, both),
            "distilled from both, probabilities averaged": (self.IMAGENET, both.with_(average="probabilities")),
        }
        return {
            "small CNN": [self.small_cnn(seed) for seed in self.seeds],
            "ResNet18": [self.resnet("resnet18", seed) for seed in self.teacher_seeds],
            "ResNet50": [self.resnet("resnet50", seed) for seed in self.teacher_seeds],
        } | {name: [self.student(*how, seed) for seed in self.seeds] for name, how in students.items()}
