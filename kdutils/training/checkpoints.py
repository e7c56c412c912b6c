"""Checkpoints: a killed run goes on from its last one, but only with the same inputs."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from kdutils.settings import write_atomic


@dataclass
class Progress:
    """Where a run stands; `diverged` is the epoch whose loss was not finite, or None."""

    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    diverged: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """The file of a run's state; `facts`: digests of all that the run depends on; `seconds`: the time between two."""

    path: Path
    facts: dict
    seconds: float = 60.0

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the file, whole or not at all; raises `InputError` where it cannot be written."""
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
        for index, state in optimiser.state_dict()["state"].items():
            values = {name: value for name, value in state.items() if torch.is_tensor(value)}
            tensors |= {f"optimiser.{index}.{name}": value.contiguous() for name, value in values.items()}
        header = {"progress": json.dumps(asdict(progress)), "facts": json.dumps(self.facts, sort_keys=True)}
        write_atomic(self.path, save(tensors, header | {"digest": _digest(header["progress"], tensors)}))

    def resume(self, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
        """Load what `save` wrote; a new `Progress` if it is missing, damaged, or of another network or inputs."""
        try:
            with safe_open(self.path, "pt") as file:
                header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
            progress = Progress(**json.loads(header["progress"]))
            shapes = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("model.")}
            wanted = {f"model.{name}": tensor.shape for name, tensor in model.state_dict().items()}
            right = json.dumps(self.facts, sort_keys=True), _digest(header["progress"], tensors), wanted
            if (header["facts"], header["digest"], shapes) != right:
                return Progress()
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return Progress()
        model.load_state_dict({name: tensors.pop(f"model.{name}") for name in model.state_dict()})
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():  # what is left is the optimiser's
            _, index, entry = name.split(".")
            if tensor.dim():  # in its weight's memory layout, which fused optimisers assume unchecked
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[entry] = tensor
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})
        return progress


def _digest(progress: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a checkpoint's progress and tensors."""
    found = hashlib.sha256(progress.encode())
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].cpu().numpy().tobytes())
    return found.hexdigest()
