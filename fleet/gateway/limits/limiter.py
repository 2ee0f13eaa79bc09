"""A worker's side of the API keys' limits: reserve before dispatch, settle after, with Redis or without.

Accounts live in Redis, where all workers of all gateways meet. Each step there is one script and one round
trip, for all requests of a key that came in one turn of the event loop. What a key's requests need is asked
for ahead of them (`ext.prefetch`), again and again while they come: only the first one in a while waits for
Redis. While Redis is away accounts live in this process's memory: limits then hold
per worker, `local` says so, and what was used is charged to the shared budgets when Redis is back. Keys
without limits never come here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ext.prefetch import LONG_HOLD_S, Grant, Prefetch
from fleet import key_limits as arithmetic
from fleet.gateway.control.redis_link import LinkError, RedisLink
from fleet.gateway.limits import headers as limit_headers
from fleet.gateway.limits import scripts
from fleet.gateway.limits.asked import Asked, note_account
from fleet.gateway.limits.headers import Headers
from fleet.gateway.limits.returns import Release, Return, Settlement
from fleet.gateway.record import metrics
from fleet.key_limits import Account, Admission, Remainder, redis_keys
from fleet.snapshot import KeyView

log = logging.getLogger("cortex.limits")

LEASE_S = 30.0
PROBE_S = 1.0  # how often Redis is looked for while it is away
MAX_BACKLOG = 40_000  # settlements and releases that wait for Redis
MAX_HELD = MAX_BACKLOG // 2  # prefetches that are held for longer than a moment


class Limiter:
    """Connects at the first key with limits. `close` ends its task and its connection."""

    def __init__(self, url: str, *, timeout_s: float, lease_s: float = LEASE_S) -> None:
        self.local = False
        self._url = url
        self._timeout_s = timeout_s
        self._lease_s = lease_s
        self._link: RedisLink | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # the first attempt to connect is over
        self._scripts: dict[str, str] = {}  # SHA-1 by name
        self._accounts: defaultdict[str, Account] = defaultdict(Account)  # while Redis is away, by digest
        self.prefetches: defaultdict[str, Prefetch]  # of each key, now and from now on, by digest
        self.prefetches = defaultdict(partial(Prefetch, min(LONG_HOLD_S, lease_s / 3)))
        self._timers: dict[str, asyncio.TimerHandle] = {}  # that end what is held, by digest
        self._open: dict[str, str] = {}  # the digest by the id of each grant with a lease of its own
        self._unsent: dict[str, tuple[KeyView, list[Asked]]] = {}  # by digest
        self._backlog: deque[Return] = deque()
        self._sending = False  # in the event loop's next turn
        self._ids = itertools.count()
        self._worker = uuid.uuid4().hex[:12]

    def ask(self, key: KeyView, tokens: int) -> Asked | None:
        """Ask Redis for a request that nothing held admits; None where `reserve` alone can say what to do.

        An answer that admits it makes its grant valid; `reserve` or `give_up` goes on with any other.
        """
        if self._link is None or key.limits.never_fits(tokens):
            return None
        now = time.time()
        grant = self._new_grant(key, tokens, now)
        return self._ask(key, grant, now)

    async def reserve(self, key: KeyView, tokens: int, headers: Headers, asked: Asked | None = None) -> Grant:
        """Admit a request that may use `tokens`. Raises `LimitExceededError` when a limit forbids it.

        One that was `asked` for by `ask` is not asked for again.
        """
        now = time.time()
        limits = key.limits
        if asked is None:
            if (held := self.prefetches[key.digest].admit(key, tokens, now)) is not None:
                return held
            if limits.never_fits(tokens):
                raise limit_headers.too_large(limits, tokens)
        grant = asked.grant if asked is not None else self._new_grant(key, tokens, now)
        admission = await self._admission(key, grant, asked)
        if admission is None:
            grant.local = True
            lease_s = math.inf  # the account ends with this process
            admission = arithmetic.reserve(self._accounts[key.digest], limits, grant, now, lease_s)
            if not admission.refused_by:
                self._let_run(key, grant, admission)
        if admission.refused_by:
            _, end = self._period(key, now)
            raise limit_headers.refusal(limits, admission, tokens, headers, end - now)
        return grant

    def give_up(self, asked: Asked) -> None:
        """Give back what nobody waits for any more."""
        asked.answer.cancel()
        if asked.answer.cancelled():
            # Sent or not, this follows it: the lease goes, the rate drains by itself.
            self._keep_for_later(Settlement(asked.key, asked.grant, 0))
        elif asked.is_admitted:
            self.settle(asked.grant, 0)

    def settle(self, grant: Grant, used: int) -> None:
        """Charge the tokens that the request used, 0 when none. Never waits."""
        if not grant.end_with(used):
            self.charge(grant, used)

    def charge(self, grant: Grant, used: int) -> None:
        """The same for a request that has ended with so many, which did not settle it."""
        key: KeyView = grant.key
        del self._open[grant.id]
        if grant.local:
            arithmetic.settle(self._accounts[key.digest], key.limits, grant, used, time.time())
        self._keep_for_later(Settlement(key, grant, used))

    def _let_run(self, key: KeyView, grant: Grant, admission: Admission) -> None:
        """Count an admitted request, which has a lease of its own so far."""
        note_account(grant, admission)
        self.prefetches[key.digest].let_run(grant, key)
        self._open[grant.id] = key.digest

    def _period(self, key: KeyView, now: float) -> tuple[int, int]:
        """The start and end of a key's budget period; 0 for a key without a budget."""
        limits = key.limits
        return (0, 0) if limits.budget_tokens is None else arithmetic.period(limits.budget_period, now)

    def _member(self, tokens: int, window: int) -> str:
        return scripts.member(self._next_id(), 1, tokens, window)

    def _next_id(self) -> str:
        return f"{self._worker}-{next(self._ids):x}"

    # --- asking Redis ---

    def _new_grant(self, key: KeyView, tokens: int, now: float) -> Grant:
        """Of a request that is counted from now on."""
        start, _ = self._period(key, now)
        self.prefetches[key.digest].note(tokens, now)
        return Grant(self._member(tokens, start), tokens, start)

    async def _admission(self, key: KeyView, grant: Grant, asked: Asked | None) -> Admission | None:
        """Redis's answer; None when it is away. Before a refusal stands, what is held here is given back."""
        if asked is None and (self._link or await self._connected()) is None:
            return None
        admission = await self._answer(asked or self._ask(key, grant, time.time()))
        if admission is not None and admission.refused_by and self._give_back(key.digest):
            admission = await self._answer(self._ask(key, grant, time.time()))
        return admission

    def _ask(self, key: KeyView, grant: Grant, now: float) -> Asked:
        if self.prefetches[key.digest].is_spent(key, grant.tokens, now):
            self._give_back(key.digest)
        asked = Asked(key, grant, asyncio.get_running_loop().create_future())
        self._asking(key).append(asked)
        return asked

    async def _answer(self, asked: Asked) -> Admission | None:
        try:
            return await asked.answer
        except asyncio.CancelledError:
            self.give_up(asked)
            raise

    def _asking(self, key: KeyView) -> list[Asked]:
        """Who asks for this key in the event loop's next turn."""
        unsent = self._unsent.get(key.digest)
        if unsent is None:
            unsent = self._unsent[key.digest] = (key, [])
            self._send_soon()
        return unsent[1]

    def _send_soon(self) -> None:
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send settlements before reservations, so that a sequential client never blocks itself."""
        self._sending = False
        self._flush()
        unsent, self._unsent = self._unsent, {}
        for key, asked in unsent.values():
            self._send_reservations(key, asked)
        if self._link is not None:
            self._link.flush()

    def _send_reservations(self, key: KeyView, asked: Sequence[Asked]) -> None:
        """Ask for those who wait, and for those to come."""
        prefetch = self.prefetches[key.digest]
        window = asked[0].grant.window if asked else self._period(key, time.time())[0]
        wanted = prefetch.wanted(self._next_id(), window, len(asked))
        if wanted is None and not asked:
            return
        distribute = partial(self._distribute, key, wanted, asked)
        members = [one.grant.id for one in asked]
        arguments = scripts.to_reserve(key.limits, wanted, self._lease_s, members)
        try:
            self._post("reserve", key.digest, arguments, distribute)
            prefetch.asked |= wanted is not None
        except LinkError as error:
            distribute(error)

    def _distribute(
        self,
        key: KeyView,
        wanted: Grant | None,
        asked: Sequence[Asked],
        reply: list[bytes] | LinkError,
    ) -> None:
        """Give Redis's reply to all who asked at once; None to those whom it does not answer."""
        answers = deque(() if isinstance(reply, LinkError) else reply)
        admitted: list[tuple[Grant, Admission]] = []
        for one in asked:
            admission = scripts.admission(answers.popleft()) if answers else None
            if one.answer.done():
                continue  # its client left
            one.answer.set_result(admission)
            if admission is not None and not admission.refused_by:
                admitted.append((one.grant, admission))
        if wanted is not None:
            self.prefetches[key.digest].asked = False
            if answers:
                together = [grant for grant, _ in admitted if grant.window == wanted.window]
                self._hold(key, wanted, scripts.prefetched(answers[0], wanted), together)
        for grant, admission in admitted:
            if grant.id:
                self._let_run(key, grant, admission)
            else:
                note_account(grant, admission)

    async def _connected(self) -> RedisLink | None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="limits")
        if self._link is None and not self.local:
            await self._tried.wait()
        return self._link

    def _post(
        self, script: str, digest: str, arguments: Iterable[str | float], answered: Callable[[Any], object]
    ) -> None:
        """Raises `LinkError`."""
        if self._link is None:
            raise LinkError("Redis is away")
        account, leases = redis_keys(digest)
        self._link.post(("EVALSHA", self._scripts[script], 2, account, leases, *arguments), answered)

    # --- prefetches ---

    def _hold(self, key: KeyView, wanted: Grant, given: Grant, together: list[Grant]) -> None:
        prefetch, now = self.prefetches[key.digest], time.time()
        hold_s = prefetch.hold_s(plenty=given.plenty and len(self._timers) < MAX_HELD)
        _, end = self._period(key, now)
        prefetch.hold(key, wanted, given, now, min(now + hold_s, end or math.inf), together)
        loop = asyncio.get_running_loop()
        self._timers[key.digest] = loop.call_later(hold_s, self._time_is_over, key)

    def _time_is_over(self, key: KeyView) -> None:
        """Give back what is held, and ask for more where it was needed."""
        again = self.prefetches[key.digest].wanted_again
        self._give_back(key.digest)
        if again:
            self._asking(key)

    def _give_back(self, digest: str) -> bool:
        """Give back what is held of a key's limits. Returns whether anything was."""
        returned = self.prefetches[digest].release()
        if returned is None:
            return False
        self._timers.pop(digest).cancel()
        key, grant, requests, tokens, running = returned
        for one in running:
            one.id = self._member(one.tokens, one.window)
            self._open[one.id] = digest
        self._keep_for_later(Release(key, Remainder(grant, requests, tokens, running)))
        return True

    def _give_all_back(self) -> None:
        for digest in list(self._timers):
            self._give_back(digest)

    # --- settlements and releases ---

    def _keep_for_later(self, item: Return) -> None:
        if len(self._backlog) >= MAX_BACKLOG:
            self._backlog.popleft()
            metrics.SETTLEMENTS_LOST.inc()
        if not self._backlog:
            self._send_soon()
        self._backlog.append(item)

    def _flush(self) -> None:
        """Send the backlog, if Redis is there."""
        if self._link is None or not self._backlog:
            return
        items, self._backlog = self._backlog, deque()
        by_key: defaultdict[str, list[Settlement]] = defaultdict(list)
        for item in items:
            if isinstance(item, Release):  # before the requests that run on are settled
                arguments = scripts.to_release(
                    item.key.limits, item.remainder, self._lease_s, again=item.again
                )
                self._report("release", [item], arguments)
            else:
                by_key[item.key.digest].append(item)
        for some in by_key.values():
            settlements = [(one.grant, one.used, one.again, one.grant.local) for one in some]
            self._report("settle", some, scripts.to_settle(some[0].key.limits, settlements))

    def _report(self, script: str, items: Sequence[Return], arguments: Iterable[str | float]) -> None:
        arrived = partial(self._arrived, items)
        try:
            self._post(script, items[0].key.digest, arguments, arrived)
        except LinkError as error:
            arrived(error, again=False)

    def _arrived(self, items: Sequence[Return], answer: Any, *, again: bool = True) -> None:
        """Keep what Redis did not confirm; `again` says that it may have been done."""
        if isinstance(answer, LinkError):
            for item in items:
                item.again |= again
                self._keep_for_later(item)

    # --- the connection ---

    async def _keep(self) -> None:
        while True:
            try:
                await self._stay(await self._come())
            except LinkError as error:
                self._go_local(str(error))
            await asyncio.sleep(PROBE_S)

    async def _come(self) -> RedisLink:
        link = await RedisLink.open(self._url, self._timeout_s)
        try:
            for name in ("reserve", "settle", "release", "renew"):
                script = getattr(scripts, name.upper())
                self._scripts[name] = (await link.call("SCRIPT", "LOAD", script)).decode()
        except BaseException:
            link.close()
            raise
        self._link = link
        if self.local:
            log.warning("limits are shared again")
        self.local = False
        self._tried.set()
        return link

    async def _stay(self, link: RedisLink) -> None:
        """Keep leases alive until the link is lost, which is a `LinkError`."""
        try:
            while True:
                self._renew(link)
                self._flush()
                await link.wait_lost(self._lease_s / 3)
        finally:
            self._link = None
            link.close()
            self._give_all_back()

    def _renew(self, link: RedisLink) -> None:
        """Renew every open lease. One that Redis does not know, made without it or lost there, is entered."""
        members: defaultdict[str, list[str]] = defaultdict(list)
        for ident, digest in self._open.items():
            members[digest].append(ident)
        for digest, grants in members.items():
            self._post("renew", digest, [self._lease_s, *grants], bool)  # `_stay` hears of a lost link

    def _go_local(self, reason: str) -> None:
        if not self.local:
            log.warning("Redis is away; limits hold per worker", extra={"reason": reason})
        self.local = True
        self._tried.set()

    async def close(self) -> None:
        if self._link is not None:
            with suppress(LinkError):
                await self._link.call("PING")  # what was asked for has arrived: replies come in order
                self._give_all_back()
                self._flush()
                await self._link.call("PING")  # the settlements have arrived
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
