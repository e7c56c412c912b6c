"""Study D: ResNet32x4 into a four-layer CNN, CIFAR-100, with a grid."""

from typing import ClassVar, Literal

from kdutils.data.views import VIEWS
from kdutils.distillation.methods import KD, Method
from kdutils.networks.registry import IMAGENET_NETWORKS
from kdutils.specs import Count, DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import FROM_RANDOM, ONE_CYCLE, SGD_CYCLE, Seeds, Study, Training, Weights, taught
from kdutils.values import Temperatures

_SGD = OptimiserSpec(name="sgd", learning_rate=0.1, weight_decay=5e-4, schedule="step", factor=0.2)
_STEPS = SGD_CYCLE.with_(learning_rate=0.05, schedule="step", milestones=(150, 180, 210))
STEPS = Training(optimiser=_STEPS, epochs=240, batch_size=64)  # as the literature trains
CYCLE = Training(optimiser=SGD_CYCLE.with_(learning_rate=0.05), epochs=20, batch_size=64)
_SHORT = dict(network="resnet18", init="imagenet", beyond_epochs=0)


class Cifar100(Study):
    """Study D: a ResNet32x4 teaches a four-layer CNN; temperature and kd_weight come from a grid.

    Our teacher is trained, or read from `teacher_file`; short profiles take a ResNet18 from ImageNet's weights. The
    runs of the grid do not train on the validation images that judge it; the last runs do, if `retrain`.
    """

    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=64, val_size=32, test_size=60, views=2), seeds=(0, 1))
        | dict(cnn=CYCLE.with_(epochs=2), head=Training(optimiser=ONE_CYCLE, epochs=2), frozen=True, frozen_size=64)
        | dict(teacher_training=CYCLE.with_(epochs=1), temperatures=(1.0, 4.0), kd_weights=(0.5,))
        | _SHORT,
        "quick": dict(
            data=dict(train_size=3000, val_size=1000, test_size=5000, views=3), seeds=(0, 1, 2), resnet_tests=1000
        )
        | dict(cnn=Training(optimiser=ONE_CYCLE, epochs=15, batch_size=64), frozen=True)
        | dict(temperatures=(1.0, 4.0), kd_weights=(0.25, 0.75))
        | dict(teacher_training=FROM_RANDOM, retrain=False)
        | _SHORT,
        "overnight": dict(data=dict(views=32), seeds=(0, 1, 2), cnn=CYCLE.with_(epochs=100, batch_size=128))
        | dict(temperatures=(2.0, 4.0), kd_weights=(0.5, 0.75))
        | dict(teacher_training=CYCLE.with_(optimiser=SGD_CYCLE.with_(learning_rate=0.02), epochs=8))
        | _SHORT,
    }

    data: DataSpec = DataSpec(name="cifar100", val_size=5000, normalisation="cifar100")
    teacher_seeds: Seeds = (0,)
    network: str = "resnet32x4"  # of the teacher
    teacher_training: Training = STEPS
    frozen_size: Count = 96  # pixels a side, of the images that a frozen ResNet18 sees
    teacher_file: str | None = None  # the state dict of a public ResNet32x4, which then teaches as it is
    cnn: Training = Training(optimiser=_SGD.with_(milestones=(30, 60, 90)), epochs=100, batch_size=128)
    temperatures: Temperatures = (1.0, 2.0, 4.0, 8.0)
    kd_weights: Weights = (0.25, 0.5, 0.75)  # beside 0, the student alone
    retrain: bool = True  # the runs compared in the end train on the validation images, too, as in the document
    beyond_epochs: int = 240  # of ResNet8x4 as the literature's student; 0: not run
    init: Literal["imagenet", "random"] = "random"

    @property
    def imagenet_networks(self) -> tuple[str, ...]:
        return (self.network,) if self.network in IMAGENET_NETWORKS and not self.teacher_file else ()

    @property
    def trainings(self) -> dict[str, Training]:
        if self.teacher_file:
            return {"students": self.cnn}
        head = {"teacher, a head on a frozen ResNet18": self.head}
        return {"students": self.cnn} | (head if self.has_frozen_teacher else {"teacher": self.teacher_training})

    def student(self, seed: int = 0) -> RunSpec:
        """The four-layer CNN alone; in the document SGD at 0.1, no momentum, times 0.2 every 30 epochs."""
        return self._run(ModelSpec(name="cnn4"), self.cnn, seed)

    def teacher(self, seed: int = 0) -> RunSpec:
        """The teacher: from a file, unchanged; a head on a frozen ResNet18; or trained, on all views."""
        if self.teacher_file:
            file = dict(init=f"file:{self.teacher_file}", epochs=0, data=self.data.with_(views=VIEWS))
            return self._run(ModelSpec(name="resnet32x4"), self.teacher_training, seed, **file)
        if self.has_frozen_teacher:
            return self._head(self.network, seed, self.frozen_size)
        spec = self._resnet(self.network, self.teacher_training, seed)
        return spec.with_(data=spec.data.with_(views=VIEWS))

    def taught(self, method: Method, seed: int = 0) -> RunSpec:
        """The four-layer CNN, taught by the teacher with `method`."""
        return taught(self.student(seed), method, self.teacher(self.teacher_seeds[0]))

    def grid(self) -> list[RunSpec]:
        """The student alone and taught by every method, with the first seed; the best is chosen on validation."""
        return [self.student(self.seeds[0]), *(self.taught(method, self.seeds[0]) for method in self.cells)]

    @property
    def _last(self) -> "Cifar100":
        """The study whose runs are compared in the end: if `retrain`, without validation images."""
        train_size = self.data.train_size and self.data.train_size + self.data.val_size
        return self.with_(data=self.data.with_(train_size=train_size, val_size=0)) if self.retrain else self

    def arms(self, best: KD) -> dict[str, list[RunSpec]]:
        """The teacher, the student alone, and taught by the chosen method, by their published names."""
        seeds = self.teacher_seeds[:1] if self.teacher_file else self.teacher_seeds  # a file is one teacher
        last = self._last
        return {
            "teacher": [last.teacher(seed) for seed in seeds],
            "student alone": [last.student(seed) for seed in self.seeds],
            "distilled student": [last.taught(best, seed) for seed in self.seeds],
        }

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        return [{"grid": self.grid()}, self.arms(self.cells[0]), self.beyond()]

    def beyond(self) -> dict[str, list[RunSpec]]:
        """ResNet8x4 alone and with the same teacher, by the literature's schedule, at T = 4 and kd_weight 0.9."""
        if not self.beyond_epochs:
            return {}
        training, last = self.teacher_training.with_(epochs=self.beyond_epochs), self._last
        alone = [last._run(ModelSpec(name="resnet8x4"), training, seed) for seed in self.seeds]
        teacher, method = last.teacher(self.teacher_seeds[0]), KD(temperature=4.0, kd_weight=0.9)
        return {"ResNet8x4 alone": alone, "ResNet8x4, KD": [taught(spec, method, teacher) for spec in alone]}
