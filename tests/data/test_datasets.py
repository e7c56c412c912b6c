"""Data: pixels equal torchvision's, splits and views are fixed draws, and a cache is whole or refused."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torchvision.transforms import functional as TF

from kdutils import data
from kdutils.data.datasets import load_dataset, resolve_dataset
from kdutils.data.views import IDENTITY_VIEW, NORMALISATION, allowed_views, epoch_stream, render, split_indices
from kdutils.errors import InputError
from kdutils.specs import DataSpec

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


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
        return order.tolist(), dict(zip(order.tolist(), views.tolist()))

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
    train, val = split_indices(
        LABELS, DataSpec(name="synthetic", train_size=sizes[0], val_size=sizes[1], split_seed=seed)
    )
    assert len(train) == (sizes[0] or 600 - sizes[1]) and len(val) == sizes[1]
    assert len(set(train) | set(val)) == len(train) + len(val)
    assert sorted(train) == train.tolist() and sorted(val) == val.tolist()
    assert np.ptp(np.bincount(LABELS[train], minlength=10)) <= 1
    assert np.ptp(np.bincount(LABELS[np.concatenate([train, val])], minlength=10)) <= 1
    assert np.ptp(np.bincount(LABELS[val], minlength=10)) <= (1 if len(train) % 10 == 0 else 2)


def test_a_split_of_unequal_classes_keeps_their_shares():
    labels = np.repeat(np.arange(3), (100, 50, 10))
    train, _ = split_indices(labels, DataSpec(name="synthetic", train_size=32, val_size=16))
    assert np.abs(np.bincount(labels[train]) - [20, 10, 2]).max() <= 1


def test_the_split_of_a_seed_is_pinned():
    def digest(seed):
        parts = split_indices(LABELS, DataSpec(name="synthetic", train_size=100, val_size=50, split_seed=seed))
        return hashlib.sha256(np.concatenate(parts).astype("<i8").tobytes()).hexdigest()[:16]

    assert digest(0) == "3d77dc577978f2d4" and digest(0) != digest(1)


def test_a_larger_split_contains_the_smaller_one():
    small, large = (split_indices(LABELS, DataSpec(name="synthetic", train_size=size))[0] for size in (50, 200))
    assert set(small) <= set(large)


@pytest.mark.parametrize("sizes", [(601, 0), (560, 50), (None, 600), (None, 700)])
def test_a_split_larger_than_the_set_is_refused(sizes):
    with pytest.raises(InputError, match="600"):
        split_indices(LABELS, DataSpec(name="synthetic", train_size=sizes[0], val_size=sizes[1]))


def test_canonical_order_equals_brute_force_with_ties_by_label():
    images = images_like_photographs(40)
    images[[7, 19, 33]] = images[3]
    labels = np.random.RandomState(1).randint(0, 10, 40).astype(np.uint8)
    order = data.canonical_order(images, labels)
    keys = [hashlib.sha256(images[i].tobytes()).hexdigest() + f"{labels[i]:03d}" for i in order]
    assert sorted(order) == list(range(40)) and keys == sorted(keys)
    shuffle = np.random.RandomState(2).permutation(40)
    again = data.canonical_order(images[shuffle], labels[shuffle])
    assert np.array_equal(images[order], images[shuffle][again]) and np.array_equal(
        labels[order], labels[shuffle][again]
    )


def test_a_cached_set_is_read_as_it_lies(cifar):
    ours = load_dataset("cifar10")
    for part in PARTS:
        assert np.array_equal(getattr(ours, part).numpy(), np.load(cifar / f"{part}.npy"))
    assert ours.classes[3] == "cat" and len(ours.classes) == 10 and load_dataset("cifar10") is ours


def test_a_part_of_cifar_never_passes_for_all_of_it(cifar):
    assert load_dataset("cifar10").title == "a part of CIFAR-10 (300 training and 100 test images)"


def test_a_full_size_set_with_other_images_is_refused(cifar):
    np.save(cifar / "train_images.npy", np.zeros((50_000, 32, 32, 3), np.uint8))
    np.save(cifar / "train_labels.npy", np.zeros(50_000, np.uint8))
    np.save(cifar / "test_images.npy", np.zeros((10_000, 32, 32, 3), np.uint8))
    np.save(cifar / "test_labels.npy", np.zeros(10_000, np.uint8))
    with pytest.raises(InputError, match="train_images.npy is damaged.*--rebuild"):
        load_dataset("cifar10")


def test_the_digest_names_the_content(cifar):
    first = load_dataset("cifar10").digest
    labels = np.load(cifar / "test_labels.npy")
    labels[0] = (labels[0] + 1) % 10
    np.save(cifar / "test_labels.npy", labels)
    (cifar / "SHA256").unlink()
    assert load_dataset("cifar10").digest != first


@pytest.mark.parametrize("part", PARTS)
def test_one_changed_byte_is_found_and_the_remedy_named(cifar, part):
    load_dataset("cifar10")
    path = cifar / f"{part}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_dataset("cifar10")
    assert str(path) in str(error.value) and "python -m kdutils data cifar10 --rebuild" in str(error.value)


@pytest.mark.parametrize("keep", [0, 60, 1000])
def test_a_truncated_file_is_found_and_named(cifar, keep):
    path = cifar / "test_images.npy"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="test_images.npy is damaged.*--rebuild"):
        load_dataset("cifar10")


@pytest.mark.parametrize(
    ("part", "array"),
    [
        ("train_images", np.zeros((300, 28, 28, 1), np.uint8)),
        ("train_labels", np.zeros(299, np.uint8)),
        ("test_labels", np.zeros(100, np.int64)),
        ("test_images", np.zeros((100, 3, 32, 32), np.uint8)),
    ],
)
def test_arrays_of_another_shape_or_type_are_refused(cifar, part, array):
    np.save(cifar / f"{part}.npy", array)
    with pytest.raises(InputError, match=f"{part}.npy holds.*expected uint8.*--rebuild"):
        load_dataset("cifar10")


def test_pickled_arrays_are_refused(cifar):
    np.save(cifar / "test_labels.npy", np.array([os.getcwd], dtype=object))
    with pytest.raises(InputError, match="test_labels.npy"):
        load_dataset("cifar10")


def test_an_unknown_set_is_refused_with_the_known_ones():
    for ask in (load_dataset, resolve_dataset):
        with pytest.raises(InputError, match="mnist.*cifar10.*cifar100.*synthetic"):
            ask("mnist")


def a_tiny_synthesis(split: str) -> tuple[np.ndarray, np.ndarray]:
    count = {"train": 30, "test": 20}[split]
    return images_like_photographs(count), (np.arange(count) % 10).astype(np.uint8)


def test_the_synthetic_set_is_built_on_first_use_and_then_read(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "new" / "data"))
    monkeypatch.setattr("kdutils.synthetic.synthesise", a_tiny_synthesis)
    first = load_dataset("synthetic")
    assert first.title == "synthetic data" and len(first.train_images) == 30
    monkeypatch.setattr("kdutils.synthetic.synthesise", None)
    data._load.cache_clear()
    again = load_dataset("synthetic")
    assert again.digest == first.digest and torch.equal(again.test_images, first.test_images)
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == ["synthetic"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(InputError, match="file/data cannot be written.*KD_DATA_DIR"):
        load_dataset("synthetic")


def test_building_is_all_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("kdutils.synthetic.synthesise", a_tiny_synthesis)
    save, saved = np.save, []

    def fail_at_the_third(path, array):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, array)

    monkeypatch.setattr(np, "save", fail_at_the_third)
    with pytest.raises(InputError, match="No space left on device"):
        load_dataset("synthetic")
    assert (
        len(saved) == 2
        and not data.is_cached("synthetic")
        and list(tmp_path.iterdir()) == [tmp_path / "runs"] * (tmp_path / "runs").exists()
    )


def test_a_failed_rebuild_leaves_the_old_set(cifar):
    before = load_dataset("cifar10").digest
    with pytest.raises((InputError, ConnectionError)):  # offline
        data.build_dataset("cifar10")
    assert load_dataset("cifar10").digest == before and [path.name for path in cifar.parent.iterdir()] == ["cifar10"]


class FakeCIFAR10:
    """Stands in for torchvision's class: the same attributes, in an order of its own."""

    classes = [f"class {number}" for number in range(10)]

    def __init__(self, root, train, download):
        assert download
        count = 300 if train else 100
        self.data = images_like_photographs(count, seed=int(train))
        self.targets = [int(label) for label in np.arange(count) % 10]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "empty"))
    return tmp_path / "empty"


