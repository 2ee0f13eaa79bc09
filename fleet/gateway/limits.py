"""A worker's side of the API keys' limits: reserve before dispatch, settle after, with Redis or without.

Accounts live in Redis, where all workers of all gateways meet; each step there is one script and one round
trip, for all requests of a key that came in one turn of the event loop. While Redis is away they live in this
process's memory: limits then hold per worker, `local` says so, and what was used is charged to the shared
budgets when Redis is back. Keys without limits never come here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from fleet import limits as arithmetic
from fleet.gateway import limit_headers, limits_scripts, metrics
from fleet.gateway.limit_headers import Headers
from fleet.gateway.redis_link import LinkError, RedisLink
from fleet.limits import Account, Grant, Verdict, redis_keys
from fleet.snapshot import KeyView

log = logging.getLogger("cortex.limits")

LEASE_S = 30.0
PROBE_S = 1.0  # how often Redis is looked for while it is away
MAX_BACKLOG = 10_000  # settlements that wait for Redis
BYTES_PER_TOKEN = 4  # of a request's body; the usual rule of thumb, settled exactly afterwards


class _Asked(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_asked = msgspec.json.Decoder(_Asked)


def asked_of(body: bytes) -> tuple[int, int]:
    """The longest answer a chat body asks for, tokens (0: it does not say), and how many of them."""
    try:
        asked = _asked.decode(body)
    except msgspec.DecodeError:  # the node will say what is wrong with it
        return 0, 1
    return max(0, asked.max_completion_tokens or asked.max_tokens or 0), max(1, asked.n or 1)


def estimate(size: int, asked: tuple[int, int], *, context: int | None, answer: int) -> tuple[int, int]:
    """The tokens that a request may use: its prompt's by the body's `size` in bytes, and its answers'.

    `answer` is taken for a request that names no length; neither is more than the model's `context`.
    """
    prompt, (longest, choices) = -(-size // BYTES_PER_TOKEN), asked
    longest = longest or answer
    if context is not None:
        prompt, longest = min(prompt, context), min(longest, context)
    return prompt, longest * choices


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


_Claim = tuple[Grant, "asyncio.Future[Verdict | None]"]


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
        self._open: dict[str, Ticket] = {}
        self._claims: dict[str, tuple[KeyView, list[_Claim]]] = {}  # by digest, unsent
        self._backlog: deque[_Settlement] = deque()
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
        ident = f"{self._worker}-{next(self._ids):x}:{tokens}:{start}"  # Redis reads the figures from it
        claim = Grant(ident, tokens, start)
        verdict, local = await self._shared(key, claim), False
        if verdict is None:
            account, local = self._accounts[key.digest], True
            verdict = arithmetic.reserve(account, limits, claim, now, math.inf)  # it ends with this process
        if verdict.refused_by:
            raise limit_headers.refusal(limits, verdict, tokens, headers, end - now)
        claim.at, claim.end = verdict.at, verdict.end
        ticket = Ticket(key, claim, local, headers(limits, verdict))
        self._open[claim.id] = ticket
        return ticket

    def settle(self, ticket: Ticket, used: int) -> None:
        """What the request really used, 0 when nothing. Never waits."""
        del self._open[ticket.grant.id]
        if ticket.local:
            account = self._accounts[ticket.key.digest]
            arithmetic.settle(account, ticket.key.limits, ticket.grant, used, time.time())
        self._keep_for_later(_Settlement(ticket, used))

    async def _shared(self, key: KeyView, claim: Grant) -> Verdict | None:
        """Redis's verdict; None when it is away."""
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
        judge = partial(_judge, [verdict for _, verdict in claims])
        if self._link is None or not self._link.is_open:
            judge(LinkError("Redis is away"))
        else:
            self._link.post(self._reserve_command(key, [claim for claim, _ in claims]), judge)

    async def _connected(self) -> RedisLink | None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="limits")
        if self._link is None and not self.local:
            await self._tried.wait()
        return self._link

    # --- commands ---

    def _reserve_command(self, key: KeyView, claims: Sequence[Grant]) -> list[str | float]:
        limits = key.limits
        bounds = (
            limits.concurrent_requests,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.budget_tokens,
        )
        arguments = ["" if bound is None else bound for bound in bounds]
        return [*self._head("reserve", key), *arguments, self._lease_s, *(claim.id for claim in claims)]

    def _settle_command(self, key: KeyView, items: Sequence[_Settlement]) -> list[str | float]:
        limit = key.limits.tokens_per_minute
        command: list[str | float] = [*self._head("settle", key), "" if limit is None else limit]
        for item in items:
            grant = item.ticket.grant
            at = 0.0 if item.ticket.local else grant.at  # Redis's buckets do not hold what was reserved here
            command += (grant.id, at, grant.end, item.used, int(item.again))
        return command

    def _head(self, script: str, key: KeyView) -> tuple[str | float, ...]:
        account, leases = redis_keys(key.digest)
        return ("EVALSHA", self._scripts[script], 2, account, leases)

    # --- settlements ---

    def _keep_for_later(self, item: _Settlement) -> None:
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
            by_key[item.ticket.key.digest].append(item)
        for some in by_key.values():
            arrived = partial(self._arrived, some)
            try:
                self._link.post(self._settle_command(some[0].ticket.key, some), arrived)
            except LinkError as error:
                arrived(error, again=False)

    def _arrived(self, items: Sequence[_Settlement], answer: Any, *, again: bool = True) -> None:
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
            for name in ("reserve", "settle", "renew"):
                script = getattr(limits_scripts, name.upper())
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

    def _renew(self, link: RedisLink) -> None:
        """Also enters what Redis does not know: granted while it was away, or before it forgot everything."""
        members: defaultdict[str, list[str]] = defaultdict(list)
        for ticket in self._open.values():
            members[ticket.key.digest].append(ticket.grant.id)
        for digest, grants in members.items():
            link.call("EVALSHA", self._scripts["renew"], 2, *redis_keys(digest), self._lease_s, *grants)

    def _go_local(self, reason: str) -> None:
        if not self.local:
            log.warning("Redis is away; limits hold per worker", extra={"reason": reason})
        self.local = True
        self._tried.set()

    async def close(self) -> None:
        self._flush()
        if self._link is not None:
            with suppress(LinkError):
                await self._link.call("PING")  # answers come in order: what was settled has arrived
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)


def _judge(verdicts: Sequence[asyncio.Future[Verdict | None]], answer: Any) -> None:
    """Redis's answer to all who asked at once; where it has none their own worker decides."""
    answers = [None] * len(verdicts) if isinstance(answer, LinkError) else answer
    for verdict, one in zip(verdicts, answers, strict=True):
        if not verdict.done():
            verdict.set_result(one and _verdict(one))


def _verdict(answer: bytes) -> Verdict:
    refused_by, wait_s, at, end, requests_s, tokens_s = limits_scripts.VERDICT.unpack(answer)
    return Verdict(limits_scripts.BOUNDS[refused_by], wait_s, at, end, requests_s, tokens_s)
