"""Building: all or nothing, a rebuild replaces nothing before it is whole, and what was placed by hand is used."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets

from kdutils.data import datasets
from kdutils.data.datasets import available, build_dataset, is_cached, load_dataset
from kdutils.errors import InputError, Unavailable

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


def images_like_photographs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)


def a_tiny_synthesis(_: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
    arrays = []
    for count in (30, 20):
        arrays += [images_like_photographs(count), (np.arange(count) % 10).astype(np.uint8)]
    return arrays, tuple(f"class {number}" for number in range(10))


@pytest.mark.parametrize(
    ("name", "title"), [("synthetic", "synthetic data"), ("synthetic-other", "other synthetic data")]
)
def test_a_synthetic_set_is_built_on_first_use_and_then_read(tmp_path, monkeypatch, name, title):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "new" / "data"))
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", a_tiny_synthesis)
    assert available(name)
    first = load_dataset(name)
    assert first.title == title and len(first.train_images) == 30
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", None)
    datasets._load.cache_clear()
    again = load_dataset(name)
    assert again.digest == first.digest and torch.equal(again.test_images, first.test_images)
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == [name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(InputError, match="file.* cannot be .*written.*KD_DATA_DIR"):
        load_dataset("synthetic")


def test_building_is_all_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", a_tiny_synthesis)
    save, saved = np.save, []

    def fail_at_the_third(path, array):
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        saved.append(path)
        save(path, array)

    monkeypatch.setattr(np, "save", fail_at_the_third)
    with pytest.raises(InputError, match="No space left on device"):
        load_dataset("synthetic")
    assert len(saved) == 2 and not is_cached("synthetic") and list((tmp_path / "data").iterdir()) == []


def test_a_failed_rebuild_leaves_the_old_set(cifar):
    before = load_dataset("cifar10").digest
    with pytest.raises(Unavailable):  # offline
        build_dataset("cifar10")
    assert load_dataset("cifar10").digest == before and [path.name for path in cifar.parent.iterdir()] == ["cifar10"]


KILLED = """
import os, sys
from unittest.mock import MagicMock
sys.modules |= {"torch": MagicMock()}  # it takes seconds to import, and builds nothing
import numpy as np
from kdutils.data import datasets, synthetic

arrays = [np.full((n, 32, 32, 3)[: 1 + 3 * (part % 2 == 0)], part, np.uint8) for part, n in enumerate((40, 40, 20, 20))]
synthetic.synthesise = lambda name: (arrays, tuple("abcdefghij"))
function, calls = sys.argv[1], int(sys.argv[2])
usual = getattr(os if function == "replace" else np, function)

def dying(*given):
    global calls
    if not calls:
        os._exit(9)
    calls -= 1
    return usual(*given)

