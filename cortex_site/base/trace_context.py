"""The `traceparent` header, by which a trace goes on in the next program (W3C Trace Context, §3.2)."""

from __future__ import annotations

import random
import re
from contextvars import ContextVar
from dataclasses import dataclass, replace

HEADER = "traceparent"
CURRENT: ContextVar[TraceContext | None] = ContextVar(
    "CURRENT", default=None
)  # of a request that is recorded
_VALUE = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of a trace; `is_sampled` says whether it is recorded."""

    trace_id: int
    span_id: int
    is_sampled: bool

    def __str__(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"

    def child(self) -> TraceContext:
        """Return another span of the same trace."""
        return replace(self, span_id=_new_id(64))


def begun(*, is_sampled: bool) -> TraceContext:
    """Return the first span of a new trace."""
    return TraceContext(_new_id(128), _new_id(64), is_sampled)


def read(value: str | None) -> TraceContext | None:
    """Return what a header says; None for one that is not there or means nothing, as the standard has it.

    A later version may have more fields, which are passed over; version 00 has none.
    """
    found = _VALUE.fullmatch(value or "")
    if found is None or (found[1] == "00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED))


def _new_id(bits: int) -> int:
    return random.getrandbits(bits) or 1
