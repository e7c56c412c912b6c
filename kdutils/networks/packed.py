"""Binary networks at one bit for each binary weight: counted, stored in one file, and run by XNOR and popcount.

The file holds two flat tensors and a header: `bits`, the signs of all binary layers, and `values`, every other number as
float32. Where each belongs follows from building the network that the header names.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.binary import BinaryConv2d, binary_layers
from kdutils.networks.registry import build_model
from kdutils.settings import write_atomic

FORMAT, VERSION = "kdutils-packed", "1"


_CHUNK = 8  # images whose popcounts are held at a time


def _stored(module: nn.Module) -> list[torch.Tensor]:
    """The numbers of one layer that are stored as float32: of a binary one its scale; else parameters and statistics."""
    if isinstance(module, BinaryConv2d):
        return [module.signs_and_scale()[1].detach().flatten()]
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [tensor.detach() for tensor in tensors if tensor.dtype.is_floating_point]


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if next(module.parameters(recurse=False), None) is not None)


def pack(model: nn.Module, network: dict, path: Path) -> None:
    """Write a trained binary network to `path`, whole or not at all.

    network: what builds it again, `{name, options, num_classes}`, and the `normalisation` of its images. Raises
    `InputError` if the network has no binary layer, or the file cannot be written.
    """
    if not any(binary_layers(model)):
        raise InputError(
            f"{network['name']} has no binary layer to pack: train a network with precision stem, xnor or bonn"
        )
    bits = np.concatenate([_bits(layer.signs_and_scale()[0]) for _, layer in binary_layers(model)])
    values = torch.cat([tensor.float().flatten() for layer in _layers(model) for tensor in _stored(layer)])
    tensors = {"bits": torch.from_numpy(bits), "values": values.contiguous()}
    header = {"format": FORMAT, "version": VERSION, "network": json.dumps(network, sort_keys=True)}
    write_atomic(Path(path), save(tensors, header | {"digest": _digest(tensors, header)}))


def _bits(signs: torch.Tensor) -> np.ndarray:
    """The signs of a layer's n weights, 1 for +1, eight to a byte: uint8 [ceil(n / 8)]."""
    return np.packbits((signs.detach() > 0).numpy().reshape(-1))


