# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False, cdivision=True
"""What one worker has prefetched of one key's limits: it admits requests by that without asking anybody.

Arithmetic alone: `fleet.key_limits` says what a prefetch is, `fleet.gateway.limits` asks for it. A key with
`BUSY` requests a second gets one of a second's worth, another key one of `FEW` requests that is held a little
longer, and `LONGER` times as long where it is next to nothing of what the key has left. It keeps no other
worker waiting for long: when its time is over or it is spent, the rest is returned. A worker that is killed
returns nothing: what it had prefetched comes back when the lease runs out, the part that ended requests used
included.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ext.writer import ByteWriter

BUSY = 8  # requests a second
FEW = 8  # requests of a prefetch for a key with fewer
HOLD_S, LONG_HOLD_S = 1.0, 5.0  # how long it is held at most, of a busy key and of another
LONGER = 12  # times as long next to nothing is held, and reserved should its worker die
MINUTE_S = _MINUTE_S = 60.0


class Grant:
    """What is reserved for one request, or prefetched for many.

    `window` is the start of its budget period, in seconds since the epoch. `id` is empty while a request's is
    a part of a prefetched one. Settle it exactly once.
    """

    def __init__(  # noqa: PLR0913 - its fields
        self,
        id: str,  # noqa: A002 - what it is
        tokens: int,
        window: int,
        at: float = 0.0,
        end: float = 0.0,
        requests_end: float = 0.0,
        requests: int = 1,
        slots: int = 1,
    ) -> None:
        self.id = id
        self.tokens = tokens
        self.window = window
        self.at = at  # when it was made, by the account's clock; 0 in another account
        self.end = end  # theoretical arrival time of the token bucket just after it
        self.requests_end = requests_end  # and of the request bucket
        self.requests = requests
        self.slots = slots  # requests that may run by it at once
        self.plenty = False  # a prefetched one is next to nothing of what is left
        self.requests_reset_s = 0.0  # until the bucket is empty
        self.tokens_reset_s = 0.0
        self.key: Any = None  # of a request's
        self.local = False  # made in this process's memory
        self.prefetch: Prefetch | None = None  # of its key

    def end_with(self, used: int) -> bool:
        """End a request that used so many tokens. Return whether that settles it: nobody need be told."""
        return self.prefetch is not None and self.prefetch.end(self, used)


class Prefetch:
    """Of one key. Times are this worker's, in seconds since the epoch."""

    def __init__(self, longest_s: float = LONG_HOLD_S) -> None:
        self.open = 0  # requests that were admitted and have not ended
        self.asked = False  # the answer is on its way
        self.wanted_again = False  # what is held has admitted a request that came after it
        self._longest_s = longest_s
        self._second = 0
        self._now_requests = self._now_tokens = 0  # in this second
        self._before_requests = self._before_tokens = 0  # and in the one before
        self._last_tokens = 0  # of one request
        self._grant: Grant | None = None  # that is held; the rest is about it
        self._key: Any = None
        self._limits: Any = None
        self._since = self._until = 0.0
        self._has_all_slots = False  # that were asked for
        self._requests = self._slots = self._tokens = 0  # that are left
        self._request_s = self._token_s = 0.0  # seconds of the bucket for each; 0 without a limit
        self._running: dict[Grant, None] = {}

    def note(self, tokens: int, now: float) -> None:
        """Count a request that may use `tokens`."""
        second = int(now)
        if second != self._second:
            lately = second == self._second + 1
            self._before_requests = self._now_requests if lately else 0
            self._before_tokens = self._now_tokens if lately else 0
            self._now_requests = self._now_tokens = 0
            self._second = second
        self._now_requests += 1
        self._now_tokens += tokens
        self._last_tokens = tokens

    @property
    def is_busy(self) -> bool:
        return max(self._now_requests, self._before_requests) >= BUSY

    @property
    def is_held(self) -> bool:
        return self._grant is not None

    def hold_s(self, *, plenty: bool) -> float:
        """How long what is given now may be held; `plenty` says that it is next to nothing."""
        if self.is_busy:
            return min(self._longest_s, HOLD_S)
        return min(self._longest_s, LONG_HOLD_S) * (LONGER if plenty else 1)

    def wanted(self, ident: str, window: int, waiting: int) -> Grant | None:
        """The grant to ask for besides those of `waiting` requests: twice of what came lately.

        None while something is held or asked for.
        """
        if self.asked or self._grant is not None:
            return None
        slots = 2 * (self.open + waiting)
        if not self.is_busy:
            return Grant(ident, FEW * self._last_tokens, window, requests=FEW, slots=slots)
        requests, lately = max(
            (self._now_requests, self._now_tokens), (self._before_requests, self._before_tokens)
        )
        return Grant(ident, 2 * lately, window, requests=2 * requests, slots=slots)

    def hold(
        self, key: Any, wanted: Grant, given: Grant, now: float, until: float, admitted: list[Grant]
    ) -> None:
        """Admit requests by `given`: the part of `wanted` that was granted, and those that came with it."""
        self._grant = given
        self._key = key
        self._limits = limits = key.limits
        self._since, self._until = now, until
        self._has_all_slots = given.slots - len(admitted) >= wanted.slots
        self._requests, self._slots, self._tokens = given.requests, given.slots, given.tokens
        self._request_s = _MINUTE_S / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._token_s = _MINUTE_S / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        self.wanted_again = False
        for grant in admitted:
            grant.id = ""
            self._run(grant, key)

    def admit(self, key: Any, tokens: int, now: float) -> Grant | None:
        """Admit a request by what is held; None when that does not suffice: somebody must be asked."""
        whole = self._grant
        if whole is None or self._slots < 1 or self.is_spent(key, tokens, now):
            return None
        self.note(tokens, now)
        self.wanted_again = True
        grant = Grant("", tokens, whole.window)
        grant.at = at = whole.at + now - self._since
        grant.end = whole.end
        self._run(grant, key)
        if self._request_s:
            grant.requests_reset_s = max(0.0, whole.requests_end - self._requests * self._request_s - at)
        if self._token_s:
            grant.tokens_reset_s = max(0.0, whole.end - self._tokens * self._token_s - at)
        return grant

    def let_run(self, grant: Grant, key: Any) -> None:
        """Count a request that was admitted by its own grant."""
        grant.key = key
        grant.prefetch = self
        self.open += 1

    def _run(self, grant: Grant, key: Any) -> None:
        self._slots -= 1
        self._requests -= 1
        self._tokens -= grant.tokens
        self._running[grant] = None
        self.let_run(grant, key)

    def is_spent(self, key: Any, tokens: int, now: float) -> bool:
        """Return whether something is held and cannot admit this request, nor a later one like it.

        Slots come back by themselves. Running out of them counts where all that were asked for were given:
        there may be more.
        """
        if self._grant is None:
            return False
        if self._requests < 1 or self._tokens < tokens or not self._since <= now < self._until:
            return True
        if self._slots < 1 and self._has_all_slots:
            return True
        return self._key is not key and bool(self._limits != key.limits)

    def end(self, grant: Grant, used: int) -> bool:
        """End a request. Return whether it ran by what is held: nobody need be told then."""
        self.open -= 1
        if grant.id or grant not in self._running:
            return False
        del self._running[grant]
        self._slots += 1
        self._tokens += grant.tokens - used
        return True

    def release(self) -> tuple[Any, Grant, int, int, list[Grant]] | None:
        """Stop holding. Return the key, the grant, what is left of its requests and tokens, and who runs on.

        None when nothing was held. From now on each running request counts as reserved by itself: after those
        that have ended, before what is left.
        """
        whole, self._grant = self._grant, None
        if whole is None:
            return None
        running = list(self._running)
        self._running = {}
        left = self._tokens
        for one in reversed(running):
            one.at, one.end = whole.at, whole.end - left * self._token_s
            left += one.tokens
        return self._key, whole, self._requests, self._tokens, running


