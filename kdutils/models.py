"""The networks, one factory each in one registry; parameter counts stand in the docstrings and are tested."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import io
import re
from functools import lru_cache
from pathlib import Path
from typing import Callable, Literal, get_args, get_type_hints

import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdutils.data import data_dir
from kdutils.specs import InputError, Unreachable

Stem = Literal["imagenet", "cifar_pool", "cifar"]
IMAGENET_CLASSES = 1000
TRAINABLE = {  # which parts of a ResNet a policy trains, beside an adapted stem
    "head": ("fc",),
    "last_block": ("layer4", "fc"),
    "layer3_up": ("layer3", "layer4", "fc"),
}
KNOWN_WEIGHTS = {  # SHA-256 of files whose origin is known; any other file is named by its digest alone
    "89403e8f011306ea": "ImageNet, product-quantised, 66.74% top-1",
    "be08c46c0b9a2ed2": "ImageNet, product-quantised, 72.18% top-1",
}
"""Decoded from "Permute, Quantize, and Fine-tune" (Martinez et al., CVPR 2021); the accuracies are that paper's."""


class _SmallCNN(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(2048, 128), nn.Linear(128, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # pooling and ReLU commute; pooled first, ReLU has a quarter of the work
        features = F.relu(self.pool(self.conv2(F.relu(self.pool(self.conv1(images))))))
        return self.fc2(F.relu(self.fc1(features.flatten(1))))


def small_cnn(num_classes: int) -> nn.Module:
    """Two 3x3 convolutions with max-pooling and two linear layers: 268,650 parameters for 10 classes."""
    return _SmallCNN(num_classes)


def resnet18(num_classes: int, stem: Stem = "cifar_pool") -> nn.Module:
    """torchvision's ResNet-18 (He et al., CVPR 2016): 11,173,962 parameters for 10 classes with a 3x3 stem."""
    return _resnet("resnet18", num_classes, stem)


def resnet50(num_classes: int, stem: Stem = "cifar_pool") -> nn.Module:
    """torchvision's ResNet-50 (He et al., CVPR 2016): 23,520,842 parameters for 10 classes with a 3x3 stem."""
    return _resnet("resnet50", num_classes, stem)


def resnet101(num_classes: int, stem: Stem = "imagenet") -> nn.Module:
    """torchvision's ResNet-101 (He et al., CVPR 2016): 42,520,650 parameters for 10 classes with ImageNet's stem."""
    return _resnet("resnet101", num_classes, stem)


def _resnet(name: str, num_classes: int, stem: Stem) -> nn.Module:
    """Stems: `imagenet` 7x7/2 and max-pool; `cifar_pool` 3x3/1 and max-pool; `cifar` 3x3/1, no pool."""
    model = getattr(torchvision.models, name)(weights=None, num_classes=num_classes)
    if stem != "imagenet":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if stem == "cifar":
        model.maxpool = nn.Identity()
    return model


MODELS: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory for factory in (small_cnn, resnet18, resnet50, resnet101)
}


def check_options(name: str, options: dict) -> None:
    """Raise `InputError` unless `name` is a registered model and `options` are its factory's own, with allowed values."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: allowed are {', '.join(MODELS)}")
    allowed = list(inspect.signature(MODELS[name]).parameters)[1:]
    hints = get_type_hints(MODELS[name])
    for option, value in options.items():
        if option not in allowed:
            raise InputError(f"{name} has no option {option!r}: allowed are {', '.join(allowed) or 'none'}")
        values = get_args(hints[option])
        if values and value not in values:
            raise InputError(f"{name} takes {option} {', '.join(map(repr, values))}, not {value!r}")


def build_model(name: str, num_classes: int, **options) -> nn.Module:
    """A new, randomly initialised network: float32 [B, 3, 32, 32] -> logits [B, num_classes].

    Raises `InputError` for a model or an option that does not exist, naming those that do.
    """
    check_options(name, options)
    return MODELS[name](num_classes, **options)


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())


@lru_cache(maxsize=64)
def _forward_flops(name: str, num_classes: int, options: tuple) -> int:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(name, num_classes, **dict(options)).eval()(torch.empty(1, 3, 32, 32))
    return counter.get_total_flops()


def forward_macs(name: str, num_classes: int, options: dict) -> int:
    """Multiply-accumulate operations of one image's forward pass through convolutions and linear layers."""
    return _forward_flops(name, num_classes, tuple(sorted(options.items()))) // 2


def imagenet_file(name: str) -> Path:
    """Where this machine's own ImageNet weights of `name` would lie."""
    return data_dir() / "imagenet" / f"{name}.safetensors"


def load_imagenet(model: nn.Module, name: str) -> str:
    """Put ImageNet weights into `model`, all but the head; returns their source and SHA-256 as one phrase.

    They come from `KD_DATA_DIR/imagenet/<name>.safetensors` where that file lies, else from torchvision (downloaded
    once, hash-checked). A 3x3 stem takes the centre of the pretrained 7x7 kernels. Raises `InputError` where neither
    source can be had or the file does not fit the network.
    """
    state, source = _imagenet_state(name)
    kernels = state.get("conv1.weight")
    if model.conv1.kernel_size == (3, 3) and kernels is not None and kernels.shape[2:] == (7, 7):
        state["conv1.weight"] = kernels[:, :, 2:5, 2:5].contiguous()
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.startswith("fc.")}
    different = sorted(key for key in expected.keys() | body.keys() if key not in body or expected.get(key) != body[key].shape)
    if different:
        raise InputError(f"{source} does not fit {name}: {different[0]} and {len(different) - 1} more differ")
    model.load_state_dict(body, strict=False)
    return source


