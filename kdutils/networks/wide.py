"""WideResNets in full precision and with 1-bit weights."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from kdutils.networks.binary import BinaryConv2d, PReLU
from kdutils.networks.plain import Dropout

Precision = Literal["full", "stem", "xnor", "bonn"]


class _Block(nn.Module):
    """A pre-activation block: two times BN -> ReLU -> conv3x3, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(images))
        shortcut = self.shortcut(active) if self.shortcut else images
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class _BinaryUnit(nn.Module):
    """BONN's order, BN -> sign -> conv3x3 -> add shortcut -> PReLU: BN after the convolution would cancel its scale."""

    def __init__(self, inputs: int, outputs: int, stride: int, mode: str):
        super().__init__()
        self.bn, self.act = nn.BatchNorm2d(inputs), PReLU(outputs)
        self.conv = BinaryConv2d(inputs, outputs, 3, mode, stride, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(self.bn(images)) + (self.shortcut(images) if self.shortcut else images))


class _WideResNet(nn.Module):
    def __init__(self, num_classes: int, blocks: int, widths: tuple[int, ...], precision: Precision, dropout: float):
        super().__init__()
        if precision == "stem":
            self.conv1 = BinaryConv2d(3, widths[0], 3, "stem", padding=1)
        else:
            self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for stage, (inputs, outputs) in enumerate(pairwise(widths)):
            for index in range(blocks):
                shape = (outputs if index else inputs, outputs, 2 if stage and not index else 1)
                if precision in ("xnor", "bonn"):
                    layers += [_BinaryUnit(*shape, precision), _BinaryUnit(outputs, outputs, 1, precision)]
                else:
                    layers.append(_Block(*shape))
        self.layers = nn.Sequential(*layers)
        self.bn, self.dropout = nn.BatchNorm2d(widths[-1]), nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, BinaryConv2d):
                module.settle()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn(self.layers(self.conv1(images)))).mean((2, 3))
        return self.fc(self.dropout(features))


def wrn_16_7(num_classes: int, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """WideResNet-16-7 (Zagoruyko and Komodakis, BMVC 2016): 8,395,994 parameters in full precision for 10 classes.

    precision: "full"; "stem", the first convolution binary; "xnor" or "bonn", the blocks' 3x3 convolutions binary, in
    BONN's block order. dropout: of the features before the classifier.
    """
    return _WideResNet(num_classes, 2, (16, 112, 224, 448), precision, dropout)


def wrn_16_1(num_classes: int, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """The thin sibling of `wrn_16_7`, for short runs: 175,066 parameters in full precision for 10 classes."""
    return _WideResNet(num_classes, 2, (16, 16, 32, 64), precision, dropout)


def wrn_10_1(num_classes: int, precision: Precision = "full", dropout: Dropout = 0.0) -> nn.Module:
    """The thin, shallow sibling of `wrn_16_7`, for short runs: 77,850 parameters in full precision for 10 classes."""
    return _WideResNet(num_classes, 1, (16, 16, 32, 64), precision, dropout)


def wrn_22(
    num_classes: int, width: Literal[16, 64] = 16, precision: Precision = "full", dropout: Dropout = 0.0
) -> nn.Module:
    """BONN's WRN-22: 272,282 parameters in full precision with stages 16-16-32-64, 4,326,986 with 64-64-128-256."""
    return _WideResNet(num_classes, 3, (width, width, 2 * width, 4 * width), precision, dropout)
