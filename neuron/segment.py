"""The memory that the ranks of a device group share, and the words in it.

The daemon makes it without a name (memfd), and ranks open it by the daemon's file descriptor: it is gone with
the last process that has it mapped, however those end. It holds

    offset      what                                                   written by
    0           not 0: the group is over, and the length of the why    whoever ends it, the daemon among them
    8           a bit for each rank that was waited for in vain
    64          why, UTF-8
    2048        a line of 64 bytes for each rank: its offer; what a    the rank, once its part is loaded
                step's plan took                                       the rank, in each step
    8192        a step's plan: length, number, when, and its bytes     rank 0
    EXCHANGE    what ext/ranks.c exchanges                             all ranks

Sizes are those of address space: memory is taken where something is written.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Sequence

MAX_RANKS = 64
SLOT_BYTES = 1 << 20  # of what one rank writes at once
_REASON, _REASON_BYTES = 64, 1024
_OFFERS, _OFFER = 2048, struct.Struct("<8I")
_LENGTH, _MASK, _HEAD = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IIq")
PLAN, _PLAN_BYTES = 8192, 16 << 20
MAX_PLAN_BYTES = _PLAN_BYTES - _HEAD.size
EXCHANGE = PLAN + _PLAN_BYTES

Offer = tuple[int, int, int, int, int, int, int]  # what a rank offers; the group takes the least of each


class SharedSegment:
    """The mapping of one process. Only `abort` and `reason` may be called from any thread."""

    def __init__(self, descriptor: int, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        size = EXCHANGE + 64 * num_ranks + 2 * num_ranks * SLOT_BYTES
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))  # until this object is gone

    @classmethod
    def open(cls, path: str, num_ranks: int) -> SharedSegment:
        """Map what another process made. Raises OSError when that is gone."""
        descriptor = os.open(path, os.O_RDWR)
        try:
            return cls(descriptor, num_ranks)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap it; nothing else may be called afterwards."""
        self._memory.close()

    # --- the end --------------------------------------------------------------------------------------

    def abort(self, reason: str, silent: Sequence[int] = ()) -> None:
        """End the group: whoever waits for another rank gives up. The first reason stays.

        `silent` are the ranks that were waited for in vain.
        """
        if self.reason is None:
            self._memory[8:16] = _MASK.pack(sum(1 << rank for rank in silent))
            text = reason.encode()[:_REASON_BYTES]
            self._memory[_REASON : _REASON + len(text)] = text
            self._memory[:4] = _LENGTH.pack(1 + len(text))

    @property
    def reason(self) -> str | None:
        """Why the group is over; None while it is not."""
        (word,) = _LENGTH.unpack_from(self._memory, 0)
        return bytes(self._memory[_REASON : _REASON + word - 1]).decode(errors="replace") if word else None

    @property
    def silent(self) -> list[int]:
        """The ranks that were waited for in vain."""
        (mask,) = _MASK.unpack_from(self._memory, 8)
        return [rank for rank in range(self.num_ranks) if mask >> rank & 1]

    # --- before the first step ------------------------------------------------------------------------

    def offer(self, rank: int, numbers: Offer) -> None:
        """Say what this rank has room for."""
        start = _OFFERS + 64 * rank
        self._memory[start + 4 : start + _OFFER.size] = _OFFER.pack(0, *numbers)[4:]
        self._memory[start : start + 4] = _LENGTH.pack(1)

    def offers(self) -> Sequence[Offer] | None:
        """What all ranks have room for; None until each has said it."""
        found = [_OFFER.unpack_from(self._memory, _OFFERS + 64 * rank) for rank in range(self.num_ranks)]
        return [numbers for _, *numbers in found] if all(said for said, *_ in found) else None  # type: ignore[misc]

    # --- steps ----------------------------------------------------------------------------------------

    # ext/ranks.c does the same where it was built.

    def write_plan(self, plan: bytes, number: int) -> None:
        """Replace the plan, of at most `MAX_PLAN_BYTES`.

        Every step ends with an exchange, so all ranks have read the plan before it.
        """
        start = PLAN + _HEAD.size
        self._memory[start : start + len(plan)] = plan
        self._memory[PLAN:start] = _HEAD.pack(len(plan), number, time.monotonic_ns())

    def read_plan(self) -> tuple[bytes, int, int]:
        """The plan that was written last, its number, and when, in nanoseconds of the monotonic clock."""
        length, number, written_ns = _HEAD.unpack_from(self._memory, PLAN)
        start = PLAN + _HEAD.size
        return self._memory[start : start + length], number, written_ns

    def note_overhead(self, rank: int, nanoseconds: int) -> None:
        """Say how long a plan took a rank: rank 0 to tell it, others from then until they compute."""
        start = _OFFERS + 64 * rank + _OFFER.size
        self._memory[start : start + _MASK.size] = _MASK.pack(nanoseconds)

    def overhead_ns(self) -> int:
        """What the last plan took: telling it, and the wait of the slowest rank for it."""
        starts = [_OFFERS + 64 * rank + _OFFER.size for rank in range(self.num_ranks)]
        first, *others = (_MASK.unpack_from(self._memory, start)[0] for start in starts)
        return int(first + max(others))
