"""Copies of tensors to a GPU through a ring of pinned buffers.

    file -> page cache -> a pinned buffer, filled by one of several readers -> device

What is copied from ordinary memory goes through one buffer of the driver, and whoever asked for it waits.
Here readers fill other buffers meanwhile, from the disk where the mapped file is not in memory yet, and
nobody waits for the device: what uses a tensor there comes after its copy in the same stream.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

READERS = 4
BUFFER_BYTES = 16 << 20


class _Buffer:
    """Pinned memory; what it holds is needed until the copy to the device that was begun last is done."""

    def __init__(self, num_bytes: int, *, pinned: bool) -> None:
        self._memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    def fill(self, source: Tensor) -> Tensor:
        """Return the bytes of `source` where they are in the buffer now. Called by a reader."""
        self.wait()
        return self._memory[: len(source)].copy_(source)

    def send(self, filled: Tensor, target: Tensor) -> None:
        target.copy_(filled, non_blocking=True)
        if self._copied:
            self._copied.record(torch.cuda.current_stream(target.device))

    def wait(self) -> None:
        if self._copied:
            self._copied.synchronize()


class UploadRing:
    """Copies tensors to a device, one after the other. It is left when all copies are done."""

    def __init__(
        self, device: torch.device, *, readers: int = READERS, buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        self._device = device
        self._size = buffer_bytes
        pinned = device.type == "cuda"
        self._buffers = [_Buffer(buffer_bytes, pinned=pinned) for _ in range(2 * readers)]
        self._next = cycle(self._buffers)
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="upload")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._readers.shutdown(cancel_futures=True)
        for buffer in self._buffers:
            buffer.wait()

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the device with the numbers of one in ordinary memory."""
        if not tensor.is_contiguous():
            return tensor.to(self._device)
        copied = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        source, target = (each.view(-1).view(torch.uint8) for each in (tensor, copied))
        filling: deque[tuple[_Buffer, Future[Tensor], Tensor]] = deque()
        for start in range(0, len(source), self._size):
            if len(filling) == len(self._buffers):
                _send_first(filling)
            buffer, piece = next(self._next), slice(start, start + self._size)
            filling.append((buffer, self._readers.submit(buffer.fill, source[piece]), target[piece]))
        while filling:
            _send_first(filling)
        return copied


def _send_first(filling: deque[tuple[_Buffer, Future[Tensor], Tensor]]) -> None:
    buffer, filled, target = filling.popleft()
    buffer.send(filled.result(), target)
