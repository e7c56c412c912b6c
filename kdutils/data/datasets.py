"""Data sets as resident uint8 arrays.

A data set is a folder `KD_DATA_DIR/<name>/` of memory-mappable arrays, `{train,test}_{images,labels}.npy`. They are
sorted by the SHA-256 of each image's bytes, ties by label, so a seed draws the same split whatever the source. Images
are uint8; labels are uint8, or int16 for more than 256 classes. One's own (`kdutils.data.own`) have the same form.
"""

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch

from kdutils.data import synthetic
from kdutils.data.views import IDENTITY_VIEW, render
from kdutils.errors import InputError, Unavailable
from kdutils.settings import settings, write_atomic

DATASETS = {"cifar10": 10, "cifar100": 100, "synthetic": 10, "synthetic-other": 10}
"""The names of the data sets that can be fetched or made, and their numbers of classes."""

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
TITLES |= {"synthetic": "synthetic data", "synthetic-other": "other synthetic data"}

OWN_NAME = re.compile(r"(?!cifar|synthetic|(imagenet|auto|add)$)[a-z][a-z0-9_-]{0,39}")
"""The names that one's own data set may have."""

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_OFFICIAL = {"cifar10": "f99afd6c7b0b5c92", "cifar100": "7cf44ec435d6774a"}  # `Dataset.digest` of the whole sets
_WHOLE = (50_000, 10_000)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory (mapped from disk): uint8 images [N, 32, 32, 3], uint8 or int16 labels [N]."""

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
        if self.name not in _OFFICIAL or sizes == _WHOLE:
            return TITLES.get(self.name, f"the data set {self.name}")
        return f"a part of {TITLES[self.name]} ({sizes[0]:,} training and {sizes[1]:,} test images)"


@contextmanager
def on_disk():
    """A context that turns errors of reading and writing files (not of their content) into `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or settings().data_dir} cannot be read or written ({error.strerror or error}): "
            "see to its permissions, free space, close what has it open, or set KD_DATA_DIR to another folder"
        ) from None


@contextmanager
def fetching(what: str):
    """A context for downloads: failures raise `Unavailable`, disk errors `InputError`; it waits 20 s an answer."""
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        yield
    except (OSError, RuntimeError, HTTPException) as error:
        if getattr(error, "errno", None) in (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO):
            reason = f"{error.strerror}): free space, or set KD_DATA_DIR and TORCH_HOME to other folders"
            raise InputError(f"{what}, and a download cannot be written ({reason}") from None
        raise Unavailable(f"{what} and cannot be downloaded ({error})") from None
    finally:
        socket.setdefaulttimeout(patience)


@on_disk()
def load_dataset(name: str) -> Dataset:
    """The data set `name`: one's own, or one of `DATASETS`, which is built and cached on first use.

    CIFAR's archive, packed or unpacked, is taken from `KD_DATA_DIR` or the set's folder, or downloaded if not there.
    Raises `Unavailable` if that fails, and `InputError` for an unknown name or for unreadable or damaged files.
    """
    if not (name in DATASETS or OWN_NAME.fullmatch(name)):
        raise _unknown(name)
    folder = settings().data_dir / name
    with suppress(OSError):  # if the folder cannot be written, it is read as it is
        _put_in_place(folder)
    if not is_cached(name):
        build_dataset(name)
    return _load(name, folder, tuple((folder / f"{part}.npy").stat().st_mtime_ns for part in _ARRAYS))


def _unknown(name: str) -> InputError:
    known = f"allowed are {', '.join([*DATASETS, *own_datasets()])}; for a study auto and cifar, too"
    return InputError(f"unknown data set {name!r}: {known}. `python -m kdutils data add NAME FOLDER` adds one's own")


@on_disk()
def own_datasets() -> list[str]:
    """The names of one's own data sets."""
    folders = sorted(path.name for path in settings().data_dir.glob("*"))
    return [name for name in folders if name not in DATASETS and OWN_NAME.fullmatch(name) and is_cached(name)]


def available(name: str) -> bool:
    """Whether data set `name` is here or can be fetched (it then is); raises `InputError` if it is damaged."""
    try:
        return load_dataset(name).name == name
    except Unavailable:
        return False


@on_disk()
def is_cached(name: str) -> bool:
    """Whether the folder of data set `name` holds all its files."""
    folder = settings().data_dir / name
    return all((folder / file).is_file() for file in ("classes.txt", *(f"{part}.npy" for part in _ARRAYS)))


@on_disk()
def build_dataset(name: str, own: tuple[list[np.ndarray], tuple[str, ...]] | None = None) -> None:
    """Build the cache of `name` anew; it replaces the old one once it is complete. Raises as `load_dataset`.

    own: training images, training labels, test images, test labels of one's own data set; the names of its classes.
    """
    if not (name in DATASETS or own):
        raise _unknown(name)
    folder, rebuild = settings().data_dir / name, is_cached(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent, ignore_cleanup_errors=True) as made:
        work, new = Path(made), Path(made, "new")
        arrays, classes = own or (_cifar(name, folder, work) if name in _OFFICIAL else synthetic.synthesise(name))
        new.mkdir()
        for part, array in zip(_ARRAYS, arrays, strict=True):
            np.save(new / f"{part}.npy", array)
        (new / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        (new / "SHA256").write_text("\n".join(map(_sha256, arrays)))
        if rebuild or not is_cached(name):  # else another process was quicker
            folder.mkdir(exist_ok=True)
            os.replace(new, folder / f"new{work.name}")
            _load.cache_clear()  # Windows cannot replace an open file
            _put_in_place(folder)


def _put_in_place(folder: Path) -> None:
    """Move the files of a complete new set to where they are read, also those that a killed process left behind."""
    for new in sorted(folder.glob("new.*")):
        for path in sorted(new.iterdir()):
            with suppress(FileNotFoundError):  # another process does the same
                os.replace(path, folder / path.name)
        shutil.rmtree(new, ignore_errors=True)


def _cifar(name: str, folder: Path, work: Path) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """The arrays and class names of a CIFAR set, from files placed by hand or from a download, checked by MD5."""
    import torchvision.datasets

    source, arrays = getattr(torchvision.datasets, name.upper()), []
    for place in (folder.parent, folder):
        if (place / source.base_folder).is_dir():
            shutil.copytree(place / source.base_folder, work / source.base_folder, dirs_exist_ok=True)
        if (place / source.filename).is_file():
            shutil.copy(place / source.filename, work)
    wanted = f"(put {source.filename} there, or take --dataset synthetic)"
    with fetching(f"{TITLES[name]} is complete neither in {folder} nor in {folder.parent} {wanted}"):
        for train in (True, False):
            split = source(work, train=train, download=True)
            arrays += in_canonical_order(split.data, np.array(split.targets, dtype=np.uint8))
    return arrays, tuple(split.classes)


@lru_cache(maxsize=4)
def _load(name: str, folder: Path, written: tuple[int, ...]) -> Dataset:
    """Read and check the arrays once per process, and again whenever a file was `written` anew."""
    command = f"data {name}" if name in DATASETS else f"data add {name} FOLDER"
    remedy, arrays = f"rebuild it with `python -m kdutils {command} --rebuild`", []
    for part in _ARRAYS:
        try:  # copy-on-write: the pages are shared between processes, and nobody can change the file by accident
            array = np.lib.format.open_memmap(folder / f"{part}.npy", mode="c")
        except OSError:
            raise
        except Exception as error:  # the parser of a damaged header raises nearly anything
            raise InputError(f"{folder / part}.npy is damaged ({error}): {remedy}") from None
        size = len(arrays[-1]) if part.endswith("labels") else array.shape[0]
        shape = (size,) if part.endswith("labels") else (size, 32, 32, 3)
        if array.shape != shape or array.dtype != np.uint8 and (len(shape) > 1 or array.dtype != np.int16):
            raise InputError(f"{folder / part}.npy holds {array.dtype} {array.shape}, expected uint8 {shape}: {remedy}")
        arrays.append(array)
    digests = [_sha256(array) for array in arrays]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    if digest != _OFFICIAL.get(name):  # a set that is not official must be as it was when built or first read
        note = folder / "SHA256"
        noted = note.read_text(errors="replace").split() if note.is_file() else digests
        if len(noted) != len(digests):
            raise InputError(f"{note} is damaged: {remedy}")
        for part, found, right in zip(_ARRAYS, digests, noted, strict=True):
            if found != right:
                raise InputError(f"{folder / part}.npy is damaged: its SHA-256 is not {right[:12]}...; {remedy}")
        if name in _OFFICIAL and (len(arrays[0]), len(arrays[2])) == _WHOLE:
            raise InputError(f"{folder} is damaged: its images are not those of {TITLES[name]}; {remedy}")
        if not note.is_file():
            with suppress(InputError):  # a read-only folder can still be read from
                write_atomic(note, "\n".join(digests).encode())
    count = DATASETS.get(name) or 1 + max(int(array.max()) for array in arrays[1::2])
    classes = (folder / "classes.txt").read_text(encoding="utf-8", errors="replace").split("\n")[:count]
    if len(classes) < count or not all(classes):
        raise InputError(f"{folder / 'classes.txt'} does not name {count} classes, one a line: {remedy}")
    return Dataset(name, tuple(classes), *map(torch.from_numpy, arrays), digest=digest)


def _sha256(array: np.ndarray) -> str:
    if isinstance(array, np.memmap) and array.flags.c_contiguous:
        with open(array.filename, "rb") as file:  # not through the map, whose pages would count as held memory
            file.seek(array.offset)
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def in_canonical_order(images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """`images` [N, ...] and `labels` [N], sorted by the SHA-256 of each image's bytes, ties by label."""
    order = sorted(range(len(labels)), key=lambda i: (hashlib.sha256(images[i].tobytes()).digest(), labels[i]))
    return [images[order], labels[order]]


def first_test_images(dataset: Dataset, count: int, normalisation: str = "imagenet") -> torch.Tensor:
    """The first `count` test images (at most all), not augmented, normalised: float32 [at most count, 3, 32, 32]."""
    count = min(count, len(dataset.test_images))
    return render(dataset.test_images, torch.arange(count), torch.full((count,), IDENTITY_VIEW), normalisation)
