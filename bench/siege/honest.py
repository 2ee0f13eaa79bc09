"""Clients that stream answers one after the other, and the gaps that they see."""

from __future__ import annotations

import asyncio
import re
import time

import httpx
import numpy as np

CLIENTS = 4
_TEXT = re.compile(rb'"content": ?"[^"]')  # of the first piece there is none
RETRYABLE = {429, 503}
TOKENS = 60


class Honest:
    """`lost` has a line for each request that ended neither in an answer nor in an error to act on."""

    def __init__(self, url: str, model: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._model = model
        self.reset()

    def reset(self) -> None:
        self.gaps_ms: list[float] = []  # between two pieces with text
        self.firsts_ms: list[float] = []  # from request to the first of them
        self.requests = 0
        self.lost: list[str] = []

    def take_p99_ms(self) -> tuple[float | None, float | None]:
        """The 99th percentiles of gaps and of the waits for a first piece, since the last call."""
        gaps, firsts = self.gaps_ms, self.firsts_ms
        self.gaps_ms, self.firsts_ms = [], []
        return _p99(gaps), _p99(firsts)

    async def drive(self, seconds: float) -> None:
        """Stream until then, and each one's last answer to its end."""
        until = time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
            await asyncio.gather(*(self._run(http, number, until) for number in range(CLIENTS)))

    async def _run(self, http: httpx.AsyncClient, number: int, until: float) -> None:
        while time.monotonic() < until:
            self.requests += 1
            try:
                await self._stream(http, number)
            except httpx.HTTPError as error:
                self.lost.append(repr(error))
            await asyncio.sleep(0.05)

    async def _stream(self, http: httpx.AsyncClient, number: int) -> None:
        chat = [{"role": "user", "content": f"Count from {number}, as far as you can."}]
        body = {
            "model": self._model,
            "messages": chat,
            "stream": True,
            "max_tokens": TOKENS,
            "ignore_eos": True,
        }
        received, last, asked = b"", 0.0, time.perf_counter()
        async with http.stream("POST", self._url, json=body) as answer:
            async for piece in answer.aiter_raw():
                now = time.perf_counter()
                received = (received + piece)[-2000:]
                if last:
                    self.gaps_ms.append(1e3 * (now - last))
                elif _TEXT.search(piece):
                    self.firsts_ms.append(1e3 * (now - asked))
                else:
                    continue
                last = now
        is_whole = answer.status_code == httpx.codes.OK and b"data: [DONE]" in received
        if not is_whole and answer.status_code not in RETRYABLE and b'"error"' not in received:
            self.lost.append(f"{answer.status_code} {received[-300:]!r}")


def _p99(times: list[float]) -> float | None:
    return float(np.percentile(times, 99)) if times else None
