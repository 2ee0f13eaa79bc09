"""What the ranks of a device group do together: the sums and gathers within a step.

A rank computes a part of each layer, and what the parts make is added up over all ranks: `sum_ranks`. While a
model is loaded and probed it is of one rank alone, and the sum is what the rank has.

    SharedCollective    in memory that processes of one host share, by ext/ranks.c: CPUs
    TorchCollective     by torch.distributed: NCCL on GPUs; gloo where ext was not built
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as distributed
from torch import Tensor

from ext import compiled, matmul
from neuron.device import row_steps
from neuron.segment import EXCHANGE, MAX_PLAN_BYTES, PLAN, SLOT_BYTES, SharedSegment

_native: Any = compiled("ranks")
_steps: Any = matmul.load()  # which records sums
_WATCH_S = 0.1  # between two looks at a step that runs


class GroupLostError(Exception):
    """The step cannot be finished: another rank is gone, or this one failed."""


class Collective(Protocol):
    """All ranks call the same methods in the same order. Each may raise `GroupLostError`."""

    rank: int
    size: int

    def begin(self) -> None:
        """Note that a step begins."""
        ...

    def end(self) -> None:
        """Note that a step ends, whose results count unless this raises."""
        ...

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum over all ranks, in place of `part` where it can: the same bits on each."""
        ...

    def gather(self, part: Tensor) -> Tensor | None:
        """Return what all ranks have, (ranks, …), on rank 0; None on others. All are of one shape."""
        ...

    def close(self) -> None:
        """Give up what it holds; nothing is waited for."""
        ...


_collective: ContextVar[Collective | None] = ContextVar("collective", default=None)


@contextmanager
def use_collective(collective: Collective) -> Iterator[None]:
    """Let `sum_ranks` add up inside the block."""
    token = _collective.set(collective)
    collective.begin()
    try:
        yield
        collective.end()
    finally:
        _collective.reset(token)


def sum_ranks(part: Tensor) -> Tensor:
    """Return the sum of what each rank has; `part` may be overwritten."""
    collective = _collective.get()
    return part if collective is None else collective.sum(part)


def mean_of_ranks(part: Tensor) -> Tensor:
    """Return the mean of what each rank has; `part` may be overwritten."""
    collective = _collective.get()
    return part if collective is None else collective.sum(part).div_(collective.size)


def sums_are_recorded() -> bool:
    """Return whether sums between CPUs are operations of `ext.matmul`."""
    return _native is not None and _steps is not None


def gather_ranks(part: Tensor) -> Tensor | None:
    """Return what all ranks have, (ranks, …), on rank 0; None on others."""
    collective = _collective.get()
    return part.unsqueeze(0) if collective is None else collective.gather(part)


def largest_of_ranks(part: Tensor, first: int) -> list[int]:
    """Return the place of each row's largest number in what all ranks have side by side, the same on each.

    `part` is this rank's, (rows, columns), and begins at the column `first`. NaN is never the largest.
    """
    collective = _collective.get()
    if collective is None:
        return [max(0, place) for place in row_steps.largest(part)]
    own = torch.nan_to_num(part, nan=float("-inf")).max(1)
    table = part.new_zeros(collective.size, 2, len(part))  # all of which a sum makes known to all
    table[collective.rank, 0], table[collective.rank, 1] = own.values, own.indices + first
    values, places = collective.sum(table).unbind(1)
    found: list[float] = places.gather(0, values.argmax(0, keepdim=True))[0].tolist()
    return [int(place) for place in found]


class SharedCollective:
    """Between processes of one host, on a CPU."""

    def __init__(self, segment: SharedSegment, rank: int, timeout_s: float) -> None:
        self.rank = rank
        self.size = segment.num_ranks
        self._segment = segment  # kept mapped
        place = segment.address + EXCHANGE, segment.address
        self._end = _native.join(*place, rank, self.size, SLOT_BYTES, int(timeout_s * 1000))
        self._summing = _native.addresses(self._end)

    def begin(self) -> None:
        pass

    def end(self) -> None:
        outcome, late = _native.outcome(self._end)
        if outcome:
            raise group_lost(self._segment, [rank for rank in range(self.size) if late >> rank & 1])

    def sum(self, part: Tensor) -> Tensor:
        if _steps is None or part.dtype is not torch.float32 or not part.is_contiguous():
            return self._sum(part)
        _steps.run(*self._summing, part.data_ptr(), part.numel())
        self.end()  # a replay goes on until the step's own end
        return part

    def gather(self, part: Tensor) -> Tensor | None:
        out = part.new_empty(self.size, *part.shape) if self.rank == 0 else None
        self._exchange(part.contiguous(), out, adds=False)
        return out

    def close(self) -> None:
        pass

    def _sum(self, part: Tensor) -> Tensor:
        added = part.float().contiguous()
        self._exchange(added, added, adds=True)
        return added.to(part.dtype)

    def _exchange(self, part: Tensor, out: Tensor | None, *, adds: bool) -> None:
        to = 0 if out is None else out.data_ptr()
        _native.exchange(self._end, part.data_ptr(), part.nbytes, to, adds)
        self.end()


