"""What one worker holds ahead of one key's requests: it lets them in by that without asking Redis.

A key with `BUSY` requests a second gets an advance (`fleet.limits.advance`), a second's worth at most. Nobody
else waits for it long: after a second, or when it is used up, the rest is returned. A worker that is killed
returns nothing: its advance is free again when the lease runs out, what ended requests used of it included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.limits import MINUTE_S, Grant, Return, Verdict
from fleet.snapshot import KeyView

BUSY = 8  # requests a second; for fewer an advance costs more steps than it saves
ADVANCE_S = 1.0  # how long it is held at most


@dataclass(slots=True)
class _Held:
    """An advance, and what of it is left."""

    key: KeyView
    grant: Grant
    since: float  # by this worker's clock, seconds since the epoch
    has_all_slots: bool  # that were wished for
    requests: int
    slots: int
    tokens: int
    running: dict[str, Grant] = field(default_factory=dict)  # by id


class Allowance:
    """Times are this worker's, in seconds since the epoch."""

    asked = False  # for an advance; the answer is on its way
    _held: _Held | None = None

    def __init__(self, hold_s: float = ADVANCE_S) -> None:
        self.open = 0  # requests that were let in and have not ended
        self._hold_s = hold_s
        self._second = 0
        self._now = self._before = (0, 0)  # requests and tokens in this second and in the one before

    def note(self, tokens: int, now: float) -> None:
        """A request has come that may use so many tokens."""
        if (second := int(now)) != self._second:
            self._before = self._now if second == self._second + 1 else (0, 0)
            self._now, self._second = (0, 0), second
        requests, before = self._now
        self._now = requests + 1, before + tokens

    def wish(self, ident: str, window: int, waiting: int) -> Grant | None:
        """The advance to ask for: twice of what came lately; None where it would not pay."""
        requests, tokens = max(self._now, self._before)
        if self.asked or self._held is not None or requests < BUSY:
            return None
        return Grant(ident, 2 * tokens, window, requests=2 * requests, slots=2 * (self.open + waiting))

    def hold(self, key: KeyView, wish: Grant, grant: Grant, now: float) -> None:
        """`grant` is what was given of `wish`."""
        all_slots = grant.slots >= wish.slots
        self._held = _Held(key, grant, now, all_slots, grant.requests, grant.slots, grant.tokens)

    def take(self, key: KeyView, claim: Grant, now: float) -> Verdict | None:
        """Let a request in; None when what is held does not do."""
        held, limits = self._held, key.limits
        if held is None or not held.slots or self.is_over(key, claim, now):
            return None
        held.slots -= 1
        held.requests -= 1
        held.tokens -= claim.tokens
        held.running[claim.id] = claim
        grant, at = held.grant, held.grant.at + now - held.since
        requests_s = _reset_s(grant.requests_end, limits.requests_per_minute, held.requests, at)
        tokens_s = _reset_s(grant.end, limits.tokens_per_minute, held.tokens, at)
        return Verdict("", 0.0, at, grant.end, requests_s, tokens_s)

    def is_over(self, key: KeyView, claim: Grant, now: float) -> bool:
        """What is held, if anything, is of no more use. Slots come back by themselves, but if there may be
        more of them, it is time to ask."""
        held = self._held
        return held is not None and (
            held.requests < 1
            or (held.slots < 1 and held.has_all_slots)
            or held.tokens < claim.tokens
            or held.grant.window != claim.window
            or not held.since <= now < held.since + self._hold_s
            or (held.key is not key and held.key.limits != key.limits)
        )

    def end(self, grant: Grant, used: int) -> bool:
        """A request has ended. True: it was let in by what is held, and nobody else needs to know."""
        self.open -= 1
        held = self._held
        if held is None or held.running.pop(grant.id, None) is None:
            return False
        held.slots += 1
        held.tokens += grant.tokens - used
        return True

    def give_back(self) -> tuple[KeyView, Return] | None:
        """Hold nothing any more.

        Requests that run are from now on as if each had been reserved by itself: after those that have ended,
        before what is left.
        """
        held, self._held = self._held, None
        if held is None:
            return None
        grant, left = held.grant, held.tokens
        running = list(held.running.values())
        for one in reversed(running):
            one.at, one.end = grant.at, grant.end
            if (limit := held.key.limits.tokens_per_minute) is not None:
                one.end -= left * MINUTE_S / limit
            left += one.tokens
        return held.key, Return(grant, held.requests, held.tokens, running)


def _reset_s(end: float, limit: int | None, left: int, at: float) -> float:
    """Until the bucket is empty, were what is left of the advance in it already back."""
    return 0.0 if limit is None else max(0.0, end - left * MINUTE_S / limit - at)