def test_a_download_is_stored_in_canonical_order(empty, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    assert resolve_dataset("auto") == "cifar10"
    ours = load_dataset("cifar10")
    for images, labels, source in (
        (ours.train_images, ours.train_labels, FakeCIFAR10("", True, True)),
        (ours.test_images, ours.test_labels, FakeCIFAR10("", False, True)),
    ):
        expected = sorted(
            zip((image.tobytes() for image in source.data), source.targets),
            key=lambda pair: hashlib.sha256(pair[0]).digest(),
        )
        assert [(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels)] == expected
    assert ours.classes == tuple(FakeCIFAR10.classes)
    assert [path.name for path in empty.iterdir()] == ["cifar10"]  # the archive does not stay


def test_without_network_auto_says_that_synthetic_data_stand_in(empty, monkeypatch, capsys):
    monkeypatch.setattr("kdutils.synthetic.synthesise", a_tiny_synthesis)
    assert resolve_dataset("auto") == "synthetic"
    said = capsys.readouterr().out
    assert "CIFAR-10" in said and str(empty) in said and "synthetic" in said


def test_every_study_gets_its_own_cifar_or_says_what_stands_in(cifar, monkeypatch, capsys):
    assert [resolve_dataset(name, "cifar10") for name in ("auto", "cifar", "cifar10")] == [
        "cifar10"
    ] * 3 and capsys.readouterr().out == ""
    with pytest.raises(InputError, match="CIFAR-100.*cannot be downloaded"):
        resolve_dataset("cifar", "cifar100")
    monkeypatch.setattr("kdutils.synthetic.synthesise", a_tiny_synthesis)
    assert resolve_dataset("auto", "cifar100") == "synthetic" and "CIFAR-100" in capsys.readouterr().out


def test_without_network_cifar_by_name_is_an_error_and_leaves_nothing(empty):
    for name in ("cifar10", "cifar100"):
        with pytest.raises(
            (InputError, ConnectionError), match="CIFAR-10.*cannot be downloaded|CIFAR-10.*could not be downloaded"
        ):
            load_dataset(name)
    assert list(empty.iterdir()) == []


def test_a_damaged_cache_is_not_silently_replaced_by_synthetic_data(cifar):
    (cifar / "train_images.npy").write_bytes(b"damaged")
    with pytest.raises(InputError, match="train_images.npy"):
        resolve_dataset("auto")


def test_a_full_disk_while_downloading_is_not_taken_for_a_missing_network(empty, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", full)
    with pytest.raises(InputError, match="No space left on device.*KD_DATA_DIR"):
        resolve_dataset("auto")
