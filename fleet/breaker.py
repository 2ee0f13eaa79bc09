# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""A circuit breaker per node. Pure: every method is told the time (monotonic, seconds).

It distinguishes three kinds of refusal. Broken: connections that fail, resets, 5xx; after `FAILURES` in a row
the node is left alone, then one request probes it. Busy: the node named a time (429 or 503 with
`Retry-After`); until then other nodes are preferred for that model. Unauthorised: our token is wrong until an
operator changes it here, which makes a new breaker, or on the node, so the node is probed seldom.
"""

from __future__ import annotations

from typing import Literal

State = Literal["closed", "half-open", "open"]

FAILURES = 3
OPEN_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # how long it stays open, the n-th time in a row; the last one repeats
UNAUTHORIZED_S = 60.0  # between two probes of a node that does not accept our token
PROBE_S = 30.0  # a probe without an answer counts as lost after this
MAX_BUSY_S = 60.0  # the longest `Retry-After` that is believed


class Breaker:
    """Of one node."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.unauthorized = False  # its last refusal was of our token
        self._openings = 0  # in a row
        self._open_until: float | None = None
        self._probing_until = 0.0
        self._busy_until: dict[str, float] = {}  # by model

    def state(self, now: float) -> State:
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a request may go there now. A half-open breaker admits one probe at a time."""
        state = self.state(now)
        return state == "closed" or (state == "half-open" and now >= self._probing_until)

    def is_busy(self, model: str, now: float) -> bool:
        return now < self._busy_until.get(model, 0.0)

    def retry_after_s(self, now: float) -> float:
        """Seconds until it may admit again; 0 when it does now."""
        if self.admits(now):
            return 0.0
        return max(self._open_until or 0.0, self._probing_until, now + 1.0) - now

    def sent(self, now: float) -> None:
        if self._open_until is not None and self.state(now) == "half-open":
            self._probing_until = now + PROBE_S

    def succeeded(self) -> None:
        """Record a sensible answer, which a refusal may be."""
        self.failures = self._openings = 0
        self.unauthorized = False
        self._open_until, self._probing_until = None, 0.0

    def abandoned(self) -> None:
        """Record a request that was given up before the node answered: it proves nothing."""
        self._probing_until = 0.0

    def failed(self, now: float) -> None:
        """Record a broken node."""
        self.failures += 1
        if self.failures >= FAILURES:
            self._open_until = now + OPEN_S[min(self._openings, len(OPEN_S) - 1)]
            self._openings += 1
            self._probing_until = 0.0

    def denied(self, now: float) -> None:
        """Record that the node does not accept our token."""
        self.unauthorized = True
        self._open_until, self._probing_until = now + UNAUTHORIZED_S, 0.0

    def refused_for_now(self, model: str, now: float, retry_after_s: float) -> None:
        """Record that the node is busy with a model."""
        self._busy_until[model] = now + min(retry_after_s, MAX_BUSY_S)
        self.succeeded()
