"""Plain convolutional networks; parameter counts stand in the docstrings and are tested.

Pooling comes before ReLU: the two commute, and ReLU then has a quarter of the work.
"""

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

Dropout = Annotated[float, Field(ge=0, lt=1)]


class _SmallCNN(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(2048, 128), nn.Linear(128, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.pool(self.conv2(F.relu(self.pool(self.conv1(images))))))
        return self.fc2(F.relu(self.fc1(features.flatten(1))))


def small_cnn(num_classes: int) -> nn.Module:
    """Two 3x3 convolutions with max-pooling and two linear layers: 268,650 parameters for 10 classes."""
    return _SmallCNN(num_classes)


def reduced_cnn(num_classes: int, dropout: Dropout = 0.5) -> nn.Module:
    """Three conv3x3 + BN + ReLU + max-pool (64, 128, 256), two linear layers: 4,577,290 parameters for 10 classes."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, 64, 128, 256)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.MaxPool2d(2), nn.ReLU()]
    head = [nn.Flatten(), nn.Linear(4096, 1024), nn.ReLU(), nn.Dropout(dropout), nn.Linear(1024, num_classes)]
    return nn.Sequential(*layers, *head)


def sparse_cnn(num_classes: int) -> nn.Module:
    """Three conv3x3 + ReLU (32, 64, 128), max-pooled twice and then averaged: 94,538 parameters for 10 classes."""
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
    averaged = [nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*first, *second, *averaged, nn.Linear(128, num_classes))


def cnn4(num_classes: int) -> nn.Module:
    """Four convolutions (32 to 256), no ReLU after the second, one linear layer: 799,652 parameters for 100 classes."""
    first = [nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.MaxPool2d(2)]
    second = [nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(128, 256, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4096, num_classes))
