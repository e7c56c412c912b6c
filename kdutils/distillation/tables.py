"""Exact caches of teachers: a teacher's logits are a function of (image, view), so each is computed only once.

A table [images, 162 views, columns] on disk is filled lazily, only where runs look it up. One filled entry serves
every student, temperature, weight and seed. The features of a frozen backbone are cached the same way, and give the
logits of every head that was trained on them.
"""

import os
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from kdutils.data.datasets import Dataset
from kdutils.data.views import VIEWS, render
from kdutils.errors import InputError
from kdutils.machine import Runtime

SHARD = 4096  # entries that are computed between two flushes, and the size of a worker's job
FILL_BATCH = 128  # always full: kernels are chosen by batch size, and an entry must not depend on its neighbours


class ViewTable:
    """float16 values [images, 162, columns] in `folder`, memory-mapped and shared by all processes.

    Each entry has a checksum (CRC-32), 0 if it is not filled. Both arrays are sparse: only filled entries take room on
    disk. Values are on the disk before their checksums are, so if a process is killed in between, or a machine is lost,
    entries are never wrong but are computed again; so are entries that have changed on the disk.

    Processes may fill entries at the same time, even in one page of the file; several machines only on a file system
    that keeps maps coherent between them (Lustre, GPFS, CephFS): NFS writes whole pages back, and would lose entries.
    """

    def __init__(self, folder: Path, images: int, columns: int):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "checksums.npy").exists() and not (folder / "values.npy").exists():  # a new one would be all zeros
            raise InputError(f"{folder} has lost its values.npy: remove the folder, and it is filled again")
        self.folder = folder
        self.values = _open(folder / "values.npy", np.float16, (images, VIEWS, columns))
        self.checksums = _open(folder / "checksums.npy", np.uint32, (images, VIEWS))

    def missing(self, codes: np.ndarray) -> np.ndarray:
        """The entry codes (image * 162 + view), int64, among `codes` that are not filled; sorted, each once."""
        codes = np.unique(codes)
        return codes[self.checksums.reshape(-1)[codes] == 0]

    @torch.inference_mode()
    def fill(
        self,
        model: nn.Module,
        dataset: Dataset,
        codes: np.ndarray,
        normalisation: str,
        runtime: Runtime,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> int:
        """Compute the missing entries among `codes` with `model` in evaluation mode; returns how many there were.

        `report(fraction)` is called at the start and after every batch, from 0 to 1. Raises `InputError` if the disk
        is too full or a value is too large for float16.
        """
        missing = self.missing(codes)
        if not len(missing):
            return 0
        self._check_space(len(missing))
        report(0.0)
        model = model.to(runtime.device, memory_format=torch.channels_last).eval()
        images = dataset.train_images.to(runtime.device)
        for first in range(0, len(missing), SHARD):
            began = time.monotonic()
            shard = missing[first : first + SHARD]
            for start in range(0, len(shard), FILL_BATCH):
                batch = shard[start : start + FILL_BATCH]
                padded = torch.from_numpy(np.resize(batch, FILL_BATCH)).to(runtime.device)
                with runtime.autocast():
                    outputs = model(render(images, padded // VIEWS, padded % VIEWS, normalisation))
                entries = outputs[: len(batch)].float().cpu().numpy()
                if (largest := np.abs(entries).max()) > np.finfo(np.float16).max:
                    raise InputError(
                        f"{self.folder} holds values up to 65,504, and the network says {largest:,.0f}: its logits or "
                        "features are too large to teach with, train it anew"
                    )
                free = self.missing(batch)  # another process, whose last bits may differ, has filled the rest meanwhile
                self.values[np.divmod(free, VIEWS)] = entries[np.isin(batch, free)]
                report(min(1.0, (first + start + FILL_BATCH) / len(missing)))
            self.values.flush()  # values are on the disk before their checksums
            with (self.folder / "seconds.txt").open("a") as file:
                file.write(f"{len(shard)} {time.monotonic() - began:.3f}\n")
            where = np.divmod(shard, VIEWS)
            self.checksums[where] = _checksums(self.values[where])
            self.checksums.flush()
        return len(missing)

    def seconds(self, entries: int) -> float:
        """The seconds that so many entries take, at the mean of those computed so far; 0 if none were."""
        file = self.folder / "seconds.txt"
        lines = [line.split() for line in file.read_text().splitlines()] if file.is_file() else []
        shards = [(int(line[0]), float(line[1])) for line in lines if len(line) == 2]  # a full disk cuts a line short
        return entries * sum(took for _, took in shards) / max(1, sum(count for count, _ in shards))

    def _check_space(self, entries: int) -> None:
        """Raise `InputError` if the disk is too full, because writing to the sparse mapped file would kill the process.

        An entry may take its own size and one 4 kB block more, as it may begin anywhere in a block; a checksum, one.
        """
        needed = min(entries * (4096 + 2 * self.values.shape[2]), self.values.nbytes)
        needed += min(entries * 4096, self.checksums.nbytes)
        if shutil.disk_usage(self.folder).free < needed:
            raise InputError(
                f"{self.folder} may need {needed / 1e6:,.0f} MB more than is free: free space there or set KD_RUNS_DIR"
            )

    def lookup(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """The values of the given entries, float32 [B, columns]; indices and views: int64 [B].

        Raises `InputError` if an entry is not filled, or differs from what was written; it then counts as not filled.
        """
        where = indices.numpy(), views.numpy()
        values, checksums = self.values[where], self.checksums[where]
        if (wrong := checksums != _checksums(values)).any():
            what = "has changed on the disk" if checksums.all() else "is not filled where the run looks"
            self.checksums[where[0][wrong], where[1][wrong]] = 0
            self.checksums.flush()
            raise InputError(f"{self.folder} {what}: give the same command again, and it is mended")
        return torch.from_numpy(values).float()


@dataclass(frozen=True)
class HeadTable:
    """The logits of a trained head, a linear layer, on a table of its backbone's features."""

    features: ViewTable
    weight: torch.Tensor
    bias: torch.Tensor

    @torch.inference_mode()
    def lookup(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Logits of the given entries, float32 [B, classes]; raises as `ViewTable.lookup` does."""
        return F.linear(self.features.lookup(indices, views), self.weight, self.bias)


def _checksums(values: np.ndarray) -> np.ndarray:
    """CRC-32 of each row, uint32; 1 in place of 0, because 0 stands for an entry that is not filled."""
    return np.maximum(np.fromiter(map(zlib.crc32, values), np.uint32, len(values)), 1)


def _open(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """The array at `path`, mapped for writing; if it is not there, it is created full of zeros, without taking room."""
    if not path.exists():
        draft = path.with_name(f".{path.name}-{uuid4().hex}")  # machines that share the store may share process ids
        np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before its name is
        try:
            os.link(draft, path)  # unlike a rename, never replaces a table that another process has begun to fill
        except FileExistsError:
            pass
        except OSError as error:
            raise InputError(
                f"{path.parent} can hold no hard links ({error.strerror}): set KD_RUNS_DIR elsewhere"
            ) from None
        finally:
            draft.unlink()
    try:
        np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would fill up with zeros
        return np.lib.format.open_memmap(path, mode="r+")
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): remove its folder, and it is filled again") from None
