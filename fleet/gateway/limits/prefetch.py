"""What one worker has prefetched of one key's limits: it admits requests by that without asking Redis.

A key with `BUSY` requests a second gets a prefetch (`fleet.key_limits.prefetch`) of a second's worth at most.
It keeps no other worker waiting for long: after a second, or when it is spent, the rest is returned. A worker
that is killed returns nothing: what it had prefetched comes back when the lease runs out, the part that ended
requests used included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.key_limits import MINUTE_S, Admission, Grant, Remainder
from fleet.snapshot import KeyView

BUSY = 8  # requests a second; for fewer a prefetch costs more steps than it saves
HOLD_S = 1.0  # how long a prefetch is held at most


@dataclass(slots=True)
class _Held:
    """A prefetched grant, and what of it is left."""

    key: KeyView
    grant: Grant
    since: float  # by this worker's clock, seconds since the epoch
    has_all_slots: bool  # that were asked for
    requests: int
    slots: int
    tokens: int
    running: dict[str, Grant] = field(default_factory=dict)  # by id


class Prefetch:
    """Of one key. Times are this worker's, in seconds since the epoch."""

    asked = False  # Redis's answer is on its way
    _held: _Held | None = None

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self.open = 0  # requests that were admitted and have not ended
        self._hold_s = hold_s
        self._second = 0
        self._now = self._before = (0, 0)  # requests and tokens in this second and in the one before

    def note(self, tokens: int, now: float) -> None:
        """Count a request that may use `tokens`."""
        if (second := int(now)) != self._second:
            self._before = self._now if second == self._second + 1 else (0, 0)
            self._now = (0, 0)
            self._second = second
        requests, before = self._now
        self._now = requests + 1, before + tokens

    def wanted(self, ident: str, window: int, waiting: int) -> Grant | None:
        """The grant to ask for: twice of what came lately; None where it would not pay."""
        requests, tokens = max(self._now, self._before)
        if self.asked or self._held is not None or requests < BUSY:
            return None
        return Grant(ident, 2 * tokens, window, requests=2 * requests, slots=2 * (self.open + waiting))

    def hold(self, key: KeyView, wanted: Grant, given: Grant, now: float) -> None:
        """Admit requests by `given`, the part of `wanted` that was granted."""
        all_slots = given.slots >= wanted.slots
        self._held = _Held(key, given, now, all_slots, given.requests, given.slots, given.tokens)

    def take(self, key: KeyView, grant: Grant, now: float) -> Admission | None:
        """Admit a request by what is held; None when that does not suffice."""
        held = self._held
        limits = key.limits
        if held is None or not held.slots or self.is_spent(key, grant, now):
            return None
        held.slots -= 1
        held.requests -= 1
        held.tokens -= grant.tokens
        held.running[grant.id] = grant
        whole = held.grant
        at = held.grant.at + now - held.since
        requests_s = _reset_s(whole.requests_end, limits.requests_per_minute, held.requests, at)
        tokens_s = _reset_s(whole.end, limits.tokens_per_minute, held.tokens, at)
        return Admission("", 0.0, at, whole.end, requests_s, tokens_s)

    def is_spent(self, key: KeyView, grant: Grant, now: float) -> bool:
        """Whether something is held and cannot admit this request, nor a later one like it.

        Slots come back by themselves. Running out of them counts where all that were asked for were given:
        there may be more.
        """
        held = self._held
        return held is not None and (
            held.requests < 1
            or (held.slots < 1 and held.has_all_slots)
            or held.tokens < grant.tokens
            or held.grant.window != grant.window
            or not held.since <= now < held.since + self._hold_s
            or (held.key is not key and held.key.limits != key.limits)
        )

    def end(self, grant: Grant, used: int) -> bool:
        """End a request. Returns whether it was admitted by what is held: Redis need not be told then."""
        self.open -= 1
        held = self._held
        if held is None or held.running.pop(grant.id, None) is None:
            return False
        held.slots += 1
        held.tokens += grant.tokens - used
        return True

    def release(self) -> tuple[KeyView, Remainder] | None:
        """Stop holding. Returns what is to be given back; None when nothing was held.

        From now on each running request counts as reserved by itself: after those that have ended, before
        what is left.
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
        return held.key, Remainder(grant, held.requests, held.tokens, running)


def _reset_s(end: float, limit: int | None, left: int, at: float) -> float:
    """Seconds until the bucket is empty, as if what is left of the prefetch were back in it."""
    return 0.0 if limit is None else max(0.0, end - left * MINUTE_S / limit - at)
