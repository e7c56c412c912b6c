"""The networks, one factory each in one registry; parameter counts stand in the docstrings and are tested."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
import io
import pickle
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Callable, Literal, get_type_hints

import pandas as pd
import torch
import torch.nn.functional as F
import torchvision
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from kdutils.binary import BinaryConv2d, PReLU
from kdutils.data import data_dir
from kdutils.specs import InputError, Unreachable, explain

Precision = Literal["full", "stem", "xnor", "bonn"]
Stem = Literal["imagenet", "cifar_pool", "cifar"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
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


class _Block(nn.Module):
    """A pre-activation block: two times BN -> ReLU -> conv3x3, dropout between, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(images))
        shortcut = self.shortcut(active) if self.shortcut else images
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class _BinaryUnit(nn.Module):
    """BONN's order, BN -> sign -> conv3x3 -> add shortcut -> PReLU: a batch norm after it would cancel the scale."""

    def __init__(self, inputs: int, outputs: int, stride: int, mode: str):
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(inputs), PReLU(outputs)
        self.conv = BinaryConv2d(inputs, outputs, 3, mode, stride, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.bn(images)) + (self.shortcut(images) if self.shortcut else images))


class _WideResNet(nn.Module):
    def __init__(self, num_classes: int, blocks: int, widths: tuple[int, int, int, int], precision: str, dropout: float):
        super().__init__()
        self.conv1 = BinaryConv2d(3, widths[0], 3, "stem", padding=1) if precision == "stem" else nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        layers = []
        for stage, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                first = outputs if index else inputs
                if precision in ("xnor", "bonn"):
                    layers += [_BinaryUnit(first, outputs, stride, precision), _BinaryUnit(outputs, outputs, 1, precision)]
                else:
                    layers += [_Block(first, outputs, stride)]
        self.layers = nn.Sequential(*layers)
        self.bn, self.dropout, self.fc = nn.BatchNorm2d(widths[-1]), nn.Dropout(dropout), nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BinaryConv2d):
                module.settle()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn(self.layers(self.conv1(images)))).mean((2, 3))
        return self.fc(self.dropout(features))


