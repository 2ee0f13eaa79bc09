"""LiteLLM's adapter, in LiteLLM's own environment: prints CPU seconds per million chunks of stdin."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from litellm.llms.anthropic.pass_through.adapters.streaming_iterator import AnthropicStreamWrapper
from litellm.types.utils import ModelResponseStream

ROUNDS = 9


def chunks(data: bytes) -> Iterator[Any]:
    for event in data.split(b"\n\n"):
        if event and event != b"data: [DONE]":
            yield ModelResponseStream(**json.loads(event.removeprefix(b"data: ")))


def adapt(data: bytes, count: int) -> float:
    start = time.process_time()
    size = 0
    for event in AnthropicStreamWrapper(completion_stream=chunks(data), model="m"):
        size += len(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    used = time.process_time() - start
    if size < count * 50:
        raise SystemExit(f"only {size} bytes came out of {count} chunks")
    return used / count * 1e6


def main() -> None:
    data = sys.stdin.buffer.read()
    count = data.count(b"\n\n")
    sys.stdout.write(f"{min(adapt(data, count) for _ in range(ROUNDS))}\n")


if __name__ == "__main__":
    main()
