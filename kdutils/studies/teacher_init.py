"""Study C: does the teacher's initialisation matter? CIFAR-10."""

from typing import ClassVar, Literal

from kdutils.data.views import VIEWS
from kdutils.specs import DataSpec, ModelSpec, OptimiserSpec, RunSpec
from kdutils.studies.base import Study, Temperatures, Weights, taught


class TeacherInit(Study):
    """Study C: one network as teacher twice, from random and from pretrained weights, and the students of both.

    Optimisers, batch and stem are ours, the same for both teachers and for all students; all else is the document's.
    Nothing is selected, so there are no validation images; test curves are shown, the last epoch counts.
    """

    PROFILES: ClassVar = {
        "smoke": dict(data=dict(train_size=200, test_size=200, views=2), seeds=(0, 1), teacher_seeds=(0,))
        | dict(network="resnet18", teacher_epochs=1, epochs=2),
        "quick": dict(data=dict(train_size=3000, test_size=2000, views=8), seeds=(0, 1), teacher_seeds=(0,))
        | dict(network="resnet18", teacher_epochs=3),
        "overnight": dict(
            data=dict(views=8), seeds=(0, 1, 2), teacher_seeds=(0,), network="resnet18", teacher_epochs=5
        ),
    }

    data: DataSpec = DataSpec(name="cifar10", normalisation="half")
    network: Literal["resnet18", "resnet50", "resnet101"] = "resnet101"  # of the teachers
    epochs: int = 10
    teacher_epochs: int = 10
    temperatures: Temperatures = (2.0,)
    kd_weights: Weights = (0.5,)
    init: Literal["imagenet", "pretrain:cifar100"] = "imagenet"  # where the pretrained weights come from

    def student(self, seed: int = 0) -> RunSpec:
        """The student of 94,538 parameters, alone: Adam on one cycle that peaks at 4e-3, batch 64."""
        adam = OptimiserSpec(name="adam", learning_rate=4e-3, schedule="one_cycle")
        sizes = dict(epochs=self.epochs, batch_size=64, seed=seed)
        return self._run(ModelSpec(name="sparse_cnn"), adam, **sizes, test_curve=True)

    def teacher(self, pretrained: bool, seed: int = 0) -> RunSpec:
        """A ResNet with a 3x3 stem: SGD on one cycle that peaks at 0.02, momentum 0.9, weight decay 5e-4, batch 64.

        It sees all 162 views. Pretrained without ImageNet, it goes on from the same training on other classes.
        """
        model = ModelSpec(name=self.network, options={"stem": "cifar_pool"})
        sgd = OptimiserSpec(name="sgd", learning_rate=0.02, momentum=0.9, weight_decay=5e-4, schedule="one_cycle")
        scratch = self._run(model, sgd, epochs=self.teacher_epochs, batch_size=64, seed=seed)
        scratch = scratch.with_(data=self.data.with_(views=VIEWS), test_curve=True)
        other = scratch.data.with_(name="synthetic-other" if self.data.name == "synthetic" else "cifar100")
        start = "imagenet" if self.init == "imagenet" else scratch.with_(data=other)
        return scratch.with_(init=start) if pretrained else scratch

    def _taught(self, pretrained: bool, seed: int) -> RunSpec:
        return taught(self.student(seed), self.methods[0], self.teacher(pretrained, self.teacher_seeds[0]))

    def arms(self) -> dict[str, list[RunSpec]]:
        """Both teachers, the student alone and with each, by the names that the published table uses."""
        return {
            "teacher from scratch": [self.teacher(False, seed) for seed in self.teacher_seeds],
            "teacher pretrained": [self.teacher(True, seed) for seed in self.teacher_seeds],
            "student alone": [self.student(seed) for seed in self.seeds],
            "student of the teacher from scratch": [self._taught(False, seed) for seed in self.seeds],
            "student of the pretrained teacher": [self._taught(True, seed) for seed in self.seeds],
        }
