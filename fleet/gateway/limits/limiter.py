"""A worker's side of the API keys' limits: reserve before dispatch, settle after, with Redis or without.

Accounts live in Redis, where all workers of all gateways meet; each step there is one script and one round
trip, for all requests of a key that came in one turn of the event loop. A key with many requests asks once
for many of them (`allowance`). While Redis is away accounts live in this process's memory:
limits then hold per worker, `local` says so, and what was used is charged to the shared budgets when Redis is
back. Keys without limits never come here.
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
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from fleet import limits as arithmetic
from fleet.gateway.control.redis_link import LinkError, RedisLink
from fleet.gateway.limits import headers as limit_headers
from fleet.gateway.limits import scripts
from fleet.gateway.limits.allowance import ADVANCE_S, Allowance
from fleet.gateway.limits.headers import Headers
from fleet.gateway.record import metrics
from fleet.limits import Account, Grant, Return, Verdict, redis_keys
from fleet.snapshot import KeyView

log = logging.getLogger("cortex.limits")

LEASE_S = 30.0
PROBE_S = 1.0  # how often Redis is looked for while it is away
MAX_BACKLOG = 10_000  # settlements that wait for Redis


class Ticket(msgspec.Struct, frozen=True):
    """A request that was let in; settle it exactly once."""

    key: KeyView
    grant: Grant
    local: bool
    headers: dict[str, str]


@dataclass(slots=True)
class _Settlement:
    ticket: Ticket
    used: int
    again: bool = False  # it was sent before, and nobody knows whether it arrived

    @property
    def key(self) -> KeyView:
        return self.ticket.key


@dataclass(slots=True)
class _Return:
    key: KeyView
    advance: Return
    again: bool = False


_Later = _Settlement | _Return
_Waiting = asyncio.Future[Verdict | None]
_Claim = tuple[Grant, _Waiting]


class Limiter:
    """Connects at the first key with limits. `close` ends its task and its connection."""

    def __init__(self, url: str, *, timeout_s: float, lease_s: float = LEASE_S) -> None:
        self.local = False
        self._url = url
        self._timeout_s = timeout_s
        self._lease_s = lease_s
        self._link: RedisLink | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()  # the first connection came about, or did not
        self._scripts: dict[str, str] = {}  # SHA-1 by name
        self._accounts: defaultdict[str, Account] = defaultdict(Account)  # while Redis is away, by digest
        self._hold_s = min(ADVANCE_S, lease_s / 3)
        self._allowances: defaultdict[str, Allowance]  # by digest
        self._allowances = defaultdict(partial(Allowance, self._hold_s))
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of what is held ahead, by digest
        self._open: dict[str, str] = {}  # the digest by the id of each grant with a lease of its own
        self._claims: dict[str, tuple[KeyView, list[_Claim]]] = {}  # by digest, unsent
        self._backlog: deque[_Later] = deque()
        self._sending = False  # in the event loop's next turn
        self._ids = itertools.count()
        self._worker = uuid.uuid4().hex[:12]

    async def reserve(self, key: KeyView, tokens: int, headers: Headers) -> Ticket:
        """Let a request in that may use so many tokens; `LimitExceededError` when a limit forbids it."""
        limits, now = key.limits, time.time()
        if limits.never_fits(tokens):
            raise limit_headers.too_large(limits, tokens)
        start, end = (
            arithmetic.period(limits.budget_period, now) if limits.budget_tokens is not None else (0, 0)
        )
        claim = Grant(scripts.member(self._next_id(), 1, tokens, start), tokens, start)
        allowance, local = self._allowances[key.digest], False
        allowance.note(tokens, now)
        if (verdict := allowance.take(key, claim, now)) is None:
            verdict = await self._ask(key, claim, now)
            if verdict is None:
                account, local = self._accounts[key.digest], True
                verdict = arithmetic.reserve(account, limits, claim, now, math.inf)  # ends with this process
            if verdict.refused_by:
                raise limit_headers.refusal(limits, verdict, tokens, headers, end - now)
            self._open[claim.id] = key.digest
        claim.at, claim.end = verdict.at, verdict.end
        allowance.open += 1
        return Ticket(key, claim, local, headers(limits, verdict))

    def settle(self, ticket: Ticket, used: int) -> None:
        """What the request really used, 0 when nothing. Never waits."""
        if self._allowances[ticket.key.digest].end(ticket.grant, used):
            return
        del self._open[ticket.grant.id]
        if ticket.local:
            account = self._accounts[ticket.key.digest]
            arithmetic.settle(account, ticket.key.limits, ticket.grant, used, time.time())
        self._keep_for_later(_Settlement(ticket, used))

    def _next_id(self) -> str:
        return f"{self._worker}-{next(self._ids):x}"

    async def _ask(self, key: KeyView, claim: Grant, now: float) -> Verdict | None:
        """Redis's verdict; None when it is away. None is refused while something is held ahead here."""
        if self._allowances[key.digest].is_over(key, claim, now):
            self._give_back(key.digest)
        verdict = await self._shared(key, claim)
        if verdict is not None and verdict.refused_by and self._give_back(key.digest):
            verdict = await self._shared(key, claim)
        return verdict

    async def _shared(self, key: KeyView, claim: Grant) -> Verdict | None:
        if (self._link or await self._connected()) is None:
            return None
        verdict: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        claims = self._claims.get(key.digest)
        if claims is None:
            claims = self._claims[key.digest] = (key, [])
            self._send_soon()
        claims[1].append((claim, verdict))
        try:
            return await verdict
        except asyncio.CancelledError:
            # Sent or not, answered or not, this follows it: the lease goes, the rate drains by itself.
            self._keep_for_later(_Settlement(Ticket(key, claim, local=False, headers={}), 0))
            raise

    def _send_soon(self) -> None:
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """What ended before what begins: who asks one request after the other is never in its own way."""
        self._sending = False
        self._flush()
        claims, self._claims = self._claims, {}
        for key, some in claims.values():
            self._send_claims(key, some)
        if self._link is not None:
            self._link.flush()

    def _send_claims(self, key: KeyView, claims: Sequence[_Claim]) -> None:
        allowance = self._allowances[key.digest]
        wish = allowance.wish(self._next_id(), claims[0][0].window, len(claims))
        judge = partial(self._judge, key, wish, [verdict for _, verdict in claims])
        members = [claim.id for claim, _ in claims]
        try:
            self._post(
                "reserve", key.digest, scripts.to_reserve(key.limits, wish, self._lease_s, members), judge
            )
            allowance.asked |= wish is not None
        except LinkError as error:
            judge(error)

    def _judge(
        self, key: KeyView, wish: Grant | None, verdicts: Sequence[_Waiting], answer: list[bytes] | LinkError
    ) -> None:
        """Redis's answer to all who asked at once; where it has none their own worker decides."""
        answers = deque(() if isinstance(answer, LinkError) else answer)
        for verdict in verdicts:
            one = scripts.verdict(answers.popleft()) if answers else None
            if not verdict.done():
                verdict.set_result(one)
        if wish is not None:
            self._allowances[key.digest].asked = False
            if answers:
                self._hold(key, wish, scripts.advance(answers[0], wish))

    async def _connected(self) -> RedisLink | None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="limits")
        if self._link is None and not self.local:
            await self._tried.wait()
        return self._link

    def _post(
        self, script: str, digest: str, arguments: Iterable[str | float], answered: Callable[[Any], None]
    ) -> None:
        """Raises `LinkError`."""
        if self._link is None:
            raise LinkError("Redis is away")
        account, leases = redis_keys(digest)
        self._link.post(("EVALSHA", self._scripts[script], 2, account, leases, *arguments), answered)

    # --- advances ---

    def _hold(self, key: KeyView, wish: Grant, advance: Grant) -> None:
        self._allowances[key.digest].hold(key, wish, advance, time.time())
        loop = asyncio.get_running_loop()
        self._timers[key.digest] = loop.call_later(self._hold_s, self._give_back, key.digest)

    def _give_back(self, digest: str) -> bool:
        """What is held ahead of a key; False when nothing is."""
        returned = self._allowances[digest].give_back()
        if returned is None:
            return False
        self._timers.pop(digest).cancel()
        key, advance = returned
        self._open |= dict.fromkeys((grant.id for grant in advance.running), digest)
        self._keep_for_later(_Return(key, advance))
        return True

    def _give_all_back(self) -> None:
        for digest in list(self._timers):
            self._give_back(digest)

    # --- settlements ---

    def _keep_for_later(self, item: _Later) -> None:
        if len(self._backlog) >= MAX_BACKLOG:
            self._backlog.popleft()
            metrics.SETTLEMENTS_LOST.inc()
        if not self._backlog:
            self._send_soon()
        self._backlog.append(item)

    def _flush(self) -> None:
        """Send what waits, if there is somebody to take it."""
        if self._link is None or not self._backlog:
            return
        items, self._backlog = self._backlog, deque()
        by_key: defaultdict[str, list[_Settlement]] = defaultdict(list)
        for item in items:
            if isinstance(item, _Return):  # before what it lets run is settled
                arguments = scripts.to_close(item.key.limits, item.advance, self._lease_s, again=item.again)
                self._report("close", [item], arguments)
            else:
                by_key[item.key.digest].append(item)
        for some in by_key.values():
            settlements = [(one.ticket.grant, one.used, one.again, one.ticket.local) for one in some]
            self._report("settle", some, scripts.to_settle(some[0].key.limits, settlements))

    def _report(self, script: str, items: Sequence[_Later], arguments: Iterable[str | float]) -> None:
        arrived = partial(self._arrived, items)
        try:
            self._post(script, items[0].key.digest, arguments, arrived)
        except LinkError as error:
            arrived(error, again=False)

    def _arrived(self, items: Sequence[_Later], answer: Any, *, again: bool = True) -> None:
        """`again`: what failed may have been done."""
        if isinstance(answer, LinkError):
            for item in items:
                item.again |= again
                self._keep_for_later(item)

    # --- coming and going of Redis ---

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
            for name in ("reserve", "settle", "close", "renew"):
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
        """Also enters what Redis does not know: granted while it was away, or before it forgot everything."""
        members: defaultdict[str, list[str]] = defaultdict(list)
        for ident, digest in self._open.items():
            members[digest].append(ident)
        for digest, grants in members.items():
            self._post("renew", digest, [self._lease_s, *grants], _ignored)

    def _go_local(self, reason: str) -> None:
        if not self.local:
            log.warning("Redis is away; limits hold per worker", extra={"reason": reason})
        self.local = True
        self._tried.set()

    async def close(self) -> None:
        if self._link is not None:
            with suppress(LinkError):
                await self._link.call("PING")  # answers come in order: an advance that was asked for is here
                self._give_all_back()
                self._flush()
                await self._link.call("PING")  # what was settled has arrived
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)


def _ignored(_answer: Any) -> None:
    """A link that failed tells `_stay`."""
