"""A worker's side of the API keys' limits: reserve before dispatch, settle after, with Redis or without.

Accounts live in Redis, where all workers of all gateways meet; each step there is one script and one round
trip. While Redis is away they live in this process's memory: limits then hold per worker, `local` says so,
and what was used is charged to the shared budgets when Redis is back. Keys without limits never come here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
import uuid
from collections import defaultdict, deque
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


def estimate(body: bytes, *, context: int | None, answer: int) -> tuple[int, int]:
    """The tokens a chat request may use: its prompt by its size, and the longest answer it asks for.

    `answer` is taken for a request that names no `max_tokens`; neither is more than the model's `context`.
    """
    try:
        asked = _asked.decode(body)
    except msgspec.DecodeError:  # the node will say what is wrong with it
        asked = _Asked()
    answer = max(1, asked.max_completion_tokens or asked.max_tokens or answer)
    prompt = -(-len(body) // BYTES_PER_TOKEN)
    if context is not None:
        prompt, answer = min(prompt, context), min(answer, context)
    return prompt, answer * max(1, asked.n or 1)


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
        self._backlog: deque[_Settlement] = deque()
        self._ids = itertools.count()
        self._worker = uuid.uuid4().hex[:12]

    async def reserve(self, key: KeyView, tokens: int, headers: Headers) -> Ticket:
        """Let a request in that may use so many tokens; `LimitExceededError` when a limit forbids it."""
        limits = key.limits
        if limits.never_fits(tokens):
            raise limit_headers.too_large(limits, tokens)
        now = time.time()
        start, end = (
            arithmetic.period(limits.budget_period, now) if limits.budget_tokens is not None else (0, 0)
        )
        claim = Grant(f"{self._worker}-{next(self._ids):x}", tokens, start)
        verdict, local = await self._shared(key, claim), False
        if verdict is None:
            account, local = self._accounts[key.digest], True
            verdict = arithmetic.reserve(account, limits, claim, now, math.inf)  # it ends with this process
        if verdict.refused_by:
            raise limit_headers.refusal(limits, verdict, tokens, headers, end - now)
        grant = Grant(claim.id, tokens, start, verdict.at, verdict.end)
        ticket = Ticket(key, grant, local, headers(limits, verdict))
        self._open[claim.id] = ticket
        return ticket

    def settle(self, ticket: Ticket, used: int) -> None:
        """What the request really used, 0 when nothing. Never waits."""
        del self._open[ticket.grant.id]
        if ticket.local:
            account = self._accounts[ticket.key.digest]
            arithmetic.settle(account, ticket.key.limits, ticket.grant, used, time.time())
        self._keep_for_later(_Settlement(ticket, used))
        self._flush()

    async def _shared(self, key: KeyView, claim: Grant) -> Verdict | None:
        """Redis's verdict; None when it is away."""
        link = await self._connected()
        if link is None:
            return None
        try:
            return _verdict(await link.call(*self._reserve_command(key, claim)))
        except LinkError:
            return None
        except asyncio.CancelledError:
            # Answered or not, this follows it: the lease goes, the rate drains by itself.
            self._keep_for_later(_Settlement(Ticket(key, claim, local=False, headers={}), 0))
            self._flush()
            raise

    async def _connected(self) -> RedisLink | None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name="limits")
        if self._link is None and not self.local:
            await self._tried.wait()
        return self._link

    # --- commands ---

    def _reserve_command(self, key: KeyView, claim: Grant) -> tuple[str | float, ...]:
        limits = key.limits
        bounds = (
            limits.concurrent_requests,
            limits.requests_per_minute,
            limits.tokens_per_minute,
            limits.budget_tokens,
        )
        arguments = ["" if bound is None else bound for bound in bounds]
        return (*self._head("reserve", key), *arguments, self._lease_s, _member(claim))

    def _settle_command(self, item: _Settlement) -> tuple[str | float, ...]:
        grant, limits = item.ticket.grant, item.ticket.key.limits
        limit = "" if limits.tokens_per_minute is None else limits.tokens_per_minute
        head = self._head("settle", item.ticket.key)
        at = 0.0 if item.ticket.local else grant.at  # Redis's buckets do not hold what was reserved here
        return (*head, _member(grant), repr(at), repr(grant.end), item.used, limit, int(item.again))

    def _head(self, script: str, key: KeyView) -> tuple[str | float, ...]:
        account, leases = redis_keys(key.digest)
        return ("EVALSHA", self._scripts[script], 2, account, leases)

    # --- settlements ---

    def _keep_for_later(self, item: _Settlement) -> None:
        if len(self._backlog) >= MAX_BACKLOG:
            self._backlog.popleft()
            metrics.SETTLEMENTS_LOST.inc()
        self._backlog.append(item)

    def _flush(self) -> None:
        while self._link is not None and self._backlog:
            item = self._backlog.popleft()
            try:
                answer = self._link.call(*self._settle_command(item))
            except LinkError:
                self._backlog.appendleft(item)
                return
            answer.add_done_callback(partial(self._arrived, item))

    def _arrived(self, item: _Settlement, done: asyncio.Future[Any]) -> None:
        if not done.cancelled() and done.exception() is not None:
            item.again = True
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
            members[ticket.key.digest].append(_member(ticket.grant))
        for digest, grants in members.items():
            link.call("EVALSHA", self._scripts["renew"], 2, *redis_keys(digest), self._lease_s, *grants)

    def _go_local(self, reason: str) -> None:
        if not self.local:
            log.warning("Redis is away; limits hold per worker", extra={"reason": reason})
        self.local = True
        self._tried.set()

    async def close(self) -> None:
        if self._link is not None:
            with suppress(LinkError):
                await self._link.call("PING")  # answers come in order: what was settled has arrived
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)


def _member(grant: Grant) -> str:
    return f"{grant.id}:{grant.tokens}:{grant.window}"


def _verdict(answer: bytes) -> Verdict:
    refused_by, *numbers = answer.decode().split(" ")
    wait_s, at, end, requests_s, tokens_s = map(float, numbers)
    return Verdict(refused_by, wait_s, at, end, requests_s, tokens_s)  # type: ignore[arg-type]  # our script's word
