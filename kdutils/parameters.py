"""The parameters that a notebook may have."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from kdutils.errors import InputError
from kdutils.values import Temperature, Value, explain

Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]  # NumPy takes no larger ones


class Parameters(Value):
    """Every parameter that a notebook may have, and its allowed values."""

    profile: Literal["smoke", "quick", "overnight", "paper"] = "quick"
    dataset: str = "auto"  # checked where it is opened: one's own may be added
    init: Literal["auto", "imagenet", "random", "pretrain:cifar100"] = "auto"
    seeds: Seeds | None = None
    teacher_seeds: Seeds | None = None
    temperature: Temperature | None = None
    kd_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    teacher_file: str | None = None
    methods: Annotated[list[str], Field(min_length=1)] | None = None

    @field_validator("seeds", "teacher_seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if len(set(seeds or [])) < len(seeds or []):
            raise ValueError("seeds must differ from each other")
        return seeds


def check_parameters(values: dict) -> None:
    """Raise `InputError` for the first unknown name or impossible value."""
    if unknown := sorted(values.keys() - Parameters.model_fields.keys()):
        raise InputError(f"unknown parameter {unknown[0]!r}: allowed are {', '.join(Parameters.model_fields)}")
    try:
        Parameters(**values)
    except ValidationError as error:
        raise InputError(explain(error)) from None
