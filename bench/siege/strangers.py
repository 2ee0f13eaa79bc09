"""Every kind of attack, over and over: `python -m bench.siege.strangers`, started by the benchmark.

Nothing here is more than a server must bear: bodies that do not end, heads that drip, answers that nobody
reads, long names, prompts and chats, large schemas, broken model directories, foreign pages and proxies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from neuron.models.tiny import WEIGHTS_DIR
from neuron.prctl import be_nice

MIB = 1 << 20
AT_ONCE = 2  # of each attack
NICE = 10  # strangers compute elsewhere: their own work is not to take the cores from those they attack
PAUSE_S = 0.3
PATIENCE_S = 20.0


class Strangers:
    """Each attack is a method: it sends something to a door, gateway or neuron, and returns the status."""

    def __init__(self, gateway: str, neuron: str, model: str, folder: Path) -> None:
        self._doors = [urlsplit(gateway), urlsplit(neuron)]
        self._model = model
        self._broken = _broken_models(folder)
        self.attacks: Counter[str] = Counter()
        self.answers: Counter[int] = Counter()

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        attacks = [
            self.half_body,
            self.dripping,
            self.unread,
            self.trailers,
            self.long_name,
            self.long_prompt,
        ]
        attacks += [self.many_messages, self.large_schema, self.broken_model, self.foreign_page]
        await asyncio.gather(
            *(
                self._repeat(attack, door, until)
                for attack in attacks
                for door in range(2)
                for _ in range(AT_ONCE)
            )
        )

    async def _repeat(self, attack: Callable[[int], Awaitable[int]], door: int, until: float) -> None:
        while time.monotonic() < until:
            self.attacks[attack.__name__] += 1
            status = 0
            with suppress(OSError, TimeoutError, ValueError, IndexError):
                async with asyncio.timeout(PATIENCE_S):
                    status = await attack(door)
            self.answers[status] += 1
            await asyncio.sleep(PAUSE_S)

    # --- bytes ---

    async def half_body(self, door: int) -> int:
        """Most of a large body, and then nothing."""
        return await self._send(door, _head(60 * MIB), b"x" * (5 * MIB), rest_s=5.0)

    async def dripping(self, door: int) -> int:
        head = _head(100)
        return await self._send(door, *(head[i : i + 4] for i in range(0, len(head), 4)), between_s=0.2)

    async def unread(self, door: int) -> int:
        """Many requests whose answers nobody reads."""
        one = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
        return await self._send(door, one * 2000, rest_s=5.0)

    async def trailers(self, door: int) -> int:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        lines = b"".join(b"x-%d: %s\r\n" % (i, b"y" * 100) for i in range(5000))
        return await self._send(door, head + b"2\r\n{}\r\n0\r\n", lines)

    # --- bodies ---

    async def long_name(self, door: int) -> int:
        return await self._chat(door, model="m" * (2 * MIB))

    async def long_prompt(self, door: int) -> int:
        return await self._chat(door, messages=[{"role": "user", "content": "word " * 400_000}])

    async def many_messages(self, door: int) -> int:
        roles = ("user", "assistant")
        return await self._chat(door, messages=[{"role": roles[i % 2], "content": "x"} for i in range(9_999)])

    async def large_schema(self, door: int) -> int:
        properties = {
            f"field_{i}": {"type": "string", "enum": [str(j) for j in range(20)]} for i in range(500)
        }
        schema = {"type": "object", "properties": properties, "title": str(time.monotonic())}
        json_schema = {"name": "large", "schema": schema}
        return await self._chat(door, response_format={"type": "json_schema", "json_schema": json_schema})

    async def broken_model(self, door: int) -> int:
        """A load at the neuron, whichever door."""
        source = self._broken[self.attacks["broken_model"] % len(self._broken)]
        body = json.dumps({"model_id": f"broken-{source.name}", "source": str(source)}).encode()
        return await self._send(1, _head(len(body), path="/models/load") + body)

    async def foreign_page(self, door: int) -> int:
        return await self._chat(door, more=b"origin: https://page.example\r\n")

    async def _chat(self, door: int, more: bytes = b"", **change: Any) -> int:
        chat = {"model": self._model, "messages": [{"role": "user", "content": "Hi."}], "max_tokens": 2}
        body = json.dumps(chat | change).encode()
        return await self._send(door, _head(len(body), more=more) + body)

    async def _send(self, door: int, *pieces: bytes, between_s: float = 0.0, rest_s: float = 0.0) -> int:
        """Send the pieces on a connection of their own; return the status of the answer."""
        at = self._doors[door]
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(between_s)
            await asyncio.sleep(rest_s)
            return int((await reader.readline()).split()[1])
        finally:
            writer.transport.abort()


def _head(size: int, *, path: str = "/v1/chat/completions", more: bytes = b"") -> bytes:
    line = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n".encode()
    return line + more + b"\r\n"


def _broken_models(folder: Path) -> list[Path]:
    """Copies of helexa-tiny with one file each that is not what it should be."""
    spoiled = {
        "config": ("config.json", b'{"model_type": ["llama"]}'),
        "nested": ("config.json", b"[" * 50_000),
        "tokenizer": ("tokenizer.json", b'{"version": 5}'),
        "template": ("chat_template.jinja", b"\xff{{ messages }}"),
        "weights": ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}"),
    }
    made = []
    for name, (file, content) in spoiled.items():
        place = folder / "broken" / name
        shutil.copytree(WEIGHTS_DIR, place)
        (place / file).write_bytes(content)
        made.append(place)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("gateway", "neuron", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    be_nice(NICE)
    strangers = Strangers(options.gateway, options.neuron, options.model, options.folder)
    asyncio.run(strangers.run(options.seconds))
    print(json.dumps({"attacks": strangers.attacks, "answers": dict(sorted(strangers.answers.items()))}))


if __name__ == "__main__":
    main()
