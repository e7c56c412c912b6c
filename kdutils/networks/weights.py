"""Weights that a network starts from: ImageNet's, or a state dict as public code saves it."""

import argparse
import hashlib
import io
import re
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from kdutils.data.datasets import fetching
from kdutils.errors import InputError, Unavailable
from kdutils.networks.registry import IMAGENET_NETWORKS
from kdutils.settings import settings

KNOWN_WEIGHTS = {  # SHA-256 of files whose origin is known; any other file is named by its digest alone
    "89403e8f011306ea": "ImageNet, product-quantised, 66.74% top-1",
    "be08c46c0b9a2ed2": "ImageNet, product-quantised, 72.18% top-1",
}
"""Decoded from "Permute, Quantize, and Fine-tune" (Martinez et al., CVPR 2021); the accuracies are that paper's."""

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "weights")
_PREFIXES = re.compile(r"^((module|_orig_mod|model|net|network|backbone)\.)+")
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")  # from batch norms, averaging, profilers
_NUMPY = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]  # functions that unpickle its scalars and arrays
_HARMLESS = [argparse.Namespace, np.ndarray, np.dtype]  # may lie beside the weights, and are then ignored
_HARMLESS += [(of, f"numpy.{core}.multiarray.{of.__name__}") for of in _NUMPY for core in ("core", "_core")]
_HARMLESS += {type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}


def available(name: str) -> bool:
    """Whether ImageNet weights of `name` are here or can be fetched (they then are); raises `InputError` for damage."""
    try:
        path = _imagenet_file(name, fetch=True) if name in IMAGENET_NETWORKS else None
    except Unavailable:
        return False
    if path and "layer1.0.conv1.weight" not in _tensors(_read(path)[0], {}):
        raise InputError(f"{path} does not fit {name}: torchvision's state-dict keys are expected, with layer1.0.conv1")
    return path is not None


def imagenet_digest(name: str) -> str | None:
    """The digest of the file that `load_imagenet` would read; None if it is not on this machine."""
    path = _imagenet_file(name, fetch=False)
    return file_digest(path) if path.is_file() else None


def _imagenet_file(name: str, fetch: bool) -> Path:
    """Where the ImageNet weights of `name` are or would be: in the data folder, else in torchvision's cache."""
    own = settings().data_dir / "imagenet" / f"{name}.safetensors"
    if own.is_file():
        return own
    published = IMAGENET_NETWORKS[name]
    path = Path(torch.hub.get_dir(), "checkpoints", published)
    if fetch and not path.is_file():
        with fetching(f"the ImageNet weights of {name} are not at {own}"):
            address = f"https://download.pytorch.org/models/{published}"
            torch.hub.load_state_dict_from_url(address, check_hash=True, weights_only=True)
    return path


def load_imagenet(model: nn.Module, name: str) -> str:
    """Put ImageNet weights into `model`, all but the head; returns their source and digest as one phrase.

    They come from `KD_DATA_DIR/imagenet/<name>.safetensors`, else from torchvision (downloaded once, hash-checked). A
    3x3 stem takes the centre of the 7x7 kernels. Raises `Unavailable`, or `InputError` for a file that does not fit.
    """
    path = _imagenet_file(name, fetch=True)
    content, digest = _read(path)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    tensors = {key: value for key, value in _tensors(content, expected).items() if not key.startswith("fc.")}
    kernels = tensors.get("conv1.weight", torch.empty(0, 0, 0, 0))
    if model.conv1.kernel_size == (3, 3) and kernels.shape[2:] == (7, 7):
        tensors["conv1.weight"] = kernels[:, :, 2:5, 2:5].contiguous()
    _put(model, expected, tensors, f"{path} does not fit {name}")
    origin = "weights of" if path.suffix == ".safetensors" else "torchvision's"
    return f"{KNOWN_WEIGHTS.get(digest, f'{origin} {path.name}')} (SHA-256 {digest})"


