"""A circuit breaker per node: pure, every method is told the time (monotonic, seconds).

It tells apart what a node's refusals mean. Broken: connections that fail, resets, 5xx; after
`FAILURES` in a row the node is left alone, then one request probes it. Busy: the node named a time
(429 or 503 with `Retry-After`); until then others are preferred for that model. Unauthorised: our token is
wrong, which an operator changes (that makes a new breaker) or the node's own does: seldom probed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["closed", "half-open", "open"]

FAILURES = 3
OPEN_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # how long it stays open, the n-th time in a row; the last goes on
UNAUTHORIZED_S = 60.0  # between two probes of a node that does not accept our token
PROBE_S = 30.0  # a probe that has not come back after this is taken for lost
MAX_BUSY_S = 60.0  # a node's word is believed for at most this


@dataclass(slots=True)
class Breaker:
    failures: int = 0  # in a row
    unauthorized: bool = False  # what it said last
    _openings: int = 0  # in a row
    _open_until: float | None = None
    _probing_until: float = 0.0
    _busy_until: dict[str, float] = field(default_factory=dict)  # by model

    def state(self, now: float) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a request may go there now. In half-open state one probe at a time may."""
        state = self.state(now)
        return state == "closed" or (state == "half-open" and now >= self._probing_until)

    def is_busy(self, model: str, now: float) -> bool:
        return now < self._busy_until.get(model, 0.0)

    def retry_after_s(self, now: float) -> float:
        """Seconds until it may admit again; 0 when it does."""
        if self.admits(now):
            return 0.0
        return max(self._open_until or 0.0, self._probing_until, now + 1.0) - now

    def sent(self, now: float) -> None:
        if self._open_until is not None and self.state(now) == "half-open":
            self._probing_until = now + PROBE_S

    def succeeded(self) -> None:
        """The node answered something sensible, a refusal included."""
        self.failures = self._openings = 0
        self.unauthorized = False
        self._open_until, self._probing_until = None, 0.0

    def abandoned(self) -> None:
        """The request was given up before the node said anything: it proves nothing."""
        self._probing_until = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= FAILURES:
            self._open_until = now + OPEN_S[min(self._openings, len(OPEN_S) - 1)]
            self._openings += 1
            self._probing_until = 0.0

    def denied(self, now: float) -> None:
        """The node does not accept our token."""
        self.unauthorized = True
        self._open_until, self._probing_until = now + UNAUTHORIZED_S, 0.0

    def refused_for_now(self, model: str, now: float, retry_after_s: float) -> None:
        self._busy_until[model] = now + min(retry_after_s, MAX_BUSY_S)
        self.succeeded()