def _digest(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    content = json.dumps({name: header[name] for name in ("format", "version", "network")}, sort_keys=True).encode()
    return hashlib.sha256(
        content + b"".join(tensors[name].flatten().view(torch.uint8).numpy().tobytes() for name in ("bits", "values"))
    ).hexdigest()


def load_packed(path: Path) -> nn.Module:
    """The network in a packed file, in evaluation mode on the CPU, its binary layers run by XNOR and popcount.

    Takes float32 [B, 3, 32, 32]. Raises `InputError` for a file that is not a packed network of this version, is
    damaged, or does not fit the network that it names.
    """
    tensors, header = _read(Path(path))
    try:
        network = json.loads(header["network"])
        model = build_model(network["name"], network["num_classes"], **network["options"]).eval()
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # InputError is a ValueError, -3 classes a RuntimeError
        raise InputError(f"{path} names a network that cannot be built ({error})") from None
    lengths = {
        "bits": sum(-(-layer.weight.numel() // 8) for _, layer in binary_layers(model)),
        "values": sum(tensor.numel() for layer in _layers(model) for tensor in _stored(layer)),
    }
    for name, dtype in (("bits", torch.uint8), ("values", torch.float32)):
        if tensors[name].dtype != dtype or tensors[name].shape != (lengths[name],):
            raise InputError(
                f"{path}: {name} are {tensors[name].dtype} {list(tensors[name].shape)}, {network['name']} needs {dtype} [{lengths[name]}]: pack it anew"
            )
    _fill(model, tensors["bits"].numpy(), tensors["values"])
    model.register_forward_pre_hook(_check_images)
    return model


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a packed network ({error}): `python -m kdutils pack RUN OUT` makes one"
        ) from None
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION) or tensors.keys() != {"bits", "values"}:
        raise InputError(
            f"{path} is {header.get('format', 'another file')!r} of version {header.get('version', 'none')!r}, expected {FORMAT!r} of version {VERSION!r}: pack the run anew"
        )
    if header.get("digest") != _digest(tensors, header | {"network": header.get("network", "")}):
        raise InputError(f"{path} is damaged: its content does not have the digest that it states; pack the run anew")
    return tensors, header


@torch.no_grad()
def _fill(model: nn.Module, bits: np.ndarray, values: torch.Tensor) -> None:
    """Put the stored numbers in their places, and a `PackedConv2d` in that of every binary layer."""
    names = {layer: name for name, layer in model.named_modules()}
    for layer in list(_layers(model)):
        stored = _stored(layer)
        own, values = values.split([sum(map(torch.numel, stored)), len(values) - sum(map(torch.numel, stored))])
        if not isinstance(layer, BinaryConv2d):
            for tensor, part in zip(stored, own.split([tensor.numel() for tensor in stored])):
                tensor.copy_(part.view_as(tensor))
            continue
        used = -(-layer.weight.numel() // 8)
        signs = np.unpackbits(bits[:used], count=layer.weight.numel()).reshape(layer.weight.shape)
        bits = bits[used:]
        parent, _, child = names[layer].rpartition(".")
        setattr(model.get_submodule(parent), child, PackedConv2d(signs, own, layer))


def _check_images(_, inputs: tuple) -> None:
    images = inputs[0] if inputs else None
    if (
        not isinstance(images, torch.Tensor)
        or images.dtype != torch.float32
        or images.dim() != 4
        or images.shape[1:] != (3, 32, 32)
    ):
        raise InputError(
            f"a packed network takes images as torch.float32 [B, 3, 32, 32], got {_described(images)}: render them first"
        )


def _described(inputs: object) -> str:
    return f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, torch.Tensor) else type(inputs).__name__


class PackedConv2d(nn.Module):
    """A binary convolution on bits: float32 [B, C, H, W] -> float32 [B, O, H', W'], equal to `BinaryConv2d` bit for bit.

    The products of n signs sum to n - 2 popcount(inputs XOR weights). What a kernel sees lies in words of 64 bits, whose
    unused bits are 0 on both sides. Zero padding is neither sign: it counts as -1, the bit 0, and what that adds at the
    borders, which depends on the weights alone, is taken off again. In mode "stem" the inputs are no signs: there the
    weights become +1 and -1 again and a float convolution follows.
    """

    def __init__(self, signs: np.ndarray, scale: torch.Tensor, layer: BinaryConv2d):
        super().__init__()
        self.mode, self.stride, self.padding, self.shape = layer.mode, layer.stride[0], layer.padding[0], signs.shape
        self.register_buffer("scale", scale[:, None, None] if layer.mode == "xnor" else scale.view(()))
        if layer.mode == "stem":
            self.bits = np.packbits(signs)
        else:
            self.words = _words(np.packbits(np.moveaxis(signs, 1, -1), axis=-1).reshape(len(signs), -1))[
                ..., None
            ]  # [words, O, 1]
            self.register_buffer(
                "sums_of_signs", torch.from_numpy(2.0 * signs.sum(1, keepdims=True) - signs.shape[1]).float()
            )  # [O, 1, k, k]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        _, channels, kernel, _ = self.shape
        least = kernel - 2 * self.padding
        if (
            not isinstance(inputs, torch.Tensor)
            or inputs.dtype != torch.float32
            or inputs.dim() != 4
            or inputs.shape[1] != channels
            or min(inputs.shape[2:]) < least
        ):
            raise InputError(
                f"a packed layer takes torch.float32 [B, {channels}, H, W], H and W at least {max(least, 1)}, got {_described(inputs)}"
            )
        return self.sums(inputs) * self.scale

    def sums(self, inputs: torch.Tensor) -> torch.Tensor:
        """The convolution before its scale; in modes "xnor" and "bonn" whole numbers, as float32 [B, O, H', W']."""
        if self.mode == "stem":
            signs = np.unpackbits(self.bits, count=np.prod(self.shape)).reshape(self.shape) * np.float32(2) - 1
            return F.conv2d(inputs, torch.from_numpy(signs), stride=self.stride, padding=self.padding)
        outside = F.pad(torch.zeros(1, 1, *inputs.shape[2:]), (self.padding,) * 4, value=1.0)
        sums = torch.cat([self._padded_sums(part) for part in inputs.split(_CHUNK)]) + F.conv2d(
            outside, self.sums_of_signs, stride=self.stride
        )
        # in the layout of the inputs, as a float convolution's: the layers that follow round differently in another
        rows_last = inputs.is_contiguous(memory_format=torch.channels_last)
        return sums.contiguous(memory_format=torch.channels_last if rows_last else torch.contiguous_format)

    def _padded_sums(self, inputs: torch.Tensor) -> torch.Tensor:
        """The sums [B, O, H', W'] of inputs padded with -1."""
        kernels, channels, size, _ = self.shape
        bits = np.packbits((inputs >= 0).permute(0, 2, 3, 1).numpy(), axis=-1)
        bits = np.pad(bits, ((0, 0), (self.padding,) * 2, (self.padding,) * 2, (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(bits, (size, size), (1, 2))[:, :: self.stride, :: self.stride]
        images, height, width = seen.shape[:3]
        patches = _words(np.moveaxis(seen, 3, -1).reshape(images * height * width, size * size * bits.shape[-1]))
        differing = np.zeros((kernels, images * height * width), dtype=np.int32)
        for word, weights in zip(patches, self.words):  # long rows of positions: NumPy is fastest there
            differing += np.bitwise_count(word ^ weights)
        sums = torch.from_numpy(channels * size * size - 2 * differing).float()
        return sums.view(kernels, images, height, width).transpose(0, 1)


def _words(rows: np.ndarray) -> np.ndarray:
    """Rows of bytes, uint8 [N, n], as words of 64 bits, uint64 [ceil(n / 8), N]; unused bits are 0."""
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64).T)


@torch.inference_mode()
def check_exactness(model: nn.Module, packed: nn.Module, images: torch.Tensor) -> pd.DataFrame:
    """Both forms of every binary layer on the inputs that the float network feeds it, and both networks' logits.

    model: a float network in evaluation mode; packed: the same from `load_packed`; images: float32 [B, 3, 32, 32].
    Columns: layer, its weights' shape, outputs compared, how many differ, the largest difference.
    """
    rows: list[tuple] = []
    counterparts = dict(packed.named_modules())

    def compare(name: str) -> Callable:
        def hook(layer: BinaryConv2d, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
            rows.append(_differences(name, list(layer.weight.shape), outputs, counterparts[name](inputs[0])))

        return hook

    hooks = [layer.register_forward_hook(compare(name)) for name, layer in binary_layers(model)]
    try:
        logits = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    rows.append(_differences("logits", "-", logits, packed(images)))
    return pd.DataFrame(rows, columns=["layer", "weights", "outputs compared", "differ", "largest difference"])


def _differences(name: str, shape: object, ours: torch.Tensor, theirs: torch.Tensor) -> tuple:
    return name, str(shape), ours.numel(), int((ours != theirs).sum()), float((ours - theirs).abs().max())


@torch.inference_mode()
def packed_speed(model: nn.Module, packed: nn.Module, images: torch.Tensor, repeats: int = 5) -> pd.DataFrame:
    """Measured images per second of the float and the packed network on this machine, medians over `repeats`.

    NumPy counts bits on one thread; the layers that stay float run on PyTorch's threads in both networks.
    """
    rows, threads = [], torch.get_num_threads()
    for name, network in (("float32", model), ("packed, NumPy", packed)):
        network(images)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            network(images)
            seconds.append(time.perf_counter() - began)
        used = str(threads) if network is model or threads == 1 else f"{threads}, popcounts 1"
        rows.append(
            {
                "network": name,
                "threads": used,
                "batch": len(images),
                "images/s": len(images) / statistics.median(seconds),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(
        **{
            "over float32": (table["images/s"] / table["images/s"].iloc[0]).map("{:.3g}".format),
            "images/s": table["images/s"].map("{:,.1f}".format),
        }
    )
