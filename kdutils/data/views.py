"""Seeded splits, and augmentation as an integer: the 162 views of an image."""

from functools import lru_cache

import numpy as np
import torch

from kdutils.errors import InputError

VIEWS = 162
"""The number of views of an image: a random crop with padding 4 and a flip give exactly 9 x 9 x 2."""

NORMALISATION = {  # per-channel mean and standard deviation of pixels in [0, 1], RGB
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

_PADDING = 4
IDENTITY_VIEW = (_PADDING * 9 + _PADDING) * 2


def split_indices(
    labels: np.ndarray | torch.Tensor, train_size: int | None, val_size: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint, sorted indices of training and validation images, stratified by class; train_size None: all others.

    They come from NumPy's frozen legacy stream, the same on every machine. If the data set is balanced, the numbers of
    images per class differ by at most one in training, two in validation. Raises `InputError` if they cannot be drawn.
    """
    labels = np.asarray(labels)
    wanted = len(labels) - val_size if train_size is None else train_size
    if wanted < 1 or val_size < 0 or wanted + val_size > len(labels):
        training = "all other" if train_size is None else f"{train_size:,}"
        raise InputError(
            f"{training} training and {val_size:,} validation images were asked for, but there are {len(labels):,} "
            "in all: at least 1 must be left to train on, so make the split smaller"
        )
    if not 0 <= seed < 2**32:
        raise InputError(f"a split's seed is a whole number from 0 to 4,294,967,295, got {seed}")
    order = np.random.RandomState(seed).permutation(len(labels))
    # interleave the classes by each image's position within its class, so that every prefix is balanced
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = np.arange(len(members)) * len(labels) // len(members)
    balanced = order[np.argsort(rank[order], kind="stable")]
    return np.sort(balanced[:wanted]), np.sort(balanced[wanted : wanted + val_size])


def allowed_views(count: int) -> np.ndarray:
    """The `count` view codes [count] that training draws from: the image itself first, the rest a fixed draw."""
    others = np.delete(np.arange(VIEWS), IDENTITY_VIEW)
    return np.concatenate([[IDENTITY_VIEW], np.random.RandomState(0).permutation(others)])[:count]


def epoch_stream(indices: np.ndarray, views: int, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One epoch in order: image indices [N] and view codes [N], int64.

    The order is drawn from `seed` and `epoch`; which view an image shows depends on the epoch alone. So runs of other
    seeds see the same views in another order, and a teacher's table costs the same for one seed as for many.
    """
    order = np.random.RandomState([epoch, seed]).permutation(len(indices))
    codes = allowed_views(views)[np.random.RandomState(epoch).randint(0, views, len(indices))]
    return torch.from_numpy(indices[order]), torch.from_numpy(codes[order])


@lru_cache(maxsize=8)
def _constants(normalisation: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of a whole row of 32 pixels, [96]: rows vectorise, single pixels do not."""
    return tuple(torch.tensor(values, device=device).repeat(32) for values in NORMALISATION[normalisation])


def render(
    images: torch.Tensor, indices: torch.Tensor, views: torch.Tensor, normalisation: str = "imagenet"
) -> torch.Tensor:
    """The given views of the given images, as float32 [B, 3, 32, 32] in channels_last layout.

    images: uint8 [N, 32, 32, 3]; indices and views: int64 [B], on the same device. View code
    `(9 * top + left) * 2 + flip` crops at (top, left) of the image padded with 4 zeros, then mirrors it: the pixels
    of torchvision's RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize, in that order.
    """
    batch = torch.nn.functional.pad(images[indices], (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
    side = torch.arange(32, device=images.device)
    rows = (views // 18)[:, None] + side
    columns = (views // 2 % 9)[:, None] + torch.where((views % 2 == 1)[:, None], side.flip(0), side)
    first = torch.arange(len(indices), device=images.device) * 1600  # start of an image's 40 x 40 padded pixels
    where = first[:, None, None] + rows[:, :, None] * 40 + columns[:, None, :]
    pixels = batch.view(-1, 3).index_select(0, where.view(-1))
    mean, std = _constants(normalisation, images.device)
    normalised = pixels.view(-1, 96).float().div_(255).sub_(mean).div_(std)
    return normalised.view(-1, 32, 32, 3).permute(0, 3, 1, 2)