def wrn_16_7(num_classes: int, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """WideResNet-16-7 (Zagoruyko and Komodakis, BMVC 2016): 8,395,994 parameters in full precision for 10 classes.

    precision: "full"; "stem", the first convolution binary; "xnor" or "bonn", the blocks' 3x3 convolutions binary, in
    BONN's block order. dropout is that of the features before the classifier.
    """
    return _WideResNet(num_classes, 2, (16, 112, 224, 448), precision, dropout)


def wrn_16_1(num_classes: int, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """The thin sibling of `wrn_16_7`, for short runs: 175,066 parameters in full precision for 10 classes."""
    return _WideResNet(num_classes, 2, (16, 16, 32, 64), precision, dropout)


def wrn_22(num_classes: int, width: Literal[16, 64] = 16, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """BONN's WRN-22: 272,282 parameters in full precision with stages (16-16-32-64), 4,326,986 with (64-64-128-256)."""
    return _WideResNet(num_classes, 3, (width, width, 2 * width, 4 * width), precision, dropout)


def reduced_cnn(num_classes: int, dropout: Dropout = 0.5) -> nn.Module:
    """Three of conv3x3 + BN + ReLU + max-pool (64, 128, 256) and two linear layers: 4,577,290 parameters for 10 classes."""
    widths = (3, 64, 128, 256)
    # pooling and ReLU commute; pooled first, ReLU has a quarter of the work
    blocks = [(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.MaxPool2d(2), nn.ReLU()) for a, b in zip(widths, widths[1:])]
    layers = [layer for block in blocks for layer in block]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 1024), nn.ReLU(), nn.Dropout(dropout), nn.Linear(1024, num_classes))


def sparse_cnn(num_classes: int) -> nn.Module:
    """Three of conv3x3 + ReLU (32, 64, 128), max-pooled twice and then averaged: 94,538 parameters for 10 classes."""
    # pooling and ReLU commute; pooled first, ReLU has a quarter of the work
    pooled = [nn.Conv2d(3, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    averaged = [nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*pooled, *averaged, nn.Linear(128, num_classes))


def cnn4(num_classes: int) -> nn.Module:
    """Four convolutions (32, 64, 128, 256), no ReLU after the second, and one linear layer: 799,652 parameters for 100 classes."""
    first = [nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.MaxPool2d(2)]
    second = [nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(128, 256, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4096, num_classes))


class _CifarResNet(nn.Module):
    """A 3x3 stem of 32 channels and three stages of basic blocks, 64, 128 and 256 wide, with torchvision's names of parts."""

    def __init__(self, num_classes: int, blocks: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.layer1, self.layer2, self.layer3 = (
            self._stage(inputs, outputs, stride, blocks) for inputs, outputs, stride in ((32, 64, 1), (64, 128, 2), (128, 256, 2))
        )
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn1(self.conv1(images)))
        return self.fc(self.layer3(self.layer2(self.layer1(features))).mean((2, 3)))


def resnet32x4(num_classes: int) -> nn.Module:
    """The distillation literature's ResNet-32, four times as wide: 7,433,860 parameters for 100 classes."""
    return _CifarResNet(num_classes, 5)


def resnet8x4(num_classes: int) -> nn.Module:
    """The distillation literature's ResNet-8, four times as wide: 1,233,540 parameters for 100 classes."""
    return _CifarResNet(num_classes, 1)


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
    factory.__name__: factory
    for factory in (small_cnn, resnet18, resnet50, resnet101, wrn_16_7, wrn_16_1, wrn_22, reduced_cnn, sparse_cnn, cnn4, resnet32x4, resnet8x4)
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
        digest = file_digest(path)
        return state, f"{KNOWN_WEIGHTS.get(digest, f'weights of {path.name}')} (SHA-256 {digest})"
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise Unreachable(f"the ImageNet weights of {name} are neither at {path} nor to be downloaded ({error})") from None
    return dict(state), f"torchvision {weights} ({Path(weights.url).name})"


def load_weights_file(model: nn.Module, path: Path) -> str:
    """Put the state dict in `path` into `model`, whole; returns the file's name and SHA-256 as one phrase.

    A safetensors file, or one of `torch.save`, of which nothing but tensors and plain values is read. The state dict may
    lie under "model" or "state_dict", beside epochs and the like, and its keys may have the prefix "module." that
    data-parallel training leaves. ResNet32x4 and ResNet8x4 have the names of the public ones of CRD, DKD and SimKD
    (`layer1.0.downsample.0`, `fc`); where a file says `shortcut` and `linear` instead, these are put in their place.
    Raises `InputError` where the file cannot be read, or names the keys that differ.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path} is not a readable state dict ({reason}): give a .safetensors file, or one of torch.save that holds only tensors") from None
    for wrapper in ("state_dict", "model"):
        state = state[wrapper] if isinstance(state, dict) and isinstance(state.get(wrapper), dict) else state
    tensors = {_our_name(name): value for name, value in state.items() if torch.is_tensor(value)} if isinstance(state, dict) else {}
    expected = {name: value.shape for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = {name: value.shape for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        shown = "; ".join(f"{name} (expected {_shape(expected.get(name))}, the file has {_shape(found.get(name))})" for name in different[:3])
        raise InputError(f"{path} does not fit the network: {len(different)} of its keys differ, {shown}")
    model.load_state_dict(tensors, strict=False)
    return f"{path.name} (SHA-256 {file_digest(path)})"


def file_digest(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _our_name(name: str) -> str:
    name = name.removeprefix("module.").replace(".shortcut.", ".downsample.")
    return f"fc.{name.removeprefix('linear.')}" if name.startswith("linear.") else name


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else str(list(shape))


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