def load_weights_file(model: nn.Module, path: Path) -> str:
    """Load the whole state dict in `path` into `model`; returns the file's name and digest as one phrase.

    The file is a safetensors one, or of `torch.save`, of which no code is run. The state dict may lie under "model",
    "state_dict", "net" or another of `_WRAPPERS`, even nested, beside an optimiser's state and the like. The prefixes
    "module.", "model." and so on, and "student.", are removed from names; if there are names with "student.", the
    others are ignored. ResNet32x4 and ResNet8x4 have the names of the public ones of CRD, DKD and SimKD
    (`layer1.0.downsample.0`, `fc`); `shortcut` and `linear` are read as these. Raises `InputError` if the file cannot
    be read, or if keys differ, which the message names.
    """
    content, digest = _read(path)
    expected = model.state_dict()
    _put(model, expected, _tensors(content, expected), f"{path} does not fit the network")
    return f"{path.name} (SHA-256 {digest})"


def file_digest(path: Path) -> str:
    """The first 16 digits of a file's SHA-256; computed once for each version of the file."""
    return _digest_of(path, path.stat().st_mtime_ns if path.is_file() else 0)


@cache
def _digest_of(path: Path, written: int) -> str:
    return hashlib.sha256(_bytes(path)).hexdigest()[:16]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give the path of a file of weights") from None


def _read(path: Path) -> tuple[object, str]:
    """The content of a file of weights (its bytes tell safetensors from `torch.save`), and its digest."""
    content = _bytes(path)
    try:
        if content[8:9] == b"{":
            state = safetensors.torch.load(content)
        else:
            with torch.serialization.safe_globals(_HARMLESS):
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the readers of damaged files raise nearly anything
        remedy = "give a .safetensors file, or one of torch.save(model.state_dict(), path)"
        if unknown := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(f"{path} holds {unknown[1]}, which could run anything and is not read: {remedy}") from None
        reason = (str(error).rpartition("error: ")[2].strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is damaged or no state dict ({reason}): {remedy}") from None
    return state, hashlib.sha256(content).hexdigest()[:16]


def _tensors(content: object, expected: dict) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by the names that the network has, out of their wrappers."""
    for _ in range(8):  # a limit, because a dict may contain itself
        inner = [content[key] for key in _WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        content = inner[0] if inner else content
    items = content.items() if isinstance(content, dict) else ()
    found = {_PREFIXES.sub("", str(name)): value for name, value in items if torch.is_tensor(value)}
    while inner := {name: value for name, value in found.items() if name.startswith("student.")}:
        found = {_PREFIXES.sub("", name.removeprefix("student.")): value for name, value in inner.items()}
    tensors = {}
    for name, value in found.items():
        if name not in expected:
            name = re.sub(r"^linear\.", "fc.", name.replace(".shortcut.", ".downsample."))
        if name in expected or name.rpartition(".")[2] not in _COUNTERS:
            tensors[name] = value
    return tensors


def _put(model: nn.Module, expected: dict, tensors: dict[str, torch.Tensor], problem: str) -> None:
    """Load `tensors`, which must have the names and shapes of `expected`, except for counters of batch norms."""
    shapes = [
        (name, *(list(of[name].shape) if name in of else "nothing" for of in (expected, tensors)))
        for name in sorted(expected.keys() | tensors.keys())
        if name in tensors or not name.endswith("num_batches_tracked")
    ]
    if different := [shape for shape in shapes if shape[1] != shape[2]]:
        shown = "; ".join(f"{name} (expected {ours}, the file has {theirs})" for name, ours, theirs in different[:3])
        raise InputError(f"{problem}: {len(different)} of its keys differ, {shown}")
    for name, tensor in tensors.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not is_plain or (expected[name].is_floating_point() and not tensor.is_floating_point()):
            raise InputError(f"{problem}: {name} is sparse, quantised or {tensor.dtype}, give plain weights")
    model.load_state_dict(tensors, strict=False)
