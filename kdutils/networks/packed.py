"""Binary networks at one bit for each binary weight: stored in one file, and run by XNOR and popcount.

The file holds two flat tensors and a header: `bits`, the signs of all binary layers, and `values`, every other number
as float32. Building the network that the header names shows where each number belongs.
"""

import hashlib
import json
import statistics
import timeit
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.binary import BinaryConv2d, binary_layers
from kdutils.networks.registry import build_model
from kdutils.settings import write_atomic

FORMAT, VERSION = "kdutils-packed", "1"
_CHUNK = 8  # images whose popcounts are held at a time


def stored(module: nn.Module) -> list[torch.Tensor]:
    """The tensors of one layer that are stored as float32: a binary layer's scale; else parameters and statistics."""
    if isinstance(module, BinaryConv2d):
        return [module.signs_and_scale()[1].detach().flatten()]
    tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return [tensor.detach() for tensor in tensors if tensor.dtype.is_floating_point]


def weighted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every layer with parameters of its own, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False)))


def pack(model: nn.Module, network: dict, path: Path) -> None:
    """Write a trained binary network to `path`, whole or not at all; the same bytes every time.

    network: `{name, options, num_classes}` to build it again, and the `normalisation` of its images. Raises
    `InputError` if the network has no binary layer, or the file cannot be written.
    """
    if not any(binary_layers(model)):
        raise InputError(f"{network['name']} has no binary layer to pack: train one with precision stem, xnor or bonn")
    signs = [(layer.signs_and_scale()[0].detach() > 0).numpy().reshape(-1) for _, layer in binary_layers(model)]
    values = torch.cat([tensor.float().flatten() for _, layer in weighted_layers(model) for tensor in stored(layer)])
    tensors = {"bits": torch.from_numpy(np.concatenate([*map(np.packbits, signs)])), "values": values.contiguous()}
    header = {"format": FORMAT, "version": VERSION, "network": json.dumps(network, sort_keys=True)}
    content = save(tensors, header | {"digest": _digest(tensors, header)})
    length = 8 + int.from_bytes(content[:8], "little")
    ordered = json.dumps(json.loads(content[8:length]), sort_keys=True).encode()  # safetensors shuffles its header
    ordered += b" " * (-len(ordered) % 8)
    write_atomic(Path(path), len(ordered).to_bytes(8, "little") + ordered + content[length:])


def _digest(tensors: dict[str, torch.Tensor], header: dict[str, str]) -> str:
    content = json.dumps({name: header.get(name, "") for name in ("format", "version", "network")}, sort_keys=True)
    parts = [tensors[name].flatten().view(torch.uint8).numpy().tobytes() for name in ("bits", "values")]
    return hashlib.sha256(content.encode() + b"".join(parts)).hexdigest()


