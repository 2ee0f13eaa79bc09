"""Clients that ask for random models, and the outcome of each request."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from bench.chaos.world import World

PATIENCE_S = 150.0  # longer than the longest wait that is configured: such a request was forgotten
CANCEL_SHARE = 0.1
RETRYABLE = {429, 503}


@dataclass
class Tally:
    """The `outcomes`: ok, cancelled (by us), retryable, cut_off (its gateway was killed), or lost."""

    outcomes: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())

    def lose(self, why: str) -> None:
        self.outcomes["lost"] += 1
        self.lost.append(why)


class LostError(Exception):
    """The request ended in neither an answer nor an error that a client can act on."""


async def drive(world: World, tally: Tally, seed: int, until: float) -> None:
    """Run the clients until `until` (`time.monotonic` seconds), each one's last request to its end."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=httpx.Timeout(PATIENCE_S), limits=limits, trust_env=False) as http:
        dice = (random.Random(f"{seed}-{number}") for number in range(world.scale.clients))  # noqa: S311
        clients = (_Client(world, tally, one, http) for one in dice)
        await asyncio.gather(*(client.run(until) for client in clients))


class _Client:
    def __init__(self, world: World, tally: Tally, dice: random.Random, http: httpx.AsyncClient) -> None:
        self._world = world
        self._tally = tally
        self._dice = dice
        self._http = http

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            await self._request()
            await asyncio.sleep(self._dice.random() * 0.3)

    async def _request(self) -> None:
        gateway = self._dice.randrange(len(self._world.api_urls))
        model = f"m{self._dice.randrange(self._world.scale.models)}"
        stream = self._dice.random() < 0.6
        patience = self._dice.random() * 2 if self._dice.random() < CANCEL_SHARE else PATIENCE_S
        started = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                code = await self._ask(gateway, model, stream=stream)
        except TimeoutError:
            self._timed_out(patience, model)
        except LostError as error:
            self._tally.lose(f"{model}: {error}")
        except httpx.HTTPError as error:
            self._broken(gateway, started, error)
        else:
            self._tally.outcomes["retryable" if code else "ok"] += 1
            self._tally.codes[code] += bool(code)

    async def _ask(self, gateway: int, model: str, *, stream: bool) -> str:
        """The code of the error that the answer ended with; empty for a whole answer."""
        body = {
            "model": model,
            "stream": stream,
            "max_tokens": self._dice.randrange(1, 12),
            "messages": [{"role": "user", "content": f"Say {self._dice.randrange(100)}."}],
        }
        url = f"{self._world.api_urls[gateway]}/v1/chat/completions"
        async with self._http.stream("POST", url, json=body) as response:
            content = await response.aread()
        if response.status_code != httpx.codes.OK:
            return _error_code(response.status_code, content)
        return _end_of_stream(content) if stream else _end_of_answer(content)

    def _timed_out(self, patience: float, model: str) -> None:
        if patience < PATIENCE_S:
            self._tally.outcomes["cancelled"] += 1
        else:
            self._tally.lose(f"{model}: no answer within {PATIENCE_S:g} s")

    def _broken(self, gateway: int, started: float, error: httpx.HTTPError) -> None:
        """Count a connection error, which is lost unless the gateway was killed during or just before it."""
        is_down = any(killed >= started - 30 for killed in self._world.kills[gateway])
        if is_down:
            self._tally.outcomes["cut_off"] += 1
        else:
            self._tally.lose(f"gateway {gateway}: {error!r}")


def _error_code(status: int, content: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError):
        error = json.loads(content)["error"]
        if status in RETRYABLE and error["message"]:
            return str(error["code"])
    raise LostError(f"{status} {content[:300]!r}")


def _end_of_answer(content: bytes) -> str:
    with suppress(ValueError, KeyError, TypeError, IndexError):
        answer = json.loads(content)
        if answer["choices"][0]["finish_reason"] and answer["usage"]["completion_tokens"]:
            return ""
    raise LostError(f"not an answer: {content[:300]!r}")


def _end_of_stream(content: bytes) -> str:
    events = [line[6:] for line in content.decode().splitlines() if line.startswith("data: ")]
    if events and events[-1] == "[DONE]":
        finish = [json.loads(event)["choices"] for event in events[:-1]]
        if any(choices and choices[0].get("finish_reason") for choices in finish):
            return ""
    for event in reversed(events):
        with suppress(ValueError, KeyError, TypeError):
            return str(json.loads(event)["error"]["code"])
    raise LostError(f"a stream that just ends: {content[-300:]!r}")
