"""Frozen, strict values that compare and hash by content: what every specification is made of."""

import json
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy's legacy generator takes
Temperature = Annotated[float, Field(ge=0.01, le=1000)]  # beyond these limits T^2 KL loses all its digits, or overflows
Temperatures = Annotated[tuple[Temperature, ...], Field(min_length=1)]


def _distinct(seeds: Any) -> Any:
    if len(set(seeds)) < len(seeds):
        raise ValueError("seeds must differ from each other")
    return seeds


Distinct = AfterValidator(_distinct)  # of a list or a tuple of seeds


def explain(error: ValidationError) -> str:
    """The first problem that `error` reports, as one sentence."""
    first = error.errors()[0]
    where = ".".join(part for part in map(str, first["loc"]) if "[" not in part)  # without the members of a union
    message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace("valid tuple", "valid list")  # chapters give lists
    if not where:
        return message
    got = first["input"]
    return f"{where}: {message[0].lower()}{message[1:]}" + ("" if isinstance(got, dict) else f" (got {got!r})")


class Value(BaseModel):
    """A frozen value; unknown fields and impossible values raise a `ValidationError`, which is a `ValueError`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def with_(self, **changes: Any) -> Self:
        """A copy of the value with `changes` to its fields, validated like a new one."""
        return type(self)(**dict(self) | changes)

    def canonical(self) -> str:
        """The value as JSON, without fields that have their default (except `name`); equal values give equal text."""
        return json.dumps(_plain(self), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.canonical())


def _plain(content: Any) -> Any:
    if isinstance(content, Value):
        fields = type(content).model_fields
        kept = {name: value for name, value in content if name == "name" or value != fields[name].default}
        return {name: _plain(value) for name, value in kept.items()}
    if isinstance(content, (tuple, list)):
        return [_plain(value) for value in content]
    if isinstance(content, dict):
        return {name: _plain(value) for name, value in content.items()}
    return content + 0.0 if isinstance(content, float) else content  # -0.0 equals 0.0, but prints differently
