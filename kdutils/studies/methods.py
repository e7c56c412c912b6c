"""Study E: which method of distillation? Study D's student and teacher, equally many trials for each."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from kdutils.distillation.methods import Method, build_method
from kdutils.specs import Count, RunSpec
from kdutils.studies.base import ONE_CYCLE, Training
from kdutils.studies.cifar100 import Cifar100

TRIALS: dict[str, tuple[dict[str, Any], ...]] = {
    "kd": (dict(), dict(temperature=2.0, ce_weight=0.1, kd_weight=3.0), dict(temperature=4.0, kd_weight=0.5))
    + (dict(temperature=2.0, ce_weight=0.1, kd_weight=6.0),),
    "lskd": (dict(), dict(kd_weight=3.0), dict(temperature=3.0), dict(temperature=3.0, kd_weight=1.0)),
    "dkd": (dict(), dict(beta=2.0), dict(beta=6.0), dict(beta=1.0)),
    "dkd_lskd": (dict(), dict(beta=2.0, kd_weight=3.0), dict(beta=2.0, kd_weight=12.0))
    + (dict(temperature=3.0, beta=2.0, kd_weight=18.0),),
    "dist": (dict(), dict(temperature=1.0), dict(kd_weight=1.0), dict(temperature=2.0)),
    "ttm": (dict(), dict(power=0.3, kd_weight=7.0), dict(power=0.4, kd_weight=40.0), dict(power=0.2, kd_weight=20.0)),
    "wttm": (dict(), dict(power=0.3, kd_weight=1.5), dict(power=0.4, kd_weight=16.0), dict(power=0.2, kd_weight=5.0)),
    "rld": (dict(), dict(beta=2.0), dict(beta=4.0), dict(beta=8.0, confidence_temperature=4.0)),
    "nkd": (dict(temperature=3.0, gamma=3.5), dict(), dict(temperature=2.0, gamma=3.5), dict(temperature=3.0)),
    "mlkd_weak": (dict(), dict(kd_weight=0.3), dict(temperatures=(4.0,)), dict(temperatures=(2.0, 3.0, 4.0))),
}
"""The cells that each method is tried in; the first has its authors' values for ResNet32x4 and ResNet8x4 or CIFAR-100.

The others are the authors' for other pairs of networks, or lie around theirs. Parameters that are not named have the
authors' values, but a warm-up takes a twelfth of the epochs, as it did there.
"""

_CNN = Training(optimiser=ONE_CYCLE, epochs=20, batch_size=64)
"""With Adam, because with SGD at a peak of 0.05, 11 of 20 trials diverged or learnt nothing."""

_TITLES = {"dkd_lskd": "DKD + LSKD", "mlkd_weak": "MLKD, weak view"}


class Methods(Cifar100):
    """Study E: the four-layer CNN with study D's teacher, by each of several methods of distillation.

    Every method has the same number of trials, judged on the validation images with the first seed. All students are
    also tested after every epoch, to show what a choice by test images would have claimed; nothing is chosen by that.
    """

    PROFILES: ClassVar = {
        "smoke": Cifar100.PROFILES["smoke"] | dict(cnn=_CNN.with_(epochs=2), methods=("kd", "lskd", "dist"), trials=2),
        "quick": Cifar100.PROFILES["quick"]
        | dict(data=dict(train_size=3000, val_size=1000, test_size=1000, views=3))
        | dict(cnn=Training(optimiser=ONE_CYCLE, epochs=4), methods=("kd", "dkd", "dist", "ttm"), trials=2),
        "overnight": Cifar100.PROFILES["overnight"] | dict(seeds=(0, 1, 2, 3, 4), cnn=_CNN, trials=2),
    }

    cnn: Training = _CNN.with_(epochs=240)  # as long as the literature trains
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = tuple(TRIALS)
    trials: Annotated[Count, Field(le=4)] = 4  # of each method
    retrain: Literal[False] = False  # the students that are compared include runs of the trials

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in methods if name not in TRIALS]:
            raise ValueError(f"unknown method {unknown[0]!r}: allowed are {', '.join(TRIALS)}, of one teacher")
        if "kd" not in methods or len(set(methods)) < len(methods):
            raise ValueError("methods must differ, and kd, which the others are compared with, must be among them")
        return methods

    def student(self, seed: int = 0) -> RunSpec:
        """The student as in study D, but tested after every epoch."""
        return super().student(seed).with_(test_curve=True)

    def tried(self) -> dict[str, list[RunSpec]]:
        """A run of the first seed for each cell of each method, by the method's name in the literature."""
        return {
            title(name): [self.taught(cell, self.seeds[0]) for cell in self.cells_of(name)] for name in self.methods
        }

    def students(self, chosen: dict[str, Method]) -> dict[str, list[RunSpec]]:
        """Runs of all seeds: the student alone, KD in its usual cell, and the `chosen` methods, by `tried`'s names."""
        taught = {"KD, untuned": self.cells_of("kd")[0]} | chosen
        alone = {"student alone": [self.student(seed) for seed in self.seeds]}
        return alone | {name: [self.taught(cell, seed) for seed in self.seeds] for name, cell in taught.items()}

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        teachers = {"teacher": [self.teacher(seed) for seed in self.teacher_seeds[:1]]}
        return [teachers, self.tried(), self.students({title(name): self.cells_of(name)[0] for name in self.methods})]

    def cells_of(self, name: str) -> list[Method]:
        """The cells that the method `name` is tried in, its authors' (KD's usual one) first."""
        warmup = {"warmup": max(1, round(self.cnn.epochs / 12))} if build_method(name).warmup > 1 else {}
        return [build_method(name, **cell | warmup) for cell in TRIALS[name][: self.trials]]


def title(name: str) -> str:
    """What the literature calls a method."""
    return _TITLES.get(name, name.upper())