def _names(prefix: str, what: str) -> tuple[bytes, bytes, bytes]:
    """What stands before the limit of an account, before what is left of it, and before its reset."""
    limit, left, reset = [prefix.format(field, what) for field in ("limit", "remaining", "reset")]
    return f"{limit}: ".encode(), f"\r\n{left}: ".encode(), f"\r\n{reset}: ".encode()


_OPENAI = tuple(_names("x-ratelimit-{0}-{1}", what) for what in ("requests", "tokens"))
_ANTHROPIC = tuple(_names("anthropic-ratelimit-{1}-{0}", what) for what in ("requests", "tokens"))
_writer = ByteWriter()


def head_lines(grant: Grant, limits: Any) -> bytes:
    """The headers that tell how a key's account stands, as OpenAI names them; each ends with CRLF."""
    _writer.clear()
    if limits.requests_per_minute is not None:
        _put_account(_OPENAI[0], limits.requests_per_minute, grant.requests_reset_s)
        _put_duration(grant.requests_reset_s)
        _writer.put(b"\r\n")
    if limits.tokens_per_minute is not None:
        _put_account(_OPENAI[1], limits.tokens_per_minute, grant.tokens_reset_s)
        _put_duration(grant.tokens_reset_s)
        _writer.put(b"\r\n")
    return _writer.written(0, _writer.size)


