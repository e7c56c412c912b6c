"""The parameters that a notebook may have."""

from typing import Annotated, Literal

from pydantic import Field, ValidationError

from kdutils.errors import InputError
from kdutils.studies import PROFILES
from kdutils.values import Distinct, Seed, Temperature, Value, explain

Seeds = Annotated[list[Seed], Field(min_length=1), Distinct]


class Parameters(Value):
    """Every parameter that a notebook may have, and its allowed values."""

    profile: Literal[*PROFILES] = "quick"
    dataset: str = "auto"  # checked when it is opened, because users may add data sets
    init: Literal["auto", "imagenet", "random", "pretrain:cifar100"] = "auto"
    seeds: Seeds | None = None
    teacher_seeds: Seeds | None = None
    temperature: Temperature | None = None
    kd_weight: Annotated[float, Field(gt=0, le=1)] | None = None
    teacher_file: str | None = None
    methods: Annotated[list[str], Field(min_length=1)] | None = None


def check_parameters(values: dict) -> None:
    """Raise `InputError` for the first unknown name or impossible value."""
    if unknown := sorted(values.keys() - Parameters.model_fields.keys()):
        raise InputError(f"unknown parameter {unknown[0]!r}: allowed are {', '.join(Parameters.model_fields)}")
    try:
        Parameters(**values)
    except ValidationError as error:
        raise InputError(explain(error)) from None