def _imagenet_state(name: str) -> tuple[dict[str, torch.Tensor], str]:
    path = imagenet_file(name)
    if path.is_file():
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}): expected a safetensors state dict of torchvision's {name}") from None
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        return state, f"{KNOWN_WEIGHTS.get(digest, f'weights of {path.name}')} (SHA-256 {digest})"
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise Unreachable(f"the ImageNet weights of {name} are neither at {path} nor to be downloaded ({error})") from None
    return dict(state), f"torchvision {weights} ({Path(weights.url).name})"


def resolve_init(init: str = "auto", names: tuple[str, ...] = ("resnet18", "resnet50")) -> str:
    """`init` itself (imagenet or random), or for "auto": imagenet where all the weights can be had, else random.

    Raises `InputError` for another word, for "imagenet" without the weights, or for a damaged file.
    """
    if init not in ("auto", "imagenet", "random"):
        raise InputError(f"unknown init {init!r}: allowed are auto, imagenet, random")
    try:
        if init != "random":
            for name in names:
                load_imagenet(build_model(name, 2), name)
        return "random" if init == "random" else "imagenet"
    except Unreachable as error:
        if init == "imagenet":
            raise
        print(f"{error}: the ResNets start from random weights.")
        return "random"


def freeze(model: nn.Module, policy: str) -> None:
    """Leave only what `policy` trains (`head`, `last_block`, `layer3_up`, `all`) and an adapted stem trainable.

    Frozen modules stay in evaluation mode under `train_mode`, so their batch-norm statistics do not move either.
    """
    if policy == "all":
        return
    parts = TRAINABLE[policy] + (("conv1", "bn1") if model.conv1.kernel_size == (3, 3) else ())
    for name, child in model.named_children():
        child.requires_grad_(name in parts)


def train_mode(model: nn.Module) -> None:
    """Training mode, except for the top-level parts without a trainable parameter."""
    model.train()
    for child in model.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            child.eval()


def layer_summary(model: nn.Module) -> tuple[pd.DataFrame, dict[str, float]]:
    """torchsummary's layers (layer, output shape, parameters) and its totals (parameters; megabytes) for one image.

    Works on a copy, in evaluation mode and with the random state put back, so `model` and later draws are untouched.
    """
    from torchsummary import summary

    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        summary(copy.deepcopy(model).cpu().float().eval(), (3, 32, 32), device="cpu")
    rows = re.findall(r"^\s*(\S+-\d+)\s+(\[.*?\])\s+([\d,]+)$", printed.getvalue(), re.MULTILINE)
    layers = pd.DataFrame(
        [(layer, shape.replace("[-1, ", "["), count) for layer, shape, count in rows],
        columns=["layer", "output shape", "parameters"],
    )
    totals = re.findall(r"^(?:Estimated )?([A-Z][^:\n]*?)(?: \(MB\))?: ([\d.,]+)$", printed.getvalue(), re.MULTILINE)
    return layers, {name: float(value.replace(",", "")) for name, value in totals}
