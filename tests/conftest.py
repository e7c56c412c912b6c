"""Every test runs offline, with a data folder of the session, a run store of its own and one thread.

PyTorch is imported where tests run: not by the process that only shares them out.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import socket
from contextlib import suppress

import psutil
import pytest
from filelock import FileLock
from hypothesis import settings

from kdutils import __main__  # noqa: F401  before anything imports nbformat, for which it saves seconds

gc.set_threshold(20_000, 20, 20)  # seldom: what is imported is no garbage, and much to look through
settings.register_profile("short", max_examples=15, derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=500, deadline=None)  # `make fuzz`
settings.load_profile("short")

LONGEST = ("test_report.py", "test_schedule.py", "test_benchmark.py", "test_suite.py")


def pytest_collection_modifyitems(items):
    """The longest files first: of processes that share the files, none is left with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The session's `KD_DATA_DIR`, one for all processes that share the tests, with the synthetic data set in it."""
    from kdutils.data.datasets import load_dataset

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data"
    with FileLock(f"{folder}.lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KD_DATA_DIR", str(folder))
        load_dataset("synthetic")
    return folder


@pytest.fixture(autouse=True)
def isolated(data_folder, tmp_path, monkeypatch):
    """No test sees the user's data or runs, or another test's runs."""
    import torch

    monkeypatch.setenv("KD_DATA_DIR", str(data_folder))
    monkeypatch.setenv("KD_RUNS_DIR", str(tmp_path / "runs"))
    for name in ("KD_CHECKPOINT_SECONDS", "KD_REPORT_DIR", "KD_CHAPTER", "KD_USED_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KD_SCHEDULER", "")
    monkeypatch.setenv("KD_WORKERS", os.environ.get("KD_WORKERS", "1"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # no weights that this machine happens to have cached
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)  # two that wait for each other are slower than one where cores are busy
    yield
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The world as a machine without network sees it: a test that downloads fails, and at once."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def is_local(host) -> bool:
        return host in (None, "", "localhost", "::1", socket.gethostname()) or str(host).startswith("127.")

    def guarded_connect(self, address):
        if isinstance(address, tuple) and not is_local(address[0]):
            raise OSError(errno.ENETUNREACH, f"tests are offline, {address[0]} was asked for")
        return connect(self, address)

    def guarded_resolve(host, *args, **kwargs):
        if not is_local(host):
            raise socket.gaierror(socket.EAI_NONAME, f"tests are offline, {host} was asked for")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_resolve)


@pytest.fixture
def processes_of():
    """Gives all processes that a command with this store has started, by their environment."""

    def of(store) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("KD_RUNS_DIR") == str(store) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    return of


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A `KD_DATA_DIR` of this test alone with a small stand-in for CIFAR-10: 300 and 100 random images."""
    import numpy as np

    monkeypatch.setenv("KD_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    random = np.random.RandomState(7)
    for split, count in (("train", 300), ("test", 100)):
        images = random.randint(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        images = np.stack(sorted(images, key=lambda image: hashlib.sha256(image.tobytes()).digest()))
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", random.permutation(np.arange(count) % 10).astype(np.uint8))
    (folder / "classes.txt").write_text(
        "".join(f"{name}\n" for name in "airplane automobile bird cat deer dog frog horse ship truck".split())
    )
    return folder
