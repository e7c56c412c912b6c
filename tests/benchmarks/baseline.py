"""The plain loop of the PyTorch tutorials (with SGD, of RepDistiller), which the suite's speed is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from kdutils.data.datasets import Dataset
from kdutils.data.views import NORMALISATION, epoch_stream, render, split_indices
from kdutils.machine import Runtime
from kdutils.networks.registry import build_model
from kdutils.specs import RunSpec
from kdutils.training.optimisers import make_optimiser

_RENDERED = 1024  # images that the resident rungs render at a time
Batches = Callable[[int], Iterable[tuple[torch.Tensor, torch.Tensor]]]  # an epoch's pixels and labels


class PilImages(torch.utils.data.Dataset):
    """The run's training images as torchvision's data sets give them: through PIL, transformed one by one."""

    def __init__(self, spec: RunSpec, dataset: Dataset):
        indices, _ = split_indices(dataset.train_labels, *spec.data.split)
        self.images, self.labels = dataset.train_images[indices].numpy(), dataset.train_labels[indices].tolist()
        augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*augment, transforms.Normalize(*NORMALISATION[spec.data.normalisation])])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loaded_batches(spec: RunSpec, dataset: Dataset, loaders: int) -> Batches:
    """The run's epochs from a DataLoader with so many worker processes."""
    loader = DataLoader(
        PilImages(spec, dataset), spec.batch_size, shuffle=True, num_workers=loaders, persistent_workers=loaders > 0
    )
    return lambda epoch: loader


def resident_batches(spec: RunSpec, dataset: Dataset, device: torch.device) -> Batches:
    """The run's epochs rendered in chunks from images that stay on the device."""
    indices, _ = split_indices(dataset.train_labels, *spec.data.split)
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device).long()

    def batches(epoch: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        stream = epoch_stream(indices, spec.data.views, spec.seed, epoch)
        for rows, views in zip(*(codes.to(device).split(_RENDERED) for codes in stream), strict=True):
            pixels = render(images, rows, views, spec.data.normalisation)
            yield from zip(pixels.split(spec.batch_size), labels[rows].split(spec.batch_size), strict=True)

    return batches


def tutorial_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, weight: float
) -> torch.Tensor:
    """(1 - weight) CE + weight T^2 KL as the tutorials write it; logits [B, classes], labels [B] -> a scalar."""
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return weight * temperature**2 * soft + (1 - weight) * F.cross_entropy(student, labels)


def teach(spec: RunSpec, batches: Batches, runtime: Runtime, layout: torch.memory_format) -> tuple[float, float]:
    """The tutorials' loop, its teacher run in every step, at a constant rate: images/s, and the mean loss."""
    torch.use_deterministic_algorithms(False)  # the tutorials do not ask for it, and need not pay for it
    method = spec.distillation.method
    teacher = teacher_network(spec).to(runtime.device, memory_format=layout).eval()
    student = network(spec).to(runtime.device, memory_format=layout).train()
    optimiser = make_optimiser(spec.optimiser, student)
    for group in optimiser.param_groups:
        group["fused"] = None  # PyTorch's own default, which the tutorials take
    losses, began, first = [], time.perf_counter(), 0
    for epoch in range(spec.epochs):
        for pixels, labels in batches(epoch):
            pixels, labels = pixels.to(runtime.device, memory_format=layout), labels.to(runtime.device)
            with runtime.autocast():
                with torch.no_grad():
                    knowledge = teacher(pixels)
                outputs = student(pixels)
            loss = tutorial_loss(outputs.float(), knowledge.float(), labels, method.temperature, method.kd_weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
            if len(losses) == 1:  # the first step starts loaders and prepares kernels: not counted
                began, first = time.perf_counter(), len(labels)
    mean = torch.stack(losses).mean().item()  # on a GPU, waits for the last step
    return (spec.data.train_size * spec.epochs - first) / (time.perf_counter() - began), mean


def network(spec: RunSpec) -> nn.Module:
    """The run's network, freshly drawn with its seed."""
    torch.manual_seed(spec.seed)
    return build_model(spec.model.name, spec.data.num_classes, **spec.model.options)


def teacher_network(spec: RunSpec) -> nn.Module:
    """The network of the run's first teacher, freshly drawn, with what its residual blocks add halved.

    Untrained, a deep sum of blocks gives logits beyond a hundred, under which a student's loss diverges.
    """
    teacher = network(spec.teachers[0])
    for name, module in teacher.named_modules():
        if name.endswith("bn2"):
            nn.init.constant_(module.weight, 0.5)
    return teacher
