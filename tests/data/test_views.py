"""Views: pixels equal torchvision's; splits, orders and views are fixed draws."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from kdutils.data.views import IDENTITY_VIEW, NORMALISATION, allowed_views, epoch_stream, render, split_indices
from kdutils.errors import InputError


def images_like_photographs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("normalisation", NORMALISATION)
def test_all_162_views_have_torchvisions_pixels(normalisation):
    image = images_like_photographs(1)
    codes = torch.arange(162)
    ours = render(torch.from_numpy(image), torch.zeros(162, dtype=torch.long), codes, normalisation)
    padded = TF.pad(Image.fromarray(image[0]), 4, fill=0)
    mean, std = NORMALISATION[normalisation]
    seen = set()
    for code in codes.tolist():
        top, left, flip = code // 18, code // 2 % 9, code % 2
        crop = TF.crop(padded, top, left, 32, 32)
        theirs = TF.normalize(TF.to_tensor(TF.hflip(crop) if flip else crop), mean, std)
        assert torch.equal(ours[code], theirs)
        seen.add(theirs.numpy().tobytes())
    assert ours.dtype == torch.float32 and len(seen) == 162


def test_the_constants_of_normalisation_are_the_published_ones():
    assert NORMALISATION["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert NORMALISATION["half"] == ((0.5,) * 3, (0.5,) * 3)
    for name in ("cifar10", "cifar100"):
        assert len(NORMALISATION[name][0]) == len(NORMALISATION[name][1]) == 3


def test_the_identity_view_shows_the_image_itself():
    images = images_like_photographs(3)
    shown = render(torch.from_numpy(images), torch.tensor([2, 0]), torch.full((2,), IDENTITY_VIEW), "half")
    expected = torch.from_numpy(images[[2, 0]]).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    torch.testing.assert_close(shown, expected)
    assert shown.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_shows_each_image_in_its_own_view():
    images, views = torch.from_numpy(images_like_photographs(5)), torch.tensor([0, 161, 80, 17, 93])
    batch = render(images, torch.arange(5), views)
    assert all(torch.equal(batch[i], render(images, torch.tensor([i]), views[i : i + 1])[0]) for i in range(5))


def test_allowed_views_begin_with_the_image_itself_and_grow():
    every = allowed_views(162)
    assert sorted(every) == list(range(162)) and every[0] == IDENTITY_VIEW == (4 * 9 + 4) * 2
    assert all(np.array_equal(allowed_views(count), every[:count]) for count in (1, 2, 8, 161))


def test_an_epoch_shows_every_image_once_in_an_allowed_view():
    indices = np.array([3, 5, 8, 13, 21, 34, 55, 89])
    order, views = epoch_stream(indices, 4, seed=1, epoch=2)
    assert sorted(order.tolist()) == indices.tolist()
    assert order.dtype == views.dtype == torch.int64 and set(views.tolist()) <= set(allowed_views(4).tolist())


def test_order_depends_on_seed_and_epoch_and_views_on_the_epoch_alone():
    indices = np.arange(500)

    def shown(seed, epoch):
        order, views = epoch_stream(indices, 162, seed, epoch)
        return order.tolist(), dict(zip(order.tolist(), views.tolist(), strict=True))

    order, views = shown(0, 0)
    assert shown(0, 0) == (order, views)
    assert shown(1, 0)[0] != order and shown(1, 0)[1] == views
    assert shown(0, 1)[0] != order and shown(0, 1)[1] != views


def test_views_are_drawn_evenly():
    _, views = epoch_stream(np.arange(16_200), 162, 0, 0)
    counts = np.bincount(views, minlength=162)
    assert counts.min() > 60 and counts.max() < 145  # 100 expected, 4 to 4.5 standard deviations


LABELS = np.random.RandomState(0).permutation(np.repeat(np.arange(10), 60)).astype(np.uint8)


@pytest.mark.parametrize("sizes", [(100, 50), (101, 47), (None, 33), (9, 0), (550, 50), (37, 200)])
@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_disjoint_sorted_and_balanced(sizes, seed):
    train, val = split_indices(LABELS, *sizes, seed)
    assert len(train) == (sizes[0] or 600 - sizes[1]) and len(val) == sizes[1]
    assert len(set(train) | set(val)) == len(train) + len(val)
    assert sorted(train) == train.tolist() and sorted(val) == val.tolist()
    assert np.ptp(np.bincount(LABELS[train], minlength=10)) <= 1
    assert np.ptp(np.bincount(LABELS[np.concatenate([train, val])], minlength=10)) <= 1
    assert np.ptp(np.bincount(LABELS[val], minlength=10)) <= (1 if len(train) % 10 == 0 else 2)


def test_a_split_of_unequal_classes_keeps_their_shares():
    labels = np.repeat(np.arange(3), (100, 50, 10))
    train, _ = split_indices(labels, 32, 16)
    assert np.abs(np.bincount(labels[train]) - [20, 10, 2]).max() <= 1


def test_the_split_of_a_seed_is_pinned():
    def digest(seed):
        parts = split_indices(LABELS, 100, 50, seed)
        return hashlib.sha256(np.concatenate(parts).astype("<i8").tobytes()).hexdigest()[:16]

    assert digest(0) == "3d77dc577978f2d4" and digest(0) != digest(1)


def test_a_larger_split_contains_the_smaller_one():
    small, large = (split_indices(LABELS, size)[0] for size in (50, 200))
    assert set(small) <= set(large)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((601, 0), "601 training and 0 validation images were asked for, but there are 600 in all"),
        ((560, 50), "560 training and 50 validation"),
        ((None, 600), "all other training and 600 validation .* at least 1 must be left"),
        ((None, 700), "all other training and 700 validation"),
        ((100, -1), "100 training and -1 validation"),
        ((0, 5), "0 training and 5 validation"),
        ((10, 5, 2**32), "seed is a whole number from 0 to 4,294,967,295, got 4294967296"),
        ((10, 5, -1), "seed is a whole number .* got -1"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_its_numbers(sizes, words):
    with pytest.raises(InputError, match=words):
        split_indices(LABELS, *sizes)
