"""Data sets as resident uint8 arrays, seeded splits, and augmentation as an integer (162 views of an image).

A data set is a folder `KD_DATA_DIR/<name>/` of memory-mappable arrays, `{train,test}_{images,labels}.npy`, in
canonical order: within a split, by the SHA-256 of an image's 3,072 bytes, ties by label. Whatever the source, the
arrays are the same, and so are the splits that a seed draws.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from kdutils.data.views import IDENTITY_VIEW, render
from kdutils.errors import InputError, Unavailable
from kdutils.settings import settings

DATASETS = {"cifar10": 10, "cifar100": 100, "synthetic": 10, "synthetic-other": 10}
"""Every data set's name and its number of classes."""


TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "synthetic": "synthetic data", "synthetic-other": "other synthetic data"}


_OFFICIAL = {  # SHA-256 of the whole sets in canonical order: train images, train labels, test images, test labels
    "cifar10": (
        "32b25bb65187cdb40e66b2bd4dbb2de04f62e2d521f74c46a56f39f2afb56e96",
        "f5f0254261d4b815631fb00355e0b4b53f8ee0ec2cdfdef4b12290a12aa2ddf8",
        "27f7d008727f5b9a8f5b01f61503d2f52d3ba7f5ffb2c331b5b82775de2e2d72",
        "24020a57eb5141b27aa0417447162290a6f6c5c1549a112edbed2c09fdbbf307",
    ),
    "cifar100": (
        "314214c52cf8821c3fd95fc3391792a3b938be3130d8a6fa1472491c1bf41022",
        "ea2cd91837953d77eeafb4c1f9add4fc27247412f0a8f42474f75beb5a4319fd",
        "3649f267eb9a14c4acea5df2e2b437abe44b7a6b67c2ffd653ebea273d00305e",
        "5cf52a13f3e25074c5cfeba73ebc826b83f8fde92ff0e85cecbd9d7efb334a85",
    ),
}


_OFFICIAL_SIZE = (50_000, 10_000)


_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Dataset:
    """A data set in memory (mapped from disk): uint8 images [N, 32, 32, 3], uint8 labels [N]."""

    name: str
    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    digest: str

    @property
    def title(self) -> str:
        """The name for captions; it says when the data are synthetic or only a part of the set."""
        sizes = (len(self.train_images), len(self.test_images))
        if self.name != "synthetic" and sizes != _OFFICIAL_SIZE:
            return f"a part of {TITLES[self.name]} ({sizes[0]:,} training and {sizes[1]:,} test images)"
        return TITLES[self.name]


def load_dataset(name: str) -> Dataset:
    """The data set `name` (cifar10, cifar100 or synthetic), built on first use where it is not cached yet.

    CIFAR is downloaded through torchvision when its folder is empty. Raises `InputError` for an unknown name, a
    source that cannot be reached, a folder that cannot be written, or a cache that is damaged.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: allowed are {', '.join(DATASETS)}")
    if not is_cached(name):
        build_dataset(name)
    folder = settings().data_dir / name
    return _load(name, folder, tuple((folder / f"{part}.npy").stat().st_mtime_ns for part in _ARRAYS))


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, written: tuple[int, ...]) -> Dataset:
    """Read and check the arrays once per process, and again whenever a file was `written` anew."""
    arrays = [_read(folder / f"{part}.npy") for part in _ARRAYS]
    digest = _check(name, folder, arrays)
    classes = tuple(
        (folder / "classes.txt").read_text(encoding="utf-8", errors="replace").split("\n")[: DATASETS[name]]
    )
    if len(classes) < DATASETS[name] or not all(classes):
        raise InputError(
            f"{folder / 'classes.txt'} does not name {DATASETS[name]} classes, one a line: {_remedy(name)}"
        )
    return Dataset(name, classes, *(torch.from_numpy(array) for array in arrays), digest=digest)


def available(name: str) -> bool:
    """Whether data set `name` lies here or can be fetched; fetches it."""
    try:
        return bool(load_dataset(name))
    except Unavailable:
        return False


def is_cached(name: str) -> bool:
    """Whether the folder of data set `name` holds all its files."""
    return all(
        (settings().data_dir / name / file).is_file() for file in ("classes.txt", *(f"{part}.npy" for part in _ARRAYS))
    )


def resolve_dataset(name: str = "auto", own: str = "cifar10") -> str:
    """The data set that a study of CIFAR set `own` uses: for "cifar" `own`; for "auto" the same where it lies or can be
    downloaded, else synthetic; for another name that one."""
    if name != "auto":
        return load_dataset(own if name == "cifar" else name).name
    try:
        return load_dataset(own).name
    except Unavailable as error:
        print(f"{error}: the synthetic data set stands in.")
        return "synthetic"


def build_dataset(name: str) -> Path:
    """Build the cache of data set `name` anew, whole or not at all; the folder's path.

    Raises `Unavailable` where CIFAR cannot be downloaded and `InputError` where the folder cannot be written.
    """
    folder = settings().data_dir / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"the data folder {folder.parent} cannot be written ({error.strerror}): set KD_DATA_DIR to one that can"
        ) from None
    try:
        arrays, classes = _synthesise() if name.startswith("synthetic") else _download(name, work)
        finished = work / name
        finished.mkdir()
        for part, array in zip(_ARRAYS, arrays):
            np.save(finished / f"{part}.npy", array)
        (finished / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(finished, folder)
    except OSError as error:
        if is_cached(name):  # another process built it meanwhile
            return folder
        raise InputError(
            f"the data folder {folder} cannot be written ({error.strerror}): free space there or set KD_DATA_DIR"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def first_test_images(dataset: Dataset, count: int, normalisation: str = "imagenet") -> torch.Tensor:
    """The first `count` test images as they are, normalised: float32 [count, 3, 32, 32]."""
    return render(dataset.test_images, torch.arange(count), torch.full((count,), IDENTITY_VIEW), normalisation)


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The permutation [N] that sorts images by the SHA-256 of their bytes, ties by label."""
    keys = [(hashlib.sha256(image.tobytes()).digest(), int(label)) for image, label in zip(images, labels)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__))


