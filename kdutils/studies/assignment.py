"""Study A: four classifiers on CIFAR-10."""

from typing import ClassVar

from kdutils.distillation.methods import KD, Method, build_method
from kdutils.specs import Count, DataSpec, ModelSpec, RunSpec
from kdutils.studies.base import ADAM, FROM_RANDOM, ONE_CYCLE, Study, Training, Weights, taught
from kdutils.values import Temperatures

WEIGHING = {"mt_ebkd": "weighed by entropy", "mt_camkd": "weighed by error", "mt_aekd": "weighed by agreement"}
"""Methods that weigh several teachers, and what their students are called."""


class Assignment(Study):
    """Study A: a small CNN alone, ResNets from ImageNet's weights, and the small CNN taught by one and by both.

    In short profiles the teachers are linear layers on frozen ResNets, which is one reading of the document.
    """

    TAKES_OWN_DATA: ClassVar = True
    TEACHERS: ClassVar = ("resnet18", "resnet50")
    imagenet_networks: ClassVar = TEACHERS
    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=64, val_size=32, test_size=60, views=2), frozen=True)
        | dict(cnn=Training(optimiser=ADAM, epochs=2), fine_tuning=Training(optimiser=ADAM, epochs=1), policy_epochs=1)
        | dict(head=Training(optimiser=ADAM, epochs=2), from_random=Training(optimiser=ADAM, epochs=1))
        | dict(seeds=(0, 1), teacher_seeds=(0,), temperatures=(4.0,), kd_weights=(0.5, 0.9), sizes=(32, 64)),
        "quick": dict(data=dict(train_size=3000, val_size=1000, views=3), frozen=True, resnet_tests=1000)
        | dict(cnn=Training(optimiser=ONE_CYCLE.with_(learning_rate=3e-3), epochs=20), policy_epochs=2)
        | dict(fine_tuning=Training(optimiser=ONE_CYCLE, epochs=2), from_random=FROM_RANDOM)
        | dict(seeds=(0, 1, 2), teacher_seeds=(0,), temperatures=(2.0, 8.0), kd_weights=(0.5, 0.9))
        | dict(weighing=("mt_camkd",)),
        "overnight": dict(teacher_seeds=(0,)),
    }

    data: DataSpec = DataSpec(name="cifar10", train_size=9000, val_size=1000)
    cnn: Training = Training(optimiser=ADAM, epochs=30)  # the document names no optimiser
    fine_tuning: Training = Training(optimiser=ADAM.with_(learning_rate=1e-4), epochs=20)
    from_random: Training = Training(optimiser=ONE_CYCLE, epochs=20)  # of ResNets without ImageNet's weights
    sizes: tuple[Count, ...] = (32, 64, 96)  # pixels a side, of the images that a frozen ResNet sees
    policy_epochs: Count = 20  # of those ResNet18s of `policies` that are fine-tuned from ImageNet's weights
    temperatures: Temperatures = (2.0, 4.0, 8.0)
    kd_weights: Weights = (0.3, 0.5, 0.7, 0.9)
    weighing: tuple[str, ...] = tuple(WEIGHING)  # methods that weigh two teachers

    @property
    def trainings(self) -> dict[str, Training]:
        resnets = {"heads on frozen ResNets": self.head} if self.has_frozen_teacher else {"ResNets": self.tuning}
        return {"small CNNs": self.cnn} | resnets

    @property
    def tuning(self) -> Training:
        """How a ResNet is trained if more than its head trains."""
        return self.fine_tuning if self.init == "imagenet" else self.from_random

    @property
    def compared(self) -> Training:
        """How the ResNet18s of `policies` are trained if more than their head trains."""
        return self.tuning.with_(epochs=self.policy_epochs) if self.init == "imagenet" else self.tuning

    def small_cnn(self, seed: int = 0) -> RunSpec:
        """Task 1: the small CNN alone."""
        return self._run(ModelSpec(name="small_cnn"), self.cnn, seed)

    def resnet(self, name: str, seed: int = 0) -> RunSpec:
        """Task 2, and the teacher of Tasks 3 and 4: an ImageNet ResNet (resnet18 or resnet50)."""
        if self.has_frozen_teacher:
            return self._head(name, seed, self.sizes[-1])
        start = {"zero_init_residual": True} if (name, self.init) == ("resnet50", "random") else {}
        return self._resnet(name, self.tuning, seed, **start)

    def policies(self) -> dict[str, RunSpec]:
        """Runs that compare what trains in a ResNet18: a head at several sizes, the last block, all layers.

        And in a ResNet50: its head at the largest size; if the teachers are fine-tuned, also all its layers.
        """
        seed, tuning = self.teacher_seeds[0], self.compared
        runs = {f"head, {size} pixels": self._head("resnet18", seed, size) for size in self.sizes}
        runs["last block, 3x3 stem"] = self._resnet("resnet18", tuning, seed, "last_block")
        runs["all layers, 3x3 stem"] = self._resnet("resnet18", tuning, seed)
        if self.init == "imagenet":  # on random weights, the heads of one network are enough
            runs[f"ResNet50: head, {self.sizes[-1]} pixels"] = self._head("resnet50", seed, self.sizes[-1])
        return runs if self.frozen else runs | {"ResNet50: all layers, 3x3 stem": self.resnet("resnet50", seed)}

    def student(self, teachers: tuple[str, ...], method: Method, seed: int = 0) -> RunSpec:
        """Tasks 3 and 4: the small CNN of Task 1, taught by the ResNets `teachers`."""
        return taught(self.small_cnn(seed), method, *(self.resnet(name, self.teacher_seeds[0]) for name in teachers))

    def grid(self, teachers: tuple[str, ...]) -> list[RunSpec]:
        """A student of the first seed for every method; the best of them is chosen on validation."""
        return [self.student(teachers, method, self.seeds[0]) for method in self.cells]

    def arms(self, one: KD, both: KD) -> dict[str, list[RunSpec]]:
        """All classifiers by their published names; `one` is the method of a single teacher, `both` that of two."""
        students = {
            "distilled from ResNet50": (("resnet50",), one),
            "distilled from ResNet18": (("resnet18",), one),
            "distilled from both, logits averaged": (self.TEACHERS, both),
            "distilled from both, probabilities averaged": (self.TEACHERS, both.with_(average="probabilities")),
        }
        return {
            "small CNN": [self.small_cnn(seed) for seed in self.seeds],
            "ResNet18": [self.resnet("resnet18", seed) for seed in self.teacher_seeds],
            "ResNet50": [self.resnet("resnet50", seed) for seed in self.teacher_seeds],
        } | {name: [self.student(*how, seed) for seed in self.seeds] for name, how in students.items()}

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        first, policies = self.cells[0], {name: [spec] for name, spec in self.policies().items()}
        grids = {"one": self.grid(("resnet50",)), "both": self.grid(self.TEACHERS)}
        return [policies, grids, self.arms(first, first), self.weighed(first)]

    def weighed(self, both: KD) -> dict[str, list[RunSpec]]:
        """Students of two weighted teachers, by `WEIGHING`, at the temperature and the weights of `both`.

        Factors in the methods' formulas (`losses`) are undone, so the teachers' weights sum to one as in an average.
        """
        arms = {}
        for name in self.weighing:
            weight = both.kd_weight * (1 if name == "mt_aekd" else len(self.TEACHERS))
            method = build_method(name, temperature=both.temperature, ce_weight=both.ce_weight, kd_weight=weight)
            arms[f"both, {WEIGHING[name]}"] = [self.student(self.TEACHERS, method, seed) for seed in self.seeds]
        return arms
