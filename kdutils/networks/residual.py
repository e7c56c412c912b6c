"""ResNets: torchvision's under four stems, and the distillation literature's for CIFAR.

torchvision takes as long to import as PyTorch does, so it is imported only when a network is built.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

Stem = Literal["imagenet", "resized", "cifar_pool", "cifar"]
FROZEN_STEMS = ("imagenet", "resized")
"""The stems that ImageNet's weights fit unchanged: if only the head trains, the layers below it are constant."""
Pixels = Annotated[int, Field(ge=32, le=512)]


def resnet18(num_classes: int, stem: Stem = "cifar_pool", size: Pixels = 96) -> nn.Module:
    """torchvision's ResNet-18 (He et al., CVPR 2016): 11,173,962 parameters for 10 classes with a 3x3 stem."""
    return _resnet("resnet18", num_classes, stem, size)


def resnet50(
    num_classes: int, stem: Stem = "cifar_pool", size: Pixels = 96, zero_init_residual: bool = False
) -> nn.Module:
    """torchvision's ResNet-50 (He et al., CVPR 2016): 23,520,842 parameters for 10 classes with a 3x3 stem.

    zero_init_residual: the last scale of every block starts at zero, so that the block starts as its shortcut (Goyal et
    al., 2017, section 5.1), and the network learns in fewer steps from random weights.
    """
    return _resnet("resnet50", num_classes, stem, size, zero_init_residual=zero_init_residual)


def resnet101(num_classes: int, stem: Stem = "imagenet", size: Pixels = 96) -> nn.Module:
    """torchvision's ResNet-101 (He et al., CVPR 2016): 42,520,650 parameters for 10 classes with ImageNet's stem."""
    return _resnet("resnet101", num_classes, stem, size)


class _CifarResNet(nn.Module):
    """A 3x3 stem of 32 channels and three stages of basic blocks, 64, 128, 256 wide, named as in torchvision."""

    def __init__(self, num_classes: int, blocks: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.layer1 = self._stage(32, 64, 1, blocks)
        self.layer2, self.layer3 = self._stage(64, 128, 2, blocks), self._stage(128, 256, 2, blocks)
        self.fc = nn.Linear(256, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
        from torchvision.models.resnet import BasicBlock

        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        others = (BasicBlock(outputs, outputs) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), *others)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.bn1(self.conv1(images)))
        return self.fc(self.layer3(self.layer2(self.layer1(features))).mean((2, 3)))


def resnet32x4(num_classes: int) -> nn.Module:
    """The distillation literature's ResNet-32, four times as wide: 7,433,860 parameters for 100 classes."""
    return _CifarResNet(num_classes, 5)


def resnet8x4(num_classes: int) -> nn.Module:
    """The distillation literature's ResNet-8, four times as wide: 1,233,540 parameters for 100 classes."""
    return _CifarResNet(num_classes, 1)


class _ResizingConv2d(nn.Conv2d):
    """A convolution of images [B, 3, H, W] that are resized first, bilinearly, to `size` x `size` pixels."""

    size = 96

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        resized = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return super().forward(resized)


def _resnet(name: str, num_classes: int, stem: Stem, size: int, **options: bool) -> nn.Module:
    """Stems: `imagenet` 7x7/2 and max-pool; `resized` the same on images of `size` x `size` pixels; `cifar_pool` 3x3/1
    and max-pool; `cifar` 3x3/1, no pool."""
    import torchvision

    model = getattr(torchvision.models, name)(weights=None, num_classes=num_classes, **options)
    if stem == "resized":
        model.conv1 = _ResizingConv2d(3, 64, 7, stride=2, padding=3, bias=False)
        model.conv1.size = size
    elif stem != "imagenet":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    if stem != "imagenet":
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if stem == "cifar":
        model.maxpool = nn.Identity()
    return model