def _synthesise() -> tuple[list[np.ndarray], tuple[str, ...]]:
    from kdutils.data import synthetic

    return [array for split in ("train", "test") for array in synthetic.synthesise(split)], synthetic.CLASSES


def _download(name: str, work: Path) -> tuple[list[np.ndarray], tuple[str, ...]]:
    import torchvision.datasets

    source = getattr(torchvision.datasets, name.upper())
    patience, arrays = socket.getdefaulttimeout(), []
    socket.setdefaulttimeout(20)  # a network that swallows packets must not hang the suite
    try:
        for train in (True, False):
            split = source(work / "download", train=train, download=True)
            images, labels = split.data, np.array(split.targets, dtype=np.uint8)
            order = canonical_order(images, labels)
            arrays += [images[order], labels[order]]
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) in (13, 28, 30):  # not permitted, disk full, read-only: the folder's fault
            raise
        raise Unavailable(f"{TITLES[name]} is not in {work.parent / name} and cannot be downloaded ({error})") from None
    finally:
        socket.setdefaulttimeout(patience)
    return arrays, tuple(split.classes)


def _read(path: Path) -> np.ndarray:
    try:  # copy-on-write: the pages are shared between processes, and nobody can change the file by accident
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): {_remedy(path.parent.name)}") from None


def _remedy(name: str) -> str:
    return f"rebuild it with `python -m kdutils data {name} --rebuild`"


def _check(name: str, folder: Path, arrays: list[np.ndarray]) -> str:
    """The data set's digest, after its arrays were compared with what they must be."""
    sizes = (len(arrays[0]), len(arrays[2]))
    for part, array, size in zip(_ARRAYS, arrays, (sizes[0], sizes[0], sizes[1], sizes[1])):
        shape = (size, 32, 32, 3) if part.endswith("images") else (size,)
        if array.shape != shape or array.dtype != np.uint8:
            raise InputError(
                f"{folder / part}.npy holds {array.dtype} {array.shape}, expected uint8 {shape}: {_remedy(name)}"
            )
    digests = [hashlib.sha256(array).hexdigest() for array in arrays]
    note = folder / "SHA256"  # a part of a set has no official digest: what was first read is what must come back
    expected = _OFFICIAL.get(name) if sizes == _OFFICIAL_SIZE else None
    if expected is None and note.is_file() and len(noted := note.read_text().split()) == len(_ARRAYS):
        expected = tuple(noted)
    for part, digest, official in zip(_ARRAYS, digests, expected or digests):
        if digest != official:
            raise InputError(
                f"{folder / part}.npy is damaged: its SHA-256 is {digest[:12]}..., expected {official[:12]}...; {_remedy(name)}"
            )
    if expected is None:
        with contextlib.suppress(OSError):  # a folder that can only be read is good enough to read from
            note.write_text("\n".join(digests) + "\n")
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
