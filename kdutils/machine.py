"""The machine that a run uses: its device, number format, memory and name."""

import contextlib
import ctypes
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

_STATUS = Path("/proc/self/status")  # Linux's


@dataclass(frozen=True)
class Runtime:
    """The device and the number format of the heavy operations."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self):
        """Context in which convolutions and matrix products run in `dtype`; parameters stay float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @property
    def name(self) -> str:
        """Device and format in a word, such as cpu-bfloat16."""
        return f"{self.device.type}-{str(self.dtype).removeprefix('torch.')}"


def detect_runtime() -> Runtime:
    """The runtime: CUDA, else Apple's GPU, else the CPU; bfloat16 if CUDA or the CPU computes in it, else float32."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # only a fixed one makes cuBLAS deterministic
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Runtime(torch.device("cuda"), torch.bfloat16 if has_bf16 else torch.float32)
    if torch.backends.mps.is_available():
        return Runtime(torch.device("mps"), torch.float32)
    has_bf16 = any(flag in _cpuinfo() for flag in ("avx512_bf16", "amx_bf16"))
    return Runtime(torch.device("cpu"), torch.bfloat16 if has_bf16 else torch.float32)


def _cpuinfo() -> str:
    """Linux's description of the processor; empty on other systems."""
    info = Path("/proc/cpuinfo")
    return info.read_text() if info.is_file() else ""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step, so that the kernel need not provide and zero its pages again."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library: nothing to do
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never give the heap's top back
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: take from the heap what is below 32 MiB


def forget_peak_memory(runtime: Runtime) -> None:
    """Make `peak_memory_mb` count from now on (on GPUs and Linux); on CPUs, memory still resident counts, too."""
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems cannot reset the peak
        ctypes.CDLL(None).malloc_trim(0)  # give back what `keep_freed_memory` has kept
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb(runtime: Runtime) -> float:
    """The peak memory of this process since `forget_peak_memory`, in 10^6 bytes: the GPU's on CUDA, else resident."""
    if runtime.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    with contextlib.suppress(OSError, TypeError):  # getrusage would count what the process's parent held
        return int(re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[1]) * 1024 / 1e6
    if resource is None:
        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 1e6  # peak_wset is Windows' own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def hardware() -> str:
    """The device in words: the GPU's name, or the processor's name with the number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = (line.partition(":")[2].strip() for line in _cpuinfo().splitlines() if line.startswith("model name"))
    return f"{next(names, None) or platform.processor() or platform.machine()}, {cores()} cores"


def cores() -> int:
    """Processor cores that this process may use: those it is bound to, within the CPU quota of its container."""
    from dask.system import cpu_count

    return cpu_count()