setattr(os if function == "replace" else np, function, dying)
datasets.build_dataset("synthetic")
"""


@pytest.mark.parametrize(
    ("function", "calls", "new"), [("save", 3, False), ("replace", 0, False), ("replace", 3, True)]
)
def test_a_killed_rebuild_leaves_the_old_set_or_the_new_one_whole(tmp_path, monkeypatch, function, calls, new):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", a_tiny_synthesis)
    old = load_dataset("synthetic").digest
    (tmp_path / "data" / "synthetic" / "my notes.txt").write_text("mine")
    environment = os.environ | {"PYTHONPATH": str(Path(datasets.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, function, str(calls)], env=environment, check=False)
    assert done.returncode == 9
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", None)
    found = load_dataset("synthetic")
    assert len(found.train_images) == (40 if new else 30) and (found.digest == old) == (not new)
    assert (tmp_path / "data" / "synthetic" / "my notes.txt").read_text() == "mine"
    assert not list((tmp_path / "data" / "synthetic").glob("new*"))


def test_a_rebuild_that_cannot_replace_a_file_in_use_says_so_and_takes_its_place_later(tmp_path, monkeypatch):
    """As on Windows, where no file is replaced that another program has mapped."""
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", a_tiny_synthesis)
    old, usual = load_dataset("synthetic"), os.replace

    def in_use(source, target):
        if str(target).endswith(".npy"):
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(target))
        usual(source, target)

    other = a_tiny_synthesis("")[0]
    other[1] = other[1][::-1].copy()
    monkeypatch.setattr("kdutils.data.synthetic.synthesise", lambda _: (other, tuple("abcdefghij")))
    monkeypatch.setattr(os, "replace", in_use)
    with pytest.raises(InputError, match="npy cannot be .*written .*close what has it open"):
        build_dataset("synthetic")
    monkeypatch.setattr(os, "replace", usual)
    found = load_dataset("synthetic")
    assert found.classes[0] == "a" and torch.equal(found.train_labels, old.train_labels.flip(0))


def test_a_slower_process_leaves_the_set_that_a_quicker_one_built(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))

    def slow(name: str):
        monkeypatch.setattr("kdutils.data.synthetic.synthesise", a_tiny_synthesis)
        build_dataset(name)  # the quicker process, meanwhile
        arrays, classes = a_tiny_synthesis(name)
        return [array[::-1] for array in arrays], classes

    monkeypatch.setattr("kdutils.data.synthetic.synthesise", slow)
    assert load_dataset("synthetic").train_labels[:3].tolist() == [0, 1, 2]


# CIFAR from its source, or from what was placed by hand


def archive_of(folder: Path, name: str = "cifar10") -> tuple[Path, dict[str, object]]:
    """A small archive in CIFAR's own format, and what torchvision's class must then say of it."""
    fine = name == "cifar100"
    base = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    key, meta = ("fine_labels", "fine_label_names") if fine else ("labels", "label_names")
    inside = folder / base
    inside.mkdir(parents=True)
    lists, classes = [], 100 if fine else 10
    for number, (file, count) in enumerate((("train", 3 * classes), ("test", classes))):
        images = images_like_photographs(count, seed=number).transpose(0, 3, 1, 2).reshape(count, -1)
        content = pickle.dumps({"data": images, key: [label % classes for label in range(count)]})
        (inside / file).write_bytes(content)
        lists.append([[file, hashlib.md5(content).hexdigest()]])
    content = pickle.dumps({meta: [f"class {number}" for number in range(classes)]})
    (inside / "meta").write_bytes(content)
    archive = folder / f"{base.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(inside, base)
    facts = {"train_list": lists[0], "test_list": lists[1], "tgz_md5": hashlib.md5(archive.read_bytes()).hexdigest()}
    facts["meta"] = {"filename": "meta", "key": meta, "md5": hashlib.md5(content).hexdigest()}
    return archive, facts


@pytest.fixture
def by_hand(tmp_path, monkeypatch):
    """A data folder with nothing in it, and small archives of both sets beside it."""
    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    archives = {}
    for name in ("cifar10", "cifar100"):
        archives[name], facts = archive_of(tmp_path / "source" / name, name)
        for attribute, value in facts.items():
            monkeypatch.setattr(getattr(torchvision.datasets, name.upper()), attribute, value)
    return tmp_path / "data", archives


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("where", [".", "own"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_what_was_placed_by_hand_is_used_and_stays(by_hand, name, where, unpacked):
    data, archives = by_hand
    place = data / (name if where == "own" else ".")
    place.mkdir(exist_ok=True)
    if unpacked:
        shutil.unpack_archive(archives[name], place)
    else:
        shutil.copy(archives[name], place)
    before = sorted(path.relative_to(data) for path in data.rglob("*"))
    assert available(name)  # tests are offline
    found = load_dataset(name)
    count = datasets.DATASETS[name]
    expected = sorted(image.tobytes() for image in images_like_photographs(3 * count))
    assert sorted(image.numpy().tobytes() for image in found.train_images) == expected
    assert (len(found.test_images), found.classes[3]) == (count, "class 3")
    build_dataset(name)
    made = {Path(name, f"{part}.npy") for part in PARTS} | {Path(name, "classes.txt"), Path(name, "SHA256"), Path(name)}
    assert {path.relative_to(data) for path in data.rglob("*")} == set(before) | made


def test_an_archive_that_is_not_whole_is_not_used_and_said_so(by_hand):
    data, archives = by_hand
    (data / archives["cifar10"].name).write_bytes(archives["cifar10"].read_bytes()[:-1])
    assert not available("cifar10")
    with pytest.raises(Unavailable, match="CIFAR-10 is complete neither in .*data.* and cannot be downloaded"):
        load_dataset("cifar10")
    assert [path.name for path in data.iterdir()] == [archives["cifar10"].name]


class FakeCIFAR10:
    """Stands in for torchvision's class: the same attributes, in an order of its own."""

    classes = [f"class {number}" for number in range(10)]
    base_folder, filename = "cifar-10-batches-py", "cifar-10-python.tar.gz"

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
    assert available("cifar10")
    ours = load_dataset("cifar10")
    for images, labels, source in (
        (ours.train_images, ours.train_labels, FakeCIFAR10("", True, True)),
        (ours.test_images, ours.test_labels, FakeCIFAR10("", False, True)),
    ):
        expected = sorted(
            zip((image.tobytes() for image in source.data), source.targets, strict=True),
            key=lambda pair: hashlib.sha256(pair[0]).digest(),
        )
        found = [(image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
        assert found == expected
    assert ours.classes == tuple(FakeCIFAR10.classes)
    assert [path.name for path in empty.iterdir()] == ["cifar10"]  # the archive does not stay


def test_without_network_cifar_is_not_available_and_leaves_nothing(empty):
    for name, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")):
        assert not available(name)
        with pytest.raises(Unavailable, match=f"{title} is complete .*{empty}.* cannot be downloaded"):
            load_dataset(name)
    assert list(empty.iterdir()) == []


def test_a_damaged_cache_is_no_missing_one(cifar):
    assert available("cifar10")
    (cifar / "train_images.npy").write_bytes(b"damaged")
    with pytest.raises(InputError, match="train_images.npy is damaged"):
        available("cifar10")


def test_a_full_disk_while_downloading_is_not_taken_for_a_missing_network(empty, monkeypatch):
    class Full(FakeCIFAR10):
        def __init__(self, *_, **__):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Full)
    with pytest.raises(InputError, match="No space left on device.*KD_DATA_DIR"):
        available("cifar10")
