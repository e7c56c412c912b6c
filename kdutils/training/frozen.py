"""Which parts of a network train."""

from torch import nn

TRAINABLE = {  # which parts of a ResNet a policy trains, beside an adapted stem
    "head": ("fc",),
    "last_block": ("layer4", "fc"),
    "layer3_up": ("layer3", "layer4", "fc"),
}


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
    """Put `model` in training mode, except for its top-level parts without a trainable parameter."""
    model.train()
    for child in model.children():
        if {parameter.requires_grad for parameter in child.parameters()} == {False}:
            child.eval()