class TorchCollective:
    """By a backend of torch.distributed: `nccl` or `gloo`.

    NCCL's sums run on the device, and the thread that owns it waits for their results with no time limit. So
    another thread watches each step and aborts NCCL's operations when it takes too long or the group is over.
    """

    def __init__(
        self, segment: SharedSegment, store_path: str, rank: int, timeout_s: float, backend: str
    ) -> None:
        self.rank = rank
        self.size = segment.num_ranks
        self._segment = segment
        # The file holds where ranks are to be found; it is as nameless as the segment.
        store = distributed.FileStore(store_path, self.size)  # type: ignore[attr-defined]
        self._group = _process_group(backend, store, rank, self.size, timedelta(seconds=timeout_s))
        self._timeout_s = timeout_s
        self._begun: float | None = None  # when the step began that is under way
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="collective", daemon=True).start()

    def begin(self) -> None:
        self._begun = time.monotonic()

    def end(self) -> None:
        self._begun = None
        if self._is_over.is_set():
            raise group_lost(self._segment, [])

    def _watch(self) -> None:
        while not self._is_over.wait(_WATCH_S):
            begun = self._begun
            if begun is not None and time.monotonic() - begun > self._timeout_s:
                self._segment.abort("another rank did not answer")
            if begun is not None and self._segment.reason:
                self.close()

    def sum(self, part: Tensor) -> Tensor:
        part = part.contiguous()
        self._wait(self._group.allreduce([part]))
        return part

    def gather(self, part: Tensor) -> Tensor | None:
        outs = [torch.empty_like(part) for _ in range(self.size)]
        self._wait(self._group.allgather([outs], [part.contiguous()]))
        return torch.stack(outs) if self.rank == 0 else None

    def close(self) -> None:
        if not self._is_over.is_set():
            self._is_over.set()
            self._group.abort()

    def _wait(self, work: Any) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            raise group_lost(self._segment, []) from error


def group_lost(segment: SharedSegment, late: Sequence[int]) -> GroupLostError:
    """Return why a step failed: what ended the group, or which ranks are late, which ends it."""
    if late:
        segment.abort(f"rank {late[0]} did not answer", late)
    return GroupLostError(segment.reason or "another rank went away")


def _process_group(backend: str, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    if backend == "gloo":
        return distributed.ProcessGroupGloo(store, rank, size, timeout)
    options = distributed.ProcessGroupNCCL.Options()
    return distributed.ProcessGroupNCCL(store, rank, size, options)


def make_collective(
    segment: SharedSegment, store_path: str, rank: int, *, timeout_s: float, device: torch.device
) -> Collective:
    """Return what the ranks of a group talk by on devices of this kind. All call it at about one time."""
    if device.type == "cuda":
        return TorchCollective(segment, store_path, rank, timeout_s, "nccl")
    if _native is None:
        return TorchCollective(segment, store_path, rank, timeout_s, "gloo")
    return SharedCollective(segment, rank, timeout_s)


def tell_plan(segment: SharedSegment, plan: bytes, number: int) -> int:
    """Write a plan; return a bit for each rank that has to be woken for it.

    Raises ValueError for one that is too long.
    """
    if len(plan) > MAX_PLAN_BYTES:
        raise ValueError(f"a plan of {len(plan)} bytes")
    if _native is None:
        segment.write_plan(plan, number)
        return -1
    address = segment.address
    return int(_native.tell(address + EXCHANGE, segment.num_ranks, address + PLAN, number, plan))


def hear_plan(
    segment: SharedSegment, rank: int, number: int, microseconds: int = 0
) -> tuple[bytes, int] | None:
    """Return the plan of a number, and when it was written, in nanoseconds of the monotonic clock.

    None if it is not told in so much time.
    """
    if _native is None:
        plan, found, written_ns = segment.read_plan()
        return (plan, written_ns) if found == number else None
    address = segment.address
    heard: tuple[bytes, int] | None = _native.hear(
        address + EXCHANGE, rank, address + PLAN, number, microseconds
    )
    return heard
