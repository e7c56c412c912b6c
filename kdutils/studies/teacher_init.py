"""Study C: does the teacher's initialisation matter? CIFAR-10."""

from typing import ClassVar, Literal

from kdutils.data.views import VIEWS
from kdutils.specs import Count, DataSpec, ModelSpec, RunSpec
from kdutils.studies.base import FROM_RANDOM, ONE_CYCLE, SGD_CYCLE, Study, Training, Weights, taught
from kdutils.values import Temperatures

_STUDENT = Training(optimiser=ONE_CYCLE.with_(learning_rate=4e-3), epochs=10, batch_size=64)
_TEACHER = Training(optimiser=SGD_CYCLE.with_(learning_rate=0.02), epochs=10, batch_size=64)


class TeacherInit(Study):
    """Study C: one network twice as teacher, from random and from pretrained weights, and the students of both.

    Optimisers, batch and stem are ours, the same for both teachers and for all students; all else is the document's.
    Nothing is selected, so there are no validation images; test curves are shown, the last epoch counts.
    """

    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=64, test_size=60, views=2), seeds=(0, 1), teacher_seeds=(0,))
        | dict(network="resnet18", student_training=_STUDENT.with_(epochs=2))
        | dict(teacher_training=_TEACHER.with_(epochs=1)),
        "quick": dict(data=dict(train_size=2000, test_size=1000, views=4), seeds=(0, 1, 2), teacher_seeds=(0,))
        | dict(network="resnet18", student_training=_STUDENT.with_(epochs=25), size=96)
        | dict(teacher_training=_TEACHER.with_(epochs=2), from_random=FROM_RANDOM.with_(epochs=8)),
        "overnight": dict(data=dict(views=8), seeds=(0, 1, 2), teacher_seeds=(0,), network="resnet18")
        | dict(student_training=_STUDENT.with_(epochs=30)),
    }

    data: DataSpec = DataSpec(name="cifar10", normalisation="half")
    network: Literal["resnet18", "resnet50", "resnet101"] = "resnet101"  # of the teachers
    size: Count | None = None  # pixels that ImageNet's networks see; None: images as they are, under a 3x3 stem
    student_training: Training = _STUDENT
    teacher_training: Training = _TEACHER
    from_random: Training | None = None  # of teachers without ImageNet's weights; None: as `teacher_training`
    temperatures: Temperatures = (2.0,)
    kd_weights: Weights = (0.5,)
    init: Literal["imagenet", "pretrain:cifar100"] = "imagenet"  # where the pretrained weights come from

    @property
    def imagenet_networks(self) -> tuple[str, ...]:
        return (self.network,)

    @property
    def trainings(self) -> dict[str, Training]:
        return {"students": self.student_training, "teachers": self.tuning}

    @property
    def tuning(self) -> Training:
        """How both teachers are trained."""
        return self.teacher_training if self.init == "imagenet" else self.from_random or self.teacher_training

    @property
    def resizes(self) -> bool:
        """Whether the teachers see their images resized; never on random weights, which need not fit ImageNet's."""
        return bool(self.size and self.init == "imagenet")

    def student(self, seed: int = 0) -> RunSpec:
        """The student of 94,538 parameters, alone."""
        return self._run(ModelSpec(name="sparse_cnn"), self.student_training, seed, test_curve=True)

    def teacher(self, pretrained: bool, seed: int = 0) -> RunSpec:
        """The teacher, a ResNet: all its layers train, on all 162 views.

        If pretrained without ImageNet, it starts from a run of the same training on other classes.
        """
        stem = {"stem": "resized", "size": self.size} if self.resizes else {"stem": "cifar_pool"}
        data, model = self.data.with_(views=VIEWS), ModelSpec(name=self.network, options=stem)
        scratch = self._run(model, self.tuning, seed, data=data, test_curve=True)
        other = data.with_(name="synthetic-other" if data.name == "synthetic" else "cifar100")
        start = "imagenet" if self.init == "imagenet" else scratch.with_(data=other)
        return scratch.with_(init=start) if pretrained else scratch

    def _taught(self, pretrained: bool, seed: int) -> RunSpec:
        return taught(self.student(seed), self.cells[0], self.teacher(pretrained, self.teacher_seeds[0]))

    def all_arms(self) -> list[dict[str, list[RunSpec]]]:
        return [self.arms()]

    def arms(self) -> dict[str, list[RunSpec]]:
        """Both teachers, the student alone and with each, by the names that the published table uses."""
        return {
            "teacher from scratch": [self.teacher(False, seed) for seed in self.teacher_seeds],
            "teacher pretrained": [self.teacher(True, seed) for seed in self.teacher_seeds],
            "student alone": [self.student(seed) for seed in self.seeds],
            "student of the teacher from scratch": [self._taught(False, seed) for seed in self.seeds],
            "student of the pretrained teacher": [self._taught(True, seed) for seed in self.seeds],
        }
