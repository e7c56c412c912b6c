"""What all studies share: sizes by profile, runs on one data set, and the grid of methods to choose from."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kdutils.distillation.methods import KD, Method
from kdutils.specs import Count, DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec
from kdutils.values import Distinct, Seed, Temperatures, Value

Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), Distinct]
Weights = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]


class Training(Value):
    """How a network is trained: by which optimiser, for how many epochs, and how many images make a batch."""

    optimiser: OptimiserSpec
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)] = 32

    def __str__(self) -> str:
        name, rate = self.optimiser.name.replace("sgd", "SGD").replace("adam", "Adam"), self.optimiser.learning_rate
        schedule = {"one_cycle": "one cycle to ", "step": "in steps from "}.get(self.optimiser.schedule, "")
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        return f"{name}, {schedule}{rate:g}, {epochs}, batch {self.batch_size}"


ADAM = OptimiserSpec(name="adam", learning_rate=1e-3)
ONE_CYCLE = ADAM.with_(schedule="one_cycle")
SGD_CYCLE = OptimiserSpec(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule="one_cycle")
FROM_RANDOM = Training(optimiser=ONE_CYCLE.with_(learning_rate=2e-3), epochs=12)
"""For ResNets in "quick" if ImageNet's weights are unavailable: enough to make them better than their students."""


class Study(Value):
    """A study with its sizes; its methods return the specs of its runs. It runs nothing and loads nothing.

    The defaults of its fields are the full protocol, profile "paper"; `PROFILES` says what the others change, their
    optimisers included. `init` says where the ResNets start. All taught runs share the teacher of the first teacher
    seed.
    """

    PROFILES: ClassVar[dict[str, dict]]
    TAKES_OWN_DATA: ClassVar[bool] = False
    imagenet_networks: ClassVar[tuple[str, ...]]  # those that start from ImageNet's weights where `init` says so

    profile: str
    data: DataSpec
    seeds: Seeds = (0, 1, 2, 3, 4)
    teacher_seeds: Seeds = (0, 1, 2, 3, 4)
    temperatures: Temperatures
    kd_weights: Weights
    init: Literal["imagenet", "random"] = "imagenet"
    head: Training = Training(optimiser=ONE_CYCLE, epochs=30, batch_size=64)  # of a linear layer on a frozen ResNet
    frozen: bool = False  # whether teachers are linear layers on frozen ResNets; else more of each trains
    resnet_tests: Count | None = None  # test images of the ResNets, where they are fewer than the students'

    @property
    def cells(self) -> list[KD]:
        """Every temperature with every kd_weight, the cells of a grid; where none is chosen, only the first is used."""
        return [KD(temperature=t, kd_weight=w) for t in self.temperatures for w in self.kd_weights]

    @property
    def has_frozen_teacher(self) -> bool:
        """Whether teachers are linear layers on frozen ResNets; never on random weights."""
        return bool(self.frozen and self.imagenet_networks and self.init == "imagenet")

    @property
    def trainings(self) -> dict[str, Training]:
        """How each kind of network of the study is trained, for captions."""
        raise NotImplementedError

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        """Every run of the study's chapters; where a chapter chooses a cell, the run of the first one stands for it."""
        raise NotImplementedError

    def _run(self, model: ModelSpec, training: Training, seed: int, **fields) -> RunSpec:
        return RunSpec(**{"data": self.data, "model": model, "seed": seed} | dict(training) | fields)

    def _resnet(self, name: str, training: Training, seed: int, trainable: str = "all", **stem) -> RunSpec:
        """A ResNet that starts from `init`; `stem`: the options of its stem."""
        data = self.data.with_(test_size=self.resnet_tests or self.data.test_size)
        model = ModelSpec(name=name, options=stem)
        return self._run(model, training, seed, data=data, init=self.init, trainable=trainable)

    def _head(self, name: str, seed: int, size: int = 96) -> RunSpec:
        """A linear layer on a frozen ResNet that sees its images resized to `size` pixels; at 32, as they are."""
        stem = {"stem": "resized", "size": size} if size > 32 else {"stem": "imagenet"}
        return self._resnet(name, self.head, seed, "head", **stem)


def taught(student: RunSpec, method: Method, *teachers: RunSpec) -> RunSpec:
    """`student` with teachers; with and without them, runs of one seed differ only in their loss."""
    return student.with_(distillation=Distillation(teachers=teachers, method=method))