def _put_account(names: tuple[bytes, bytes, bytes], limit: int, reset_s: float) -> None:
    """What is left of an account, up to the value that says when all of it is there again."""
    _writer.put_number(names[0], limit)
    _writer.put_number(names[1], remaining(limit, reset_s))
    _writer.put(names[2])


def anthropic_lines(grant: Grant, limits: Any) -> bytes:
    """The same as Anthropic names them."""
    _writer.clear()
    if limits.requests_per_minute is not None:
        _put_account(_ANTHROPIC[0], limits.requests_per_minute, grant.requests_reset_s)
        _writer.put(moment(_rounded_up(grant.at + grant.requests_reset_s)))
    if limits.tokens_per_minute is not None:
        _put_account(_ANTHROPIC[1], limits.tokens_per_minute, grant.tokens_reset_s)
        _writer.put(moment(_rounded_up(grant.at + grant.tokens_reset_s)))
    return _writer.written(0, _writer.size)


def remaining(limit: int, reset_s: float) -> int:
    """What is left of a minute's `limit` whose bucket is empty in `reset_s`."""
    left = (_MINUTE_S - reset_s) * limit / _MINUTE_S + 1e-3
    return int(left) if left > 0 else 0


@lru_cache(maxsize=256)
def moment(second: int) -> bytes:
    """The end of a line that names a moment as Anthropic does, in seconds since the epoch."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ\r\n").encode()


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `17ms`, `8.64s`, `6m0s`, `1h0m0s`."""
    _writer.clear()
    _put_duration(seconds)
    return _writer.written(0, _writer.size).decode()


def _put_duration(seconds: float) -> None:
    if seconds < 1:
        _writer.put_number(b"", _rounded_up(seconds * 1000))
        _writer.put(b"ms")
    elif seconds < _MINUTE_S:
        hundredths = int(seconds * 100 + 0.5)
        _writer.put_number(b"", hundredths // 100)
        if rest := hundredths % 100:
            _writer.put(b".")
            _writer.put_digits(rest if rest % 10 else rest // 10, 2 if rest % 10 else 1)
        _writer.put(b"s")
    else:
        whole = _rounded_up(seconds)
        if whole >= 3600:
            _writer.put_number(b"", whole // 3600)
            _writer.put(b"h")
        _writer.put_number(b"", whole % 3600 // 60)
        _writer.put_number(b"m", whole % 60)
        _writer.put(b"s")


def _rounded_up(value: float) -> int:
    whole = int(value)
    return whole if whole == value else whole + 1
