"""What networks weigh: parameters, bytes, multiply-accumulates, layers."""

from __future__ import annotations

import contextlib
import copy
import io
import re
from collections.abc import Callable
from functools import lru_cache

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdutils.errors import InputError
from kdutils.networks.binary import BinaryConv2d
from kdutils.networks.packed import PackedConv2d, _stored
from kdutils.networks.registry import build_model


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


def accounting(model: nn.Module) -> pd.DataFrame:
    """What each layer of a network weighs in inference, a row for each layer that holds numbers or multiplies.

    Columns: layer; kind; precision ("1 bit" or "32 bit", of its weights); parameters (weights, biases, slopes, and the
    scales of binary layers; not the latent weights and priors that only training needs); statistics (of batch norms);
    bytes as packed (a binary layer's signs at 1 bit, in whole bytes; all else float32); float bytes (its weights,
    parameters and statistics, all as float32, without a binary layer's scales); MACs of the convolutions and linear
    layers for one image, 3 x 32 x 32. A "stem" layer multiplies its 1-bit weights with float32 inputs, the others signs
    with signs. Raises `InputError` for a network from `load_packed`: what it weighs is told by the float one.
    """
    if any(isinstance(module, PackedConv2d) for module in model.modules()):
        raise InputError(
            "this network is packed already: count the float network that it was packed from, record.load_model()"
        )
    macs = _layer_macs(model)
    rows = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        bits = module.weight.numel() if isinstance(module, BinaryConv2d) else 0
        others = sum(tensor.numel() for tensor in _stored(module))
        statistics = sum(tensor.numel() for tensor in module.buffers(recurse=False) if tensor.dim())
        rows.append(
            {
                "layer": name,
                "kind": type(module).__name__,
                "precision": "1 bit" if bits else "32 bit",
                "parameters": bits + others - statistics,
                "statistics": statistics,
                "bytes": -(-bits // 8) + 4 * others,
                "float bytes": 4 * (bits or others),
                "MACs": macs.get(name, 0),
            }
        )
    return pd.DataFrame(rows)


def accounting_totals(table: pd.DataFrame) -> pd.DataFrame:
    """The sums of an `accounting` table by precision, and in all."""
    numbers = ["parameters", "statistics", "bytes", "float bytes", "MACs"]
    sums = table.groupby("precision", sort=True)[numbers].sum().reset_index()
    return pd.concat([sums, pd.DataFrame([{"precision": "all", **table[numbers].sum()}])], ignore_index=True)


def _layer_macs(model: nn.Module) -> dict[str, int]:
    """Multiply-accumulates of every convolution and linear layer, counted from the shapes of one image's forward pass."""
    counted: dict[str, int] = {}

    def count(name: str) -> Callable:
        def hook(module: nn.Module, _, outputs: torch.Tensor) -> None:
            per_output = module.weight[0].numel()  # a kernel's entries, or a row of the matrix
            counted[name] = counted.get(name, 0) + outputs[0].numel() * per_output

        return hook

    copied = copy.deepcopy(model).to("meta").eval()
    for name, module in copied.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count(name))
    with torch.no_grad():
        copied(torch.empty(1, 3, 32, 32, device="meta"))
    return counted
