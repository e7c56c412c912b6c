"""The specs of runs: frozen, strict descriptions that compare by value and hash by content.

A student's spec contains its teachers' specs, so a spec itself is the graph of the runs that depend on each other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt as Count, ValidationInfo, field_validator, model_validator

from kdutils.data.datasets import DATASETS
from kdutils.data.views import VIEWS
from kdutils.distillation.methods import AnyMethod
from kdutils.networks.registry import IMAGENET_NETWORKS, default_options, normal_options
from kdutils.networks.residual import FROZEN_STEMS
from kdutils.settings import absolute
from kdutils.values import Seed, Value


class DataSpec(Value):
    """Which images a run trains, validates and tests on, and how they are normalised and augmented."""

    name: str  # one of `DATASETS`, or the name of one's own data set
    classes: Annotated[int, Field(ge=2)] | None = None  # of one's own data set: its number of classes
    digest: str | None = None  # of one's own data set: its `Dataset.digest`
    train_size: Count | None = None  # None: all images that validation leaves
    val_size: Annotated[int, Field(ge=0)] = 0
    test_size: Count | None = None  # None: the whole test set
    split_seed: Seed = 0
    normalisation: Literal["imagenet", "cifar10", "cifar100", "half"] = "imagenet"
    views: Annotated[int, Field(ge=1, le=VIEWS)] = VIEWS  # 1: the image itself, no augmentation

    @model_validator(mode="after")
    def _is_known(self) -> DataSpec:
        own = (self.classes is not None, self.digest is not None)
        if any(own) if self.name in DATASETS else not all(own):
            raise ValueError(f"name: allowed are {', '.join(DATASETS)}, or one's own with its classes and digest")
        return self

    @property
    def split(self) -> tuple[int | None, int, int]:
        """The arguments of `kdutils.data.views.split_indices` after the labels: numbers of images, and the seed."""
        return self.train_size, self.val_size, self.split_seed

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        return self.classes or DATASETS[self.name]

    @property
    def version(self) -> str:
        """The digest of one's own data set as a phrase for messages; empty for other data sets."""
        return f", digest {self.digest}" if self.digest else ""

    def has_images_of(self, other: DataSpec) -> bool:
        """Whether both use the same data set; digests count, as one's own may have been replaced under its name."""
        return (self.name, self.digest) == (other.name, other.digest)


class ModelSpec(Value):
    """A network of `kdutils.networks.registry`, with those options of its factory that differ from their defaults."""

    name: str
    options: dict[str, str | int | float | bool] = Field({}, validate_default=True)

    @field_validator("options")
    @classmethod
    def _normal(cls, options: dict, info: ValidationInfo) -> dict:
        normal = normal_options(info.data["name"], options) if "name" in info.data else options
        if "size" in normal and normal.get("stem") != "resized":
            raise ValueError(f"size {normal['size']} is an option of the stem 'resized', no other resizes its images")
        return normal

    def option(self, name: str) -> str | int | float | bool | None:
        """The value of an option, given or default; None where the network has no such option."""
        return (default_options(self.name) | self.options).get(name)


class OptimiserSpec(Value):
    """The optimiser and its learning-rate schedule; milestones are counted in finished epochs."""

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "step", "one_cycle"] = "constant"
    milestones: tuple[Count, ...] = ()
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _used(self) -> OptimiserSpec:
        if self.name == "adam" and self.momentum:
            raise ValueError(f"Adam takes no momentum (got {self.momentum:g}): leave it out, or give name 'sgd', too")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones go with the schedule 'step', got {self.schedule!r}: give that, too")
        return self


class Distillation(Value):
    """The teachers of a run, and the method by which their knowledge enters its loss."""

    teachers: Annotated[tuple[RunSpec, ...], Field(min_length=1)]
    method: AnyMethod


class Bayesian(Value):
    """The losses of a network with "bonn" layers (`kdutils.distillation.bayesian`); defaults are BONN's for CIFAR."""

    kernel_weight: Annotated[float, Field(ge=0)] = 1e-4  # lambda
    nu: Annotated[float, Field(gt=0)] = 1e-4
    feature_weight: Annotated[float, Field(ge=0)] = 0.0  # theta; 1e-2 in BONN, in fine-tuning only


