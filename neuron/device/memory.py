"""How much memory a device has, how much this process holds of it, and how to release some.

On a CPU these figures come from Linux's /proc.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch

MIB = 1 << 20
OutOfMemoryError = torch.OutOfMemoryError

_CPU_SHARE = 0.75  # of the machine's memory that a worker may use unless told otherwise
_HOST_SHARE = 0.25  # of the same that sleeping models of all GPUs may take
_CUDA_SHARE = 0.92  # of what is free on the GPU
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_STATM = Path("/proc/self/statm")  # in pages: size, resident, of files, …
_UNLIMITED = 1 << 62


def default_budget(device: torch.device) -> int:
    """Return the bytes that a worker may use in all unless it is told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _CUDA_SHARE)
    return int(_host_bytes() * _CPU_SHARE)


def default_host_budget() -> int:
    """Return the bytes of the host that the sleeping models of one GPU may take unless it is told."""
    return int(_host_bytes() * _HOST_SHARE) // max(1, torch.cuda.device_count())


def _host_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, _cgroup_limit())


def bytes_in_use(device: torch.device) -> int:
    """Return the bytes that this process holds: on a GPU what torch reserved, on a CPU what is resident.

    Pages of mapped files are not counted: they are the page cache's, and may be dropped and read again.
    """
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    _, resident, of_files, *_ = _STATM.read_text().split()
    return (int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE")


def bytes_fragmented(device: torch.device) -> int:
    """Return the free bytes in blocks that are partly in use: no large tensor and no other process gets them.

    torch's `inactive_split_bytes`. 0 on a CPU, whose allocator does not say and releases pages one by one.
    """
    if device.type != "cuda":
        return 0
    return int(torch.cuda.memory_stats(device).get("inactive_split_bytes.all.current", 0))


def exempt_from_collection() -> None:
    """Exempt whatever lives now, the imported modules above all, from garbage collection for good.

    A full collection takes a fifth of a second beside torch and transformers, during which every stream
    stalls, and without them some milliseconds.
    """
    gc.collect()
    gc.freeze()


def release_unused(device: torch.device, *, collects: bool = True) -> None:
    """Return freed memory to the system, so that the next measurement sees it.

    Garbage is freed first, unless nothing `collects` it, which takes milliseconds.
    """
    if collects:
        gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _cgroup_limit() -> int:
    try:
        text = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return _UNLIMITED
    return int(text) if text.isdigit() else _UNLIMITED
