"""A file's bytes as a tensor that costs memory only where it is read, and shares it with whoever reads it."""

from __future__ import annotations

import mmap
import warnings
from pathlib import Path

import torch
from torch import Tensor


def map_file(path: Path) -> Tensor:
    """Return all bytes of a file, (bytes,) uint8, which must not be written to.

    The mapping ends with the last tensor that views it. Raises OSError or ValueError if there is none.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=torch.uint8)
