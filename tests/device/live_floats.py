"""Counts the bytes of plain numbers that are held at a time."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveFloats(TorchDispatchMode):
    """While it is entered, `peak_bytes` is the most that memory of floats, allocated since, has been.

    Views, mapped files and memory of other threads are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._live: dict[int, int] = {}  # bytes, by address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage.data_ptr() for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            address = storage.data_ptr()
            if address and address not in given and address not in self._live:
                self._live[address] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, address, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
        return result


def _storages(values: Any) -> Iterator[Any]:
    for value in tree_leaves(values):
        if type(value) is Tensor and value.is_floating_point() and value.device.type == "cpu":
            yield value.untyped_storage()
