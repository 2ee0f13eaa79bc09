"""Tensors whose numbers are in pinned host memory for a while.

The tensors stay, and whatever holds them: it is their storages that lose the device's memory and get it back.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

_WORKER = "neuron.worker"  # its objects know all models


class HostCopies:
    """What was on GPUs of all that can be reached from an object, from now until `move_back`."""

    def __init__(self, root: Any, device_type: str = "cuda") -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []  # bytes of storages, and of their copies
        for storage in _storages(root, device_type):
            copy = torch.empty(storage.nbytes, dtype=torch.uint8, pin_memory=storage.is_cuda)
            copy.copy_(storage, non_blocking=True)
            self._pairs.append((storage, copy))
        self._wait()
        for storage, _ in self._pairs:
            storage.untyped_storage().resize_(0)

    def move_back(self) -> None:
        """Give the storages memory again, and what they held."""
        for storage, copy in self._pairs:
            storage.untyped_storage().resize_(copy.nbytes)
            storage.copy_(copy, non_blocking=True)
        self._wait()

    def _wait(self) -> None:
        if self._pairs and self._pairs[0][0].is_cuda:
            torch.cuda.synchronize(self._pairs[0][0].device)


def _storages(root: Any, device_type: str) -> Iterator[Tensor]:
    """Yield the bytes of all storages that can be reached from an object on such devices, each once."""
    seen: set[int] = set()
    found: set[int] = set()
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            if value.device.type == device_type and storage.nbytes() and storage.data_ptr() not in found:
                found.add(storage.data_ptr())
                yield torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage)
        waiting += _parts(value)


def _parts(value: Any) -> list[Any]:
    """Return what an object holds, as far as weights may be in it, and nothing of the worker's own."""
    if isinstance(value, (str, bytes, int, float, type, ModuleType, torch.dtype, torch.device)):
        return []
    if str(getattr(value, "__module__", "")).startswith(_WORKER):
        return []
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    parts = [vars(value)] if hasattr(value, "__dict__") else []
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        parts += [getattr(value, name, None) for name in ((slots,) if isinstance(slots, str) else slots)]
    if isinstance(value, FunctionType):
        parts += inspect.getclosurevars(value).nonlocals.values()
    return parts + [getattr(value, name, None) for name in ("func", "args", "keywords", "__self__")]
