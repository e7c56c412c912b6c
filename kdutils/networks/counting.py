"""The size and cost of networks: parameters, bytes, multiply-accumulates, layers."""

import contextlib
import copy
import io
import re
from functools import lru_cache

import pandas as pd
import torch
from torch import nn

from kdutils.errors import InputError
from kdutils.networks.binary import BinaryConv2d
from kdutils.networks.packed import PackedConv2d, stored, weighted_layers
from kdutils.networks.registry import build_model


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, frozen ones included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())


@lru_cache(maxsize=64)
def forward_macs(name: str, num_classes: int, **options: str | int | float | bool) -> int:
    """Multiply-accumulate operations of one image's forward pass through convolutions and linear layers."""
    with torch.device("meta"):
        return _macs(build_model(name, num_classes, **options))["Global"]


def _macs(model: nn.Module) -> dict[str, int]:
    """The operations that `forward_macs` counts, by layer name, and their sum as "Global"; `model` is unchanged."""
    from torch.utils.flop_counter import FlopCounterMode  # imported here because it imports a compiler

    copied = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied(torch.empty(1, 3, 32, 32, device="meta"))
    root = f"{type(model).__name__}."
    return {name.removeprefix(root): sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}


def layer_summary(model: nn.Module) -> tuple[pd.DataFrame, dict[str, float]]:
    """torchsummary's layers (layer, output shape, parameters) and its totals (parameters; megabytes) for one image.

    `model` and later random draws are untouched. Raises `InputError` for a network with other parameters than `weight`
    and `bias`, which torchsummary does not see.
    """
    from torchsummary import summary

    printed = io.StringIO()
    with torch.random.fork_rng(), contextlib.redirect_stdout(printed):
        summary(copy.deepcopy(model).cpu().float().eval(), (3, 32, 32), device="cpu")
    rows = re.findall(r"^\s*(\S+-\d+)\s+(\[.*?\])\s+([\d,]+)$", printed.getvalue(), re.MULTILINE)
    layers = [(layer, shape.replace("[-1, ", "["), count) for layer, shape, count in rows]
    found = re.findall(r"^(?:Estimated )?([A-Z][^:\n]*?)(?: \(MB\))?: ([\d.,]+)$", printed.getvalue(), re.MULTILINE)
    totals = {name: float(value.replace(",", "")) for name, value in found}
    if totals["Total params"] != parameter_count(model):
        raise InputError("torchsummary does not see all parameters of this network: use accounting(model)")
    return pd.DataFrame(layers, columns=["layer", "output shape", "parameters"]), totals


def accounting(model: nn.Module) -> pd.DataFrame:
    """The size and cost of each layer of a network in inference, a row for each that holds numbers or multiplies.

    Columns: layer; kind; precision ("1 bit" or "32 bit", of its weights); parameters (weights, biases, slopes, and the
    scales of binary layers; not the latent weights and priors that only training needs); statistics (of batch norms);
    bytes as packed (a binary layer's signs at 1 bit, in whole bytes; all else float32); float bytes (its weights,
    parameters and statistics, all as float32, without a binary layer's scales); MACs of the convolutions and linear
    layers for one image, 3 x 32 x 32. Raises `InputError` for a network from `load_packed`.
    """
    if any(isinstance(module, PackedConv2d) for module in model.modules()):
        raise InputError("this network is packed: count the float one that it was packed from, record.load_model()")
    macs, rows = _macs(model), []
    for name, module in weighted_layers(model):
        bits = module.weight.numel() if isinstance(module, BinaryConv2d) else 0
        others = sum(tensor.numel() for tensor in stored(module))
        statistics = sum(tensor.numel() for tensor in module.buffers(recurse=False) if tensor.dim())
        row = {"layer": name, "kind": type(module).__name__, "precision": "1 bit" if bits else "32 bit"}
        row |= {"parameters": bits + others - statistics, "statistics": statistics}
        row |= {"bytes": -(-bits // 8) + 4 * others, "float bytes": 4 * (bits or others), "MACs": macs.get(name, 0)}
        rows.append(row)
    return pd.DataFrame(rows)


def accounting_totals(table: pd.DataFrame) -> pd.DataFrame:
    """The sums of an `accounting` table by precision, and over all layers."""
    numbers = ["parameters", "statistics", "bytes", "float bytes", "MACs"]
    sums = table.groupby("precision", sort=True)[numbers].sum().reset_index()
    return pd.concat([sums, pd.DataFrame([{"precision": "all", **table[numbers].sum()}])], ignore_index=True)
