"""Which device a worker owns, and how its thread takes it."""

from __future__ import annotations

import os

import torch

Device = torch.device
AcceleratorError = torch.AcceleratorError


def parse_device(text: str) -> Device:
    """Return the device that `cpu:0` or `cuda:N` names. Raises ValueError for anything else."""
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise ValueError(f"{text} is no device") from error
    if device.type not in {"cpu", "cuda"}:
        raise ValueError(f"{text} is neither cpu:N nor cuda:N")
    return torch.device(device.type, device.index or 0)


def init_device(device: Device, threads: int | None, cpu_devices: int = 1) -> None:
    """Make the calling thread the one that uses `device`, and check that the device works.

    Called once in a process. `threads` is the number of CPU threads; None shares the cores among the workers
    of all devices.
    """
    workers = torch.cuda.device_count() if device.type == "cuda" else cpu_devices
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads or max(1, cores // max(1, workers)))
    torch.set_grad_enabled(False)  # of this thread only
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.zeros(1, device=device).add_(1).item()
