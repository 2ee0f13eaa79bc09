"""How much memory the device has, what this process has of it, and how to give some back."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import psutil
import torch

MIB = 1 << 20
OutOfMemoryError = torch.OutOfMemoryError

_CPU_SHARE = 0.75  # of the machine's memory that a worker counts as its own unless told otherwise
_CUDA_SHARE = 0.92
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_budget(device: torch.device) -> int:
    """Bytes a worker may use in all when it is not told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * _CUDA_SHARE)
    return int(min(psutil.virtual_memory().total, _cgroup_limit()) * _CPU_SHARE)


def bytes_in_use(device: torch.device) -> int:
    """Bytes this process holds: on the GPU what torch reserved, on the CPU what is resident."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    return int(psutil.Process().memory_info().rss)


def fragmented(device: torch.device) -> int:
    """Bytes that are free within blocks of which a part is in use: neither the system's nor a large tensor's.

    torch's `inactive_split_bytes`; on the CPU the allocator does not say, and pages go back one by one.
    """
    if device.type != "cuda":
        return 0
    return int(torch.cuda.memory_stats(device).get("inactive_split_bytes.all.current", 0))


def release_unused(device: torch.device) -> None:
    """Return freed memory to the system, so that the next measurement sees it.

    What stays is left out of later collections: a full one beside torch and transformers takes a fifth of a
    second, in which every stream stands still.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


def _cgroup_limit() -> int:
    try:
        text = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        text = "max"
    return int(text) if text.isdigit() else 1 << 62
