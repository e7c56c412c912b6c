"""Weights that a network starts from: ImageNet's, or a public state dict."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from kdutils.errors import InputError, Unavailable
from kdutils.networks.registry import build_model
from kdutils.settings import settings

IMAGENET_CLASSES = 1000


KNOWN_WEIGHTS = {  # SHA-256 of files whose origin is known; any other file is named by its digest alone
    "89403e8f011306ea": "ImageNet, product-quantised, 66.74% top-1",
    "be08c46c0b9a2ed2": "ImageNet, product-quantised, 72.18% top-1",
}
"""Decoded from "Permute, Quantize, and Fine-tune" (Martinez et al., CVPR 2021); the accuracies are that paper's."""


def imagenet_file(name: str) -> Path:
    """Where this machine's own ImageNet weights of `name` would lie."""
    return settings().data_dir / "imagenet" / f"{name}.safetensors"


def imagenet_digest(name: str) -> str | None:
    """The first 16 digits of the SHA-256 of this machine's own ImageNet weights of `name`; None without any."""
    path = imagenet_file(name)
    return file_digest(path) if path.is_file() else None


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
    different = sorted(
        key for key in expected.keys() | body.keys() if key not in body or expected.get(key) != body[key].shape
    )
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
            raise InputError(
                f"{path} is damaged ({error}): expected a safetensors state dict of torchvision's {name}"
            ) from None
        digest = file_digest(path)
        return state, f"{KNOWN_WEIGHTS.get(digest, f'weights of {path.name}')} (SHA-256 {digest})"
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"the ImageNet weights of {name} are neither at {path} nor to be downloaded ({error})"
        ) from None
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
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{path} is not a readable state dict ({reason}): give a .safetensors file, or one of torch.save that holds only tensors"
        ) from None
    for wrapper in ("state_dict", "model"):
        state = state[wrapper] if isinstance(state, dict) and isinstance(state.get(wrapper), dict) else state
    tensors = (
        {_our_name(name): value for name, value in state.items() if torch.is_tensor(value)}
        if isinstance(state, dict)
        else {}
    )
    expected = {
        name: value.shape for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")
    }
    found = {name: value.shape for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    if different := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        shown = "; ".join(
            f"{name} (expected {_shape(expected.get(name))}, the file has {_shape(found.get(name))})"
            for name in different[:3]
        )
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


def available(name: str) -> bool:
    """Whether the ImageNet weights of network `name` can be had."""
    try:
        return bool(_imagenet_state(name))
    except Unavailable:
        return False


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
    except Unavailable as error:
        if init == "imagenet":
            raise
        print(f"{error}: the ResNets start from random weights.")
        return "random"
