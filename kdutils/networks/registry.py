"""The networks by name."""

from __future__ import annotations

import inspect
from typing import Callable, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.plain import cnn4, reduced_cnn, small_cnn, sparse_cnn
from kdutils.networks.residual import resnet8x4, resnet18, resnet32x4, resnet50, resnet101
from kdutils.networks.wide import wrn_16_1, wrn_16_7, wrn_22
from kdutils.values import explain

IMAGENET_NETWORKS = ("resnet18", "resnet50", "resnet101")
"""Those that ImageNet weights exist for, and whose parts can be frozen."""


MODELS: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory
    for factory in (
        small_cnn,
        resnet18,
        resnet50,
        resnet101,
        wrn_16_7,
        wrn_16_1,
        wrn_22,
        reduced_cnn,
        sparse_cnn,
        cnn4,
        resnet32x4,
        resnet8x4,
    )
}


def check_options(name: str, options: dict) -> None:
    """Raise `InputError` unless `name` is a registered model and `options` are its factory's own, with allowed values."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: allowed are {', '.join(MODELS)}")
    allowed = list(inspect.signature(MODELS[name]).parameters)[1:]
    hints = get_type_hints(MODELS[name], include_extras=True)
    for option, value in options.items():
        if option not in allowed:
            raise InputError(f"{name} has no option {option!r}: allowed are {', '.join(allowed) or 'none'}")
        try:
            TypeAdapter(hints[option], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{name}, {option}: {explain(error)} (got {value!r})") from None


def default_options(name: str) -> dict:
    """The options of the factory `name` with their defaults."""
    parameters = list(inspect.signature(MODELS[name]).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def normal_options(name: str, options: dict) -> dict:
    """`options` without those at their defaults, in the factory's own types; raises `InputError` as `check_options`."""
    check_options(name, options)
    defaults = default_options(name)
    return {option: value for option, value in sorted(options.items()) if value != defaults[option]}


def build_model(name: str, num_classes: int, **options) -> nn.Module:
    """A new, randomly initialised network: float32 [B, 3, 32, 32] -> logits [B, num_classes].

    Raises `InputError` for a model or an option that does not exist, naming those that do.
    """
    check_options(name, options)
    return MODELS[name](num_classes, **options)
