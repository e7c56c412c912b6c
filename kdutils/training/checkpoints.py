"""Checkpoints: a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from kdutils.errors import InputError


@dataclass
class Progress:
    """Where a run stands; kept between epochs so that a killed run goes on where it was."""

    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def _save_checkpoint(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {
            f"optimiser.{index}.{name}": value.contiguous() for name, value in state.items() if torch.is_tensor(value)
        }
    draft = path.with_suffix(f".draft-{uuid4().hex}")
    try:
        path.parent.mkdir(exist_ok=True)  # another process that ran the same spec may have finished, and tidied up
        save_file(tensors, draft, metadata={"progress": json.dumps(vars(progress))})
        os.replace(draft, path)
    except (OSError, SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise InputError(
            f"the checkpoint {path} cannot be written ({error}): free space there or set KD_RUNS_DIR"
        ) from None


def _resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    """Load what `_save_checkpoint` wrote; an unreadable checkpoint costs the epochs it held, nothing else."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            progress = Progress(**json.loads(file.metadata()["progress"]))
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        path.unlink()
        return Progress()
    model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    )
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, entry = name.split(".", 2)
            if tensor.dim():  # in its weight's memory layout: fused optimisers step through both without looking
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[entry] = tensor
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
    return progress
