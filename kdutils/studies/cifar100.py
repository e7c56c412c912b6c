"""Study D: ResNet32x4 into a four-layer CNN, CIFAR-100, with a grid."""

from typing import ClassVar, Literal

from kdutils.data.views import VIEWS
from kdutils.distillation.methods import KD
from kdutils.specs import DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Seeds, Study, Temperatures, Weights, taught

_CYCLE = OptimiserSpec(name="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, schedule="one_cycle")
_STEPS = _CYCLE.with_(learning_rate=0.05, schedule="step", milestones=(150, 180, 210))
_SHORT = dict(network="resnet8x4", teacher_optimiser=_CYCLE, teacher_batch=128, beyond_epochs=0)


class Cifar100(Study):
    """Study D: a ResNet32x4 teaches a four-layer CNN; temperature and kd_weight come from a grid.

    Our teacher is trained, or read from `teacher_file`. All runs leave out the validation images that judge the grid.
    """

    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=200, val_size=100, test_size=200, views=2), seeds=(0, 1))
        | dict(teacher_epochs=1, epochs=2, temperatures=(1.0, 4.0), kd_weights=(0.5,))
        | _SHORT,
        "quick": dict(data=dict(train_size=5000, val_size=1000, test_size=2000, views=8), seeds=(0, 1))
        | dict(teacher_epochs=4, epochs=10, batch_size=32, temperatures=(2.0, 4.0), kd_weights=(0.5, 0.75))
        | _SHORT,
        "overnight": dict(data=dict(views=8), seeds=(0, 1, 2))
        | dict(teacher_epochs=12, epochs=20, temperatures=(2.0, 4.0), kd_weights=(0.5, 0.75))
        | _SHORT,
    }

    data: DataSpec = DataSpec(name="cifar100", val_size=5000, normalisation="cifar100")
    teacher_seeds: Seeds = (0,)
    network: str = "resnet32x4"  # of the teacher
    teacher_epochs: int = 240
    teacher_optimiser: OptimiserSpec = _STEPS
    teacher_batch: int = 64
    teacher_file: str | None = None  # the state dict of a public ResNet32x4, which then teaches as it is
    epochs: int = 100
    batch_size: int = 128  # of the student
    temperatures: Temperatures = (1.0, 2.0, 4.0, 8.0)
    kd_weights: Weights = (0.25, 0.5, 0.75)  # beside 0, the student alone
    beyond_epochs: int = 240  # of ResNet8x4 as the literature's student; 0: not run
    init: Literal["random"] = "random"

    def student(self, seed: int = 0) -> RunSpec:
        """The four-layer CNN alone: SGD at 0.1, no momentum, times 0.2 after 30, 60 and 90 hundredths of the epochs."""
        sgd = OptimiserSpec(name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="step", factor=0.2)
        sgd = sgd.with_(milestones=tuple(round(share * self.epochs) for share in (0.3, 0.6, 0.9)))
        return self._run(ModelSpec(name="cnn4"), sgd, epochs=self.epochs, batch_size=self.batch_size, seed=seed)

    def teacher(self, seed: int = 0) -> RunSpec:
        """The teacher, trained by the profile's schedule on all views; or from a file, as it is there."""
        file = dict(model=ModelSpec(name="resnet32x4"), init=f"file:{self.teacher_file}", epochs=0)
        sizes = dict(epochs=self.teacher_epochs, batch_size=self.teacher_batch, seed=seed)
        spec = self._run(ModelSpec(name=self.network), self.teacher_optimiser, **sizes)
        return spec.with_(data=self.data.with_(views=VIEWS), **file if self.teacher_file else {})

    def taught(self, method: KD, seed: int = 0) -> RunSpec:
        """The four-layer CNN with the teacher."""
        return taught(self.student(seed), method, self.teacher(self.teacher_seeds[0]))

    def grid(self) -> list[RunSpec]:
        """The student alone and taught by every method, with the first seed; the best is chosen on validation."""
        return [self.student(self.seeds[0]), *(self.taught(method, self.seeds[0]) for method in self.methods)]

    def arms(self, best: KD) -> dict[str, list[RunSpec]]:
        """The teacher, the student alone, and taught by the chosen method, by their published names."""
        seeds = self.teacher_seeds[:1] if self.teacher_file else self.teacher_seeds  # a file is one teacher
        return {
            "teacher": [self.teacher(seed) for seed in seeds],
            "student alone": [self.student(seed) for seed in self.seeds],
            "distilled student": [self.taught(best, seed) for seed in self.seeds],
        }

    def beyond(self) -> dict[str, list[RunSpec]]:
        """ResNet8x4 alone and with the same teacher, by the literature's schedule, at T = 4 and kd_weight 0.9."""
        if not self.beyond_epochs:
            return {}
        model, sizes = ModelSpec(name="resnet8x4"), dict(epochs=self.beyond_epochs, batch_size=self.teacher_batch)
        alone = [self._run(model, self.teacher_optimiser, seed=seed, **sizes) for seed in self.seeds]
        teacher, method = self.teacher(self.teacher_seeds[0]), KD(temperature=4.0, kd_weight=0.9)
        return {"ResNet8x4 alone": alone, "ResNet8x4, KD": [taught(spec, method, teacher) for spec in alone]}
