"""What a run is: frozen, strict descriptions that are data, compare by value and hash by content.

A student's spec contains its teachers' specs, so the graph of what depends on what is the data itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdutils.data.datasets import DATASETS
from kdutils.data.views import VIEWS
from kdutils.distillation.methods import KD
from kdutils.networks.registry import IMAGENET_NETWORKS, check_options
from kdutils.values import Value


class DataSpec(Value):
    """Which images are trained on, chosen and tested with, and how they are shown."""

    name: Literal["cifar10", "cifar100", "synthetic", "synthetic-other"]
    train_size: Annotated[int, Field(gt=0)] | None = None  # None: all that validation leaves
    val_size: Annotated[int, Field(ge=0)] = 0
    test_size: Annotated[int, Field(gt=0)] | None = None  # None: the whole test set
    split_seed: Annotated[int, Field(ge=0)] = 0
    normalisation: Literal["imagenet", "cifar10", "cifar100", "half"] = "imagenet"
    views: Annotated[int, Field(ge=1, le=VIEWS)] = VIEWS  # 1: the image itself, no augmentation

    @property
    def split(self) -> tuple[int | None, int, int]:
        """What `kdutils.data.views.split_indices` takes after the labels: numbers of images, and the seed."""
        return self.train_size, self.val_size, self.split_seed

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        return DATASETS[self.name]


class ModelSpec(Value):
    """A network of the registry in `kdutils.models`, with that factory's own options."""

    name: str
    options: dict[str, str | int | float | bool] = {}

    @model_validator(mode="after")
    def _known(self) -> ModelSpec:
        check_options(self.name, self.options)
        return self


class OptimiserSpec(Value):
    """The optimiser and its learning-rate schedule; milestones are counted in finished epochs."""

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "step", "one_cycle"] = "constant"
    milestones: tuple[int, ...] = ()
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1


class Distillation(Value):
    """The teachers of a run and how their knowledge enters its loss (`kdutils.losses.kd_loss`)."""

    teachers: Annotated[tuple[RunSpec, ...], Field(min_length=1)]
    method: KD = KD()


class Bayesian(Value):
    """The Bayesian losses of a network with "bonn" layers (`kdutils.binary`), with BONN's values for CIFAR."""

    kernel_weight: Annotated[float, Field(ge=0)] = 1e-4  # lambda
    nu: Annotated[float, Field(gt=0)] = 1e-4
    feature_weight: Annotated[float, Field(ge=0)] = 0.0  # theta; 1e-2 in BONN, in fine-tuning only


WeightsFile = Annotated[str, Field(pattern=r"^file:.+")]


class RunSpec(Value):
    """One training run, complete: the same spec on the same data is the same run, known by `key`.

    `init` may be another run: then this one goes on from that one's trained weights, without its classifier where that
    one learnt another data set. Or "file:PATH", a state dict (`kdutils.models.load_weights_file`); then `epochs` may be
    0, which only evaluates it. `test_curve` also evaluates the test set after every epoch, for documents whose figures
    show that; nothing is ever chosen by it.
    """

    data: DataSpec
    model: ModelSpec
    init: Literal["random", "imagenet"] | WeightsFile | RunSpec = "random"
    trainable: Literal["head", "last_block", "layer3_up", "all"] = "all"
    optimiser: OptimiserSpec = OptimiserSpec()
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)] = 32
    seed: Annotated[int, Field(ge=0)] = 0
    distillation: Distillation | None = None
    bayesian: Bayesian | None = None
    test_curve: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> RunSpec:
        for teacher in self.teachers:
            if teacher.data.name != self.data.name:
                raise ValueError(
                    f"the teacher {teacher.model.name} knows {teacher.data.name} ({teacher.data.num_classes} classes), "
                    f"its student {self.model.name} learns {self.data.name} ({self.data.num_classes} classes): "
                    "train both on one data set"
                )
        if self.model.name not in IMAGENET_NETWORKS and (self.init == "imagenet" or self.trainable != "all"):
            raise ValueError(
                f"{self.model.name} has no ImageNet weights and no frozen parts: init 'random', a file or a run, trainable 'all'"
            )
        if isinstance(self.init, RunSpec):
            ours, other = (f"{run.model.name} {run.model.options} on {run.data.name}" for run in (self, self.init))
            if self.init.model != self.model or (
                self.init.data.name != self.data.name and not self.model.name.startswith("resnet")
            ):
                raise ValueError(
                    f"a run of {ours} goes on from a run of the same network (and, but for a ResNet, on the same data set), not of {other}"
                )
        if not self.epochs and (self.weights_file is None or self.distillation):
            raise ValueError(
                "epochs must be at least 1; only a run that evaluates weights from a file (init 'file:PATH') may have 0"
            )
        if self.bayesian and self.model.options.get("precision") != "bonn":
            raise ValueError(
                f"the Bayesian losses need a network with precision 'bonn', {self.model.name} has {self.model.options.get('precision', 'none')!r}"
            )
        return self

    @property
    def teachers(self) -> tuple[RunSpec, ...]:
        """The runs whose networks teach this one; empty without distillation."""
        return self.distillation.teachers if self.distillation else ()

    @property
    def weights_file(self) -> Path | None:
        """The file that the weights start from, if `init` names one."""
        return (
            Path(self.init.removeprefix("file:")).expanduser()
            if isinstance(self.init, str) and self.init.startswith("file:")
            else None
        )

    @property
    def needs(self) -> tuple[RunSpec, ...]:
        """The runs that must be finished before this one: its teachers, and the run that it goes on from."""
        return self.teachers + ((self.init,) if isinstance(self.init, RunSpec) else ())

    @property
    def key(self) -> str:
        """The run's name in the store: its model and a hash of its content.

        Fields that keep their defaults do not enter the hash, so a field added later, whose default means what was
        done before, leaves every recorded run valid. Never change the meaning of a default.
        """
        content = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return f"{self.model.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def unique(specs) -> list[RunSpec]:
    """`specs` without duplicates, and with the runs they need, each before those that need it."""
    found: dict[str, RunSpec] = {}

    def visit(spec: RunSpec) -> None:
        if spec.key not in found:
            for needed in spec.needs:
                visit(needed)
            found[spec.key] = spec

    for spec in specs:
        visit(spec)
    return list(found.values())
