"""The networks by name."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.plain import cnn4, reduced_cnn, small_cnn, sparse_cnn
from kdutils.networks.residual import resnet8x4, resnet18, resnet32x4, resnet50, resnet101
from kdutils.networks.wide import wrn_10_1, wrn_16_1, wrn_16_7, wrn_22
from kdutils.values import explain

IMAGENET_NETWORKS = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}
"""The networks that have ImageNet weights, and whose parts can be frozen, with the files of torchvision's
IMAGENET1K_V1. The file names are written out here because importing torchvision takes seconds."""

_PLAIN, _WIDE = (small_cnn, reduced_cnn, sparse_cnn, cnn4), (wrn_16_7, wrn_16_1, wrn_10_1, wrn_22)
_RESIDUAL = (resnet18, resnet50, resnet101, resnet32x4, resnet8x4)
MODELS: dict[str, Callable[..., nn.Module]] = {build.__name__: build for build in (*_PLAIN, *_RESIDUAL, *_WIDE)}


def default_options(name: str) -> dict[str, Any]:
    """The options of the network `name`, each with its default."""
    return {p.name: p.default for p in list(inspect.signature(MODELS[name]).parameters.values())[1:]}


def normal_options(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """`options` in a form that is the same for all equal ones: the factory's types, sorted, without its defaults.

    Raises `InputError` for a network or an option that does not exist, naming those that do, and for a value that is
    not allowed. A bool is no number.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: allowed are {', '.join(MODELS)}")
    hints = get_type_hints(MODELS[name], include_extras=True)
    defaults, normal = default_options(name), {}
    for option, value in sorted(options.items()):
        if option not in defaults:
            raise InputError(f"{name} has no option {option!r}: allowed are {', '.join(defaults) or 'none'}")
        try:
            value = TypeAdapter(hints[option], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{name}, {option}: {explain(error)} (got {value!r})") from None
        if value != defaults[option]:
            normal[option] = value
    return normal


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A new, randomly initialised network: float32 [B, 3, 32, 32] -> logits [B, num_classes].

    Raises `InputError` for a network, an option or a value that does not exist, naming those that do.
    """
    options = normal_options(name, options)
    return MODELS[name](num_classes, **options)
