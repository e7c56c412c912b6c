"""Data sets: a cache is whole or refused, and what cannot be read is not taken for damaged."""

from __future__ import annotations

import errno
import hashlib
import os

import numpy as np
import pytest

from kdutils.data import datasets
from kdutils.data.datasets import available, in_canonical_order, load_dataset
from kdutils.errors import InputError

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def images_like_photographs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def test_canonical_order_equals_brute_force_with_ties_by_label():
    images = images_like_photographs(40)
    images[[7, 19, 33]] = images[3]
    labels = np.random.RandomState(1).randint(0, 10, 40).astype(np.uint8)
    ordered = in_canonical_order(images, labels)
    before, after = (
        [hashlib.sha256(image.tobytes()).hexdigest() + f"{label:03d}" for image, label in zip(*both)]
        for both in ((images, labels), ordered)
    )
    assert after == sorted(before)
    shuffle = np.random.RandomState(2).permutation(40)
    assert all(map(np.array_equal, ordered, in_canonical_order(images[shuffle], labels[shuffle])))


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
    with pytest.raises(InputError, match="cifar10 is damaged: its images are not those of CIFAR-10.*--rebuild"):
        load_dataset("cifar10")


def test_the_digest_names_the_content(cifar):
    first = load_dataset("cifar10").digest
    labels = np.load(cifar / "test_labels.npy")
    labels[0] = (labels[0] + 1) % 10
    np.save(cifar / "test_labels.npy", labels)
    (cifar / "SHA256").unlink()
    assert load_dataset("cifar10").digest != first


def test_a_note_of_digests_that_was_cut_short_vouches_for_nothing(cifar):
    load_dataset("cifar10")
    labels = np.load(cifar / "test_labels.npy")
    labels[0] = (labels[0] + 1) % 10
    np.save(cifar / "test_labels.npy", labels)
    for kept in ("", (cifar / "SHA256").read_text()[:70]):
        (cifar / "SHA256").write_text(kept)
        with pytest.raises(InputError, match="SHA256 is damaged: rebuild it"):
            load_dataset("cifar10")
        assert (cifar / "SHA256").read_text() == kept


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


def test_flipped_bits_in_a_header_are_one_sentence(cifar):
    """Some leave another way of writing the same array, and it is read."""
    path = cifar / "test_labels.npy"
    whole, refused = path.read_bytes(), 0
    for place in np.random.RandomState(0).permutation(8 * 128)[:300]:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            load_dataset("cifar10")
        except InputError as error:
            refused += 1
            assert "test_labels.npy" in str(error) and "--rebuild" in str(error)
    assert refused > 100


@pytest.mark.parametrize("part", [*PARTS, "classes.txt"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_file_that_cannot_be_read_is_no_damage_and_nothing_is_replaced(cifar, monkeypatch, part, number):
    name = part if "." in part else f"{part}.npy"
    usual = open

    def fail(path, *arguments, **named):
        if str(path) == str(cifar / name):
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *arguments, **named)

    before = {path.name: path.read_bytes() for path in cifar.iterdir()}
    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)
    datasets._load.cache_clear()
    for ask in (load_dataset, available):
        with pytest.raises(InputError, match=f"{name} cannot be read .*{os.strerror(number)}") as error:
            ask("cifar10")
        assert "damaged" not in str(error.value) and "rebuild" not in str(error.value)
    monkeypatch.undo()
    assert all((cifar / file).read_bytes() == content for file, content in before.items())


def test_an_unknown_set_is_refused_with_the_known_ones():
    for ask in (load_dataset, available):
        with pytest.raises(InputError, match="mnist.*cifar10.*cifar100.*synthetic"):
            ask("mnist")