class RunSpec(Value):
    """The complete description of one training run: the same spec on the same data is the same run, named by `key`.

    If `init` is a run, this run starts from its trained weights, without the classifier if their data sets differ.
    If `init` is "file:PATH", this run starts from a state dict (`kdutils.networks.weights.load_weights_file`); `epochs`
    may then be 0, which only evaluates the weights. `test_curve` also evaluates the test set after every epoch, for
    documents whose figures show that; nothing is ever chosen by it.
    """

    data: DataSpec
    model: ModelSpec
    init: Literal["random", "imagenet"] | Annotated[str, Field(pattern=r"^file:.+")] | RunSpec = "random"
    trainable: Literal["head", "last_block", "layer3_up", "all"] = "all"
    optimiser: OptimiserSpec = OptimiserSpec()
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)] = 32
    seed: Seed = 0
    distillation: Distillation | None = None
    bayesian: Bayesian | None = None
    test_curve: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        for teacher in self.teachers:
            if not self.data.has_images_of(teacher.data):
                raise ValueError(
                    f"the teacher {teacher.model.name} knows {teacher.data.name} ({teacher.data.num_classes} classes"
                    f"{teacher.data.version}), its student {self.model.name} learns {self.data.name} "
                    f"({self.data.num_classes} classes{self.data.version}): train both on one data set"
                )
        if self.distillation:
            images = min(self.batch_size, self.data.train_size or self.batch_size)
            self.distillation.method.check(len(self.teachers), self.data.num_classes, images)
        if self.model.name not in IMAGENET_NETWORKS and (self.init == "imagenet" or self.trainable != "all"):
            raise ValueError(
                f"{self.model.name} has no ImageNet weights and no frozen parts: "
                "init 'random', a file or a run, trainable 'all'"
            )
        if isinstance(self.init, RunSpec):
            same_data = self.data.has_images_of(self.init.data) or self.model.name.startswith("resnet")
            if self.init.model != self.model or not same_data:
                ours, other = (
                    f"{run.model.name} {run.model.options} on {run.data.name}{run.data.version}"
                    for run in (self, self.init)
                )
                raise ValueError(
                    f"a run of {ours} goes on from a run of the same network (and, unless that is a ResNet, on the "
                    f"same data set), not of {other}"
                )
        if not self.epochs and (self.weights_file is None or self.distillation):
            raise ValueError(
                "epochs must be at least 1; only a run that evaluates weights from a file (init 'file:PATH') may have 0"
            )
        if self.bayesian and self.model.option("precision") != "bonn":
            raise ValueError(
                f"the Bayesian losses need a network with precision 'bonn', "
                f"{self.model.name} has {self.model.option('precision') or 'none'!r}"
            )
        return self

    @property
    def teachers(self) -> tuple[RunSpec, ...]:
        """The runs whose networks teach this one; empty without distillation."""
        return self.distillation.teachers if self.distillation else ()

    @property
    def weights_file(self) -> Path | None:
        """The absolute path of the file that `init` names, or None if it names none."""
        is_file = isinstance(self.init, str) and self.init.startswith("file:")
        return absolute(self.init.removeprefix("file:")) if is_file else None

    @property
    def has_frozen_backbone(self) -> bool:
        """Whether only the head trains, so that the features below it are constants (an adapted stem would train)."""
        return self.trainable == "head" and self.model.option("stem") in FROZEN_STEMS

    @property
    def needs(self) -> tuple[RunSpec, ...]:
        """The runs that must be finished before this one: its teachers, and the run that it goes on from.

        The logits of a teacher with a frozen backbone rest on its features: the run these start from is needed, too.
        """
        backbones = [teacher for teacher in self.teachers if teacher.has_frozen_backbone]
        return self.teachers + tuple(run.init for run in (self, *backbones) if isinstance(run.init, RunSpec))

    @property
    def key(self) -> str:
        """The run's name in the store: its model and a hash of its content.

        Fields that keep their defaults do not enter the hash, so a field added later, whose default means what was
        done before, leaves every recorded run valid. Never change the meaning of a default.
        """
        return f"{self.model.name}-{hashlib.sha256(self.canonical().encode()).hexdigest()[:16]}"
