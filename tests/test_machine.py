"""The machine: its cores within a container's quota, its memory, and none of Linux's own modules needed."""

from __future__ import annotations

import builtins
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from dask import system

from kdutils import machine
from kdutils.settings import ROOT

CPU = machine.Runtime(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("quota, cores", [((50_000, 100_000), 1), ((150_000, 100_000), 2), ((None, None), 4)])
def test_a_containers_cpu_quota_counts(quota, cores, monkeypatch):
    monkeypatch.setattr(system, "psutil", None)
    monkeypatch.setattr(system.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(system.os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(system.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(system, "LINUX", True)
    monkeypatch.setattr(system, "_try_extract_cgroup_cpu_quota", lambda: quota)
    assert machine.cores() == cores


def test_the_quota_is_read_from_the_control_group(monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text("100000 100000")
    real = builtins.open
    moved = {"/proc/self/cgroup": tmp_path / "cgroup", "/sys/fs/cgroup/cpu.max": tmp_path / "cpu.max"}
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(system, "LINUX", True)
    monkeypatch.setattr(builtins, "open", lambda path, *rest, **more: real(moved.get(path, path), *rest, **more))
    assert machine.cores() == 1


def test_peak_memory_is_told_on_every_system(monkeypatch):
    block = torch.ones(25_000_000)  # 100 MB
    assert 100 < machine.peak_memory_mb(CPU) < 100_000
    monkeypatch.setattr(machine, "_STATUS", ROOT / "nothing")
    peak = machine.peak_memory_mb(CPU)
    assert 100 < peak < 100_000
    monkeypatch.setattr(machine, "resource", None)
    assert 100 < machine.peak_memory_mb(CPU) <= peak * 1.05
    windows = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=1, peak_wset=123_000_000))
    monkeypatch.setattr(machine.psutil, "Process", lambda: windows)
    assert machine.peak_memory_mb(CPU) == 123.0
    assert block.sum() > 0


BEFORE_A_RUN = """
import torch
from kdutils import machine
machine.keep_freed_memory()
blocks = [torch.ones(500_000) for _ in range(200)]  # 400 MB, each below what glibc maps by itself
del blocks
runtime = machine.Runtime(torch.device("cpu"), torch.float32)
before = machine.peak_memory_mb(runtime)
machine.forget_peak_memory(runtime)
after = machine.peak_memory_mb(runtime)
block = torch.ones(25_000_000)  # 100 MB
print(before - after, machine.peak_memory_mb(runtime) - after, flush=True)
"""


@pytest.fixture(scope="module")
def elsewhere():
    """Both scripts below, one after the other in one new process, which imports for seconds."""
    command = [sys.executable, "-c", BEFORE_A_RUN + FORGET + WITHOUT_POSIX]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_a_peak_can_be_forgotten_and_what_is_freed_is_given_back(elsewhere):
    forgotten, held = map(float, elsewhere.stdout.splitlines()[0].split())
    assert 300 < forgotten < 500 and 80 < held < 120


@pytest.mark.parametrize(("emulates", "dtype"), [(True, torch.float32), (False, torch.bfloat16)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(emulates, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not emulates
    )
    assert machine.detect_runtime() == machine.Runtime(torch.device("cuda"), dtype)


def test_the_hardware_is_named_where_linux_does_not_tell_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_cpuinfo", lambda: "processor: 0\nmodel name\t: Fast CPU: 3 GHz\n")
    assert machine.hardware().startswith("Fast CPU: 3 GHz, ")
    monkeypatch.setattr(machine, "_cpuinfo", lambda: "")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    monkeypatch.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine.hardware() == f"arm64, {machine.cores()} cores"


FORGET = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "kdutils"]:
    del sys.modules[name]
"""
WITHOUT_POSIX = """
import builtins, importlib, os, pkgutil, signal, sys
sys.modules["rfc3987_syntax"] = None  # as in kdutils.__main__
import torch, distributed, jupyterlab.labapp, papermill, seaborn  # these have their own ways on Windows
POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog"}
imported = builtins.__import__

def guarded(name, globals=None, *rest, **more):
    if name.partition(".")[0] in POSIX and (globals or {}).get("__name__", "").startswith("kdutils"):
        raise ImportError(f"no module {name} on this system")
    return imported(name, globals, *rest, **more)

builtins.__import__ = guarded
for name in ("sched_getaffinity", "fork", "getuid", "geteuid", "getpgid", "killpg"):
    delattr(os, name)
del signal.SIGKILL
import kdutils
for found in pkgutil.walk_packages(kdutils.__path__, "kdutils."):
    importlib.import_module(found.name) if not found.name.endswith("__main__") else None
from kdutils import machine
from kdutils.__main__ import main
assert machine.cores() >= 1 and machine.peak_memory_mb(machine.detect_runtime()) > 0 and machine.hardware()
assert main(["data"]) == 0
"""


def test_no_module_needs_what_only_posix_systems_have(elsewhere):
    assert elsewhere.returncode == 0, elsewhere.stderr
