"""Optimisers and learning-rate schedules."""

import numpy as np
import torch
from torch import nn

from kdutils.networks.binary import UNDECAYED
from kdutils.specs import OptimiserSpec


def make_optimiser(spec: OptimiserSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the trainable parameters; those of a prior and logarithms of scales do not decay to zero."""
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if name.endswith(UNDECAYED) else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    settings = {"lr": spec.learning_rate, "weight_decay": spec.weight_decay, "fused": True}
    if spec.name == "adam":
        return torch.optim.Adam(groups, **settings)
    return torch.optim.SGD(groups, momentum=spec.momentum, **settings)


def learning_rate(spec: OptimiserSpec, epoch: float, epochs: int) -> float:
    """The learning rate after `epoch`, which may be fractional, of `epochs` epochs.

    `step` multiplies by `factor` at every milestone; `one_cycle` rises linearly from a twentieth over the first 30%
    and falls linearly to zero.
    """
    if spec.schedule == "step":
        return spec.learning_rate * spec.factor ** sum(epoch >= milestone for milestone in spec.milestones)
    if spec.schedule == "one_cycle":
        return spec.learning_rate * float(np.interp(epoch / epochs, [0, 0.3, 1], [0.05, 1, 0]))
    return spec.learning_rate
