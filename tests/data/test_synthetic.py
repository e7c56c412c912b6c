"""The synthetic data set is fixed, balanced, not trivial, and learnable."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from kdutils.data.synthetic import FAMILIES, synthesise

SIZES = {"train": 10_000, "test": 2_000}
DIGESTS = {
    "synthetic": {
        "train": "e4d764599e996b0b88f953da77b55b0382688bc3baaf158bf052393c1dae6c0c",
        "test": "a8bca81a2613e6530c6c1a30069809ac11c9bd2656a03c5e68642857b6ccfbf0",
    },
    "synthetic-other": {
        "train": "f1436418549bcb9a7326132d6ef713be7ee8b06d3bcfa7f853294022c09f0e56",
        "test": "05516cba7fca475d32e646ed8a7241f06ed60804aba31d1789b4a18bb3b9b902",
    },
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def made(request):
    """A set's name, its images and labels by split, and its classes."""
    arrays, classes = synthesise(request.param)
    return request.param, {"train": tuple(arrays[:2]), "test": tuple(arrays[2:])}, classes


@pytest.fixture(scope="module")
def splits(made):
    return made[1]


def digest(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


@pytest.mark.parametrize("split", SIZES)
def test_shapes_types_and_balance(splits, split):
    images, labels = splits[split]
    count = SIZES[split]
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    assert labels.shape == (count,) and labels.dtype == np.uint8
    assert images.flags.c_contiguous and images.flags.writeable
    assert np.bincount(labels).tolist() == [count // 10] * 10


def test_twenty_different_class_names_in_two_sets(made):
    name, _, classes = made
    ends = {"synthetic": ("striped disc", "checked ring"), "synthetic-other": ("dotted bar", "netted frame")}
    assert (classes[0], classes[9]) == ends[name] and len(set(classes)) == 10
    named = [{f"{surface} {outline}" for surface in of.surfaces for outline in of.outlines} for of in FAMILIES.values()]
    assert set(classes) in named and not named[0] & named[1]
    assert not set(FAMILIES["synthetic"].outlines) & set(FAMILIES["synthetic-other"].outlines)


@pytest.mark.parametrize("split", SIZES)
def test_bytes_are_pinned(made, split):
    name, splits, _ = made
    assert digest(*splits[split]) == DIGESTS[name][split]


def test_an_unknown_set_is_refused():
    with pytest.raises(KeyError):
        synthesise("natural")


def test_no_image_occurs_twice(splits):
    images = [image.tobytes() for split in splits.values() for image in split[0]]
    assert len(set(images)) == len(images) == sum(SIZES.values())


@pytest.mark.parametrize("split", SIZES)
def test_labels_come_in_no_order(splits, split):
    labels = splits[split][1].astype(int)
    assert np.bincount(labels[: len(labels) // 5]).min() > 0.06 * len(labels) // 5
    assert np.mean(labels[1:] == labels[:-1]) < 0.15


def test_pixels_use_the_whole_range(splits):
    images = splits["train"][0]
    assert images.min() == 0 and images.max() == 255
    assert 105 < images.mean() < 140 and 50 < images.std() < 80


@pytest.mark.parametrize("statistic", [np.mean, np.std], ids=["mean", "spread"])
def test_colour_statistics_hardly_tell_the_class(splits, statistic):
    """Nearest centroid on one number per channel: chance is 10%."""
    train, test = ((statistic(x, axis=(1, 2)), y) for x, y in splits.values())
    centroids = np.stack([train[0][train[1] == c].mean(axis=0) for c in range(10)])
    distances = ((test[0][:, None] - centroids) ** 2).sum(axis=2)
    accuracy = np.mean(distances.argmin(axis=1) == test[1])
    assert accuracy < 0.20


def to_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_a_tiny_network_beats_chance_clearly(splits):
    """Ten epochs on 2,000 images: over 20% of the test images, where chance is 10%."""
    torch.manual_seed(0)
    images, labels = to_tensor(splits["train"][0][:2000]), splits["train"][1][:2000]
    targets = torch.from_numpy(labels).long()
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 36, 10),
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(10):
        for batch in torch.randperm(len(images)).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), targets[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        predicted = model(to_tensor(splits["test"][0])).argmax(dim=1).numpy()
    assert np.mean(predicted == splits["test"][1]) > 0.20