def load_packed(path: Path) -> nn.Module:
    """The network in a packed file, in evaluation mode on the CPU, its binary layers run by XNOR and popcount.

    Takes float32 [B, 3, 32, 32]. Raises `InputError` for a file that is not a packed network of this version, is
    damaged, or does not fit the network that it names.
    """
    tensors, header = _read(path)
    try:
        network = json.loads(header["network"])
        model = build_model(network["name"], network["num_classes"], **network["options"]).eval()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # a RuntimeError for a negative number of classes
        raise InputError(f"{path} names a network that cannot be built ({error})") from None
    bits = sum(-(-layer.weight.numel() // 8) for _, layer in binary_layers(model))
    values = sum(tensor.numel() for _, layer in weighted_layers(model) for tensor in stored(layer))
    for name, dtype, length in (("bits", torch.uint8, bits), ("values", torch.float32, values)):
        if tensors[name].dtype != dtype or tensors[name].shape != (length,):
            found, needed = f"{tensors[name].dtype} {list(tensors[name].shape)}", f"{dtype} [{length}]"
            raise InputError(f"{path}: {name} are {found}, {network['name']} needs {needed}: pack it anew")
    _fill(model, tensors["bits"].numpy(), tensors["values"])
    model.register_forward_pre_hook(_check_images)
    return model


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except Exception as error:  # the reader of a damaged header raises nearly anything
        remedy = "`python -m kdutils pack RUN OUT` makes one"
        raise InputError(f"{path} cannot be read as a packed network ({error}): {remedy}") from None
    if (header.get("format"), header.get("version")) != (FORMAT, VERSION) or tensors.keys() != {"bits", "values"}:
        found = f"{header.get('format', 'another file')!r} of version {header.get('version', 'none')!r}"
        raise InputError(f"{path} is {found}, expected {FORMAT!r} of version {VERSION!r}: pack the run anew")
    if header.get("digest") != _digest(tensors, header):
        raise InputError(f"{path} is damaged: its content does not have the digest that it states; pack the run anew")
    return tensors, header


@torch.no_grad()
def _fill(model: nn.Module, bits: np.ndarray, values: torch.Tensor) -> None:
    """Put the stored numbers in their places, and replace every binary layer by a `PackedConv2d`."""
    for name, layer in [*weighted_layers(model)]:
        places = stored(layer)
        *own, values = values.split([*map(torch.numel, places), len(values) - sum(map(torch.numel, places))])
        if not isinstance(layer, BinaryConv2d):
            for tensor, part in zip(places, own, strict=True):
                tensor.copy_(part.view_as(tensor))
            continue
        used = -(-layer.weight.numel() // 8)
        signs = np.unpackbits(bits[:used], count=layer.weight.numel()).reshape(layer.weight.shape)
        bits = bits[used:]
        model.set_submodule(name, PackedConv2d(signs, own[0], layer))


def _check_images(_, inputs: tuple) -> None:
    images = inputs[0] if inputs else None
    if getattr(images, "dtype", None) != torch.float32 or images.dim() != 4 or images.shape[1:] != (3, 32, 32):
        got = f"{images.dtype} {list(images.shape)}" if torch.is_tensor(images) else type(images).__name__
        raise InputError(f"a packed network takes images as torch.float32 [B, 3, 32, 32], got {got}: render them first")


class PackedConv2d(nn.Module):
    """A binary convolution on bits, equal to `BinaryConv2d` bit for bit: float32 [B, C, H, W] -> [B, O, H', W'].

    The products of n signs sum to n - 2 popcount(inputs XOR weights). The inputs of a kernel are packed into words of
    64 bits; unused bits are 0 in inputs and weights. Zero padding has no sign: it counts as -1, the bit 0, and its part
    in the sums, which depends on the weights alone, is removed again. In mode "stem" the inputs are not signs, so the
    weights become +1 and -1 again for a float convolution.
    """

    def __init__(self, signs: np.ndarray, scale: torch.Tensor, layer: BinaryConv2d):
        super().__init__()
        self.mode, self.stride, self.padding, self.shape = layer.mode, layer.stride[0], layer.padding[0], signs.shape
        self.register_buffer("scale", scale[:, None, None] if layer.mode == "xnor" else scale.view(()))
        if layer.mode == "stem":
            self.bits = np.packbits(signs)
        else:
            packed = np.packbits(np.moveaxis(signs, 1, -1), axis=-1).reshape(len(signs), -1)
            self.words = _words(packed)[..., None]  # [words, O, 1]
            sums = torch.from_numpy(2.0 * signs.sum(1, keepdims=True) - signs.shape[1])
            self.register_buffer("sums_of_signs", sums.float())  # [O, 1, k, k]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.sums(inputs) * self.scale

    def sums(self, inputs: torch.Tensor) -> torch.Tensor:
        """The convolution before its scale; in modes "xnor" and "bonn" whole numbers, as float32 [B, O, H', W']."""
        if self.mode == "stem":
            signs = np.unpackbits(self.bits, count=np.prod(self.shape)).reshape(self.shape) * np.float32(2) - 1
            return F.conv2d(inputs, torch.from_numpy(signs), stride=self.stride, padding=self.padding)
        outside = F.pad(torch.zeros(1, 1, *inputs.shape[2:]), (self.padding,) * 4, value=1.0)
        sums = torch.cat([self._padded_sums(part) for part in inputs.split(_CHUNK)])
        sums = sums + F.conv2d(outside, self.sums_of_signs, stride=self.stride)
        # in the inputs' memory layout, as from a float convolution, because later layers round differently in another
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
        for word, weights in zip(patches, self.words, strict=True):  # long rows of positions, on which NumPy is fastest
            differing += np.bitwise_count(word ^ weights)
        sums = torch.from_numpy(channels * size * size - 2 * differing).float()
        return sums.view(kernels, images, height, width).transpose(0, 1)


def _words(rows: np.ndarray) -> np.ndarray:
    """Rows of bytes, uint8 [N, n], as words of 64 bits, uint64 [ceil(n / 8), N]; unused bits are 0."""
    return np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64).T)


@torch.inference_mode()
def check_exactness(model: nn.Module, packed: nn.Module, images: torch.Tensor) -> pd.DataFrame:
    """Compare both forms of every binary layer, on the inputs it has in the float network, and both networks' logits.

    model: a float network in evaluation mode; packed: the same from `load_packed`; images: float32 [B, 3, 32, 32].
    Columns: layer, its weights' shape, outputs compared, how many differ, the largest difference.
    """
    rows, counterparts = [], dict(packed.named_modules())

    def compare(name: str, shape: object, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        rows.append((name, str(shape), ours.numel(), int((ours != theirs).sum()), float((ours - theirs).abs().max())))

    def hook(name: str, layer: BinaryConv2d, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> None:
        compare(name, list(layer.weight.shape), outputs, counterparts[name](inputs[0]))

    with ExitStack() as hooks:
        for name, layer in binary_layers(model):
            hooks.enter_context(layer.register_forward_hook(partial(hook, name)))
        logits = model(images)
    compare("logits", "-", logits, packed(images))
    return pd.DataFrame(rows, columns=["layer", "weights", "outputs compared", "differ", "largest difference"])


@torch.inference_mode()
def packed_speed(model: nn.Module, packed: nn.Module, images: torch.Tensor, repeats: int = 5) -> pd.DataFrame:
    """Measured images per second of the float and the packed network on this machine, medians over `repeats`.

    NumPy counts bits on one thread; the layers that stay float run on PyTorch's threads in both networks.
    """
    rows, threads = [], torch.get_num_threads()
    for name, network in (("float32", model), ("packed, NumPy", packed)):
        _, *seconds = timeit.repeat(partial(network, images), number=1, repeat=1 + repeats)  # the first warms up
        used = str(threads) if network is model or threads == 1 else f"{threads}, popcounts 1"
        rows.append((name, used, len(images), len(images) / statistics.median(seconds)))
    table = pd.DataFrame(rows, columns=["network", "threads", "batch", "images/s"])
    table["over float32"] = (table["images/s"] / table["images/s"].iloc[0]).map("{:.3g}".format)
    return table.assign(**{"images/s": table["images/s"].map("{:,.1f}".format)})
