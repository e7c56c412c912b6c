"""What all studies share: sizes by profile, runs on one data set, and the grid of methods that is chosen from."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from kdutils.distillation.methods import KD, Method
from kdutils.specs import DataSpec, Distillation, ModelSpec, OptimiserSpec, RunSpec
from kdutils.values import Value


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must differ from each other, got {', '.join(map(str, seeds))}")
    return seeds


Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct)]
Temperatures = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Weights = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]


class Study(Value):
    """A study in its sizes: its methods return the specs of its runs. It runs nothing and loads nothing.

    The defaults of its fields are the full protocol, profile "paper"; `PROFILES` names what the others change.
    `init` says where the networks `IMAGENET` start. All taught runs share the teacher of the first teacher seed.
    """

    PROFILES: ClassVar[dict[str, dict]]
    IMAGENET: ClassVar[tuple[str, ...]] = ()

    profile: str
    data: DataSpec
    seeds: Seeds = (0, 1, 2, 3, 4)
    teacher_seeds: Seeds = (0, 1, 2, 3, 4)
    temperatures: Temperatures
    kd_weights: Weights
    init: str

    @property
    def methods(self) -> list[KD]:
        """Every temperature with every kd_weight, the cells of a grid; the first is the only one if none is chosen."""
        return [KD(temperature=t, kd_weight=w) for t in self.temperatures for w in self.kd_weights]

    def _run(self, model: ModelSpec, optimiser: OptimiserSpec, **fields) -> RunSpec:
        return RunSpec(data=self.data, model=model, optimiser=optimiser, **fields)


def taught(student: RunSpec, method: Method, *teachers: RunSpec) -> RunSpec:
    """`student` with teachers; alone and taught, runs of one seed differ in nothing but their loss."""
    return student.with_(distillation=Distillation(teachers=teachers, method=method))
