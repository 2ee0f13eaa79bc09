"""Which device a worker owns, and taking it: called once, by the thread that uses the device for life."""

from __future__ import annotations

import os

import torch

Device = torch.device


def parse_device(text: str) -> Device:
    """`cpu:0` or `cuda:N`. Raises ValueError for anything else."""
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise ValueError(f"{text} is no device") from error
    if device.type not in {"cpu", "cuda"}:
        raise ValueError(f"{text} is neither cpu:N nor cuda:N")
    return torch.device(device.type, device.index or 0)


def init_device(device: Device, threads: int | None) -> None:
    """Make the calling thread the one that uses `device`, and make sure that it can be used.

    `threads` are for work on the CPU; absent, the cores are shared among the devices' workers.
    """
    workers = torch.cuda.device_count() if device.type == "cuda" else 1
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // max(1, workers)))
    torch.set_grad_enabled(False)  # of this thread
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.zeros(1, device=device).add_(1).item()
