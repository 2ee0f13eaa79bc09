"""What translating chat streams to Anthropic's messages costs: python -m bench.translate

CPU seconds per million chunks of a text stream, one chunk at a time, the best of several rounds:

    passthrough_cpu_s_per_million   read a chunk from a socket, scan it, write it to another
    translated_cpu_s_per_million    the same with the chunk rewritten in between
    rewriting_cpu_s_per_million     the rewriting alone, without sockets and scanner
    litellm_cpu_s_per_million       LiteLLM's adapter on the same chunks: decode, adapt, encode
    cpu_over_passthrough            translated over passthrough
    cpu_over_litellm                rewriting over LiteLLM
    body_1mb_ms                     translating a request with a conversation of 1 MB, the median of many

Options and the other keys of the result are those of `bench.command`.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import command
from bench.figures import ratio
from bench.peers import LITELLM, Peer
from ext.sse import SSEScanner
from fleet import translation
from fleet.gateway.dialects.base import AnswerRewriter, Call
from fleet.gateway.dialects.chat import CHAT
from fleet.gateway.dialects.messages import MESSAGES

BATCH = 64  # chunks that wait in a socket at a time
LITELLM_CHUNKS, LITELLM_S = 2000, 120.0
CALL = Call("m", True, b"")


def chunk(delta: object, finish: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def stream(chunks: int) -> list[bytes]:
    usage = {"prompt_tokens": 10, "completion_tokens": chunks, "total_tokens": chunks + 10}
    words = [chunk({"content": f" word{number % 97}"}) for number in range(chunks)]
    end = [chunk({}, "stop"), chunk({}, None, usage=usage), b"data: [DONE]\n\n"]
    return [chunk({"role": "assistant", "content": ""}), *words, *end]


def rewrite(pieces: list[bytes], answer: AnswerRewriter) -> float:
    """CPU seconds that the rewriting takes."""
    start = time.process_time()
    for piece in pieces:
        answer.feed(piece)
    return time.process_time() - start


def relay(pieces: list[bytes], answer: AnswerRewriter) -> float:
    """CPU seconds of the gateway's own side; the sockets are filled and emptied in between."""
    scanner, used = SSEScanner(False), 0.0
    node, upstream = socket.socketpair()
    downstream, client = socket.socketpair()
    with node, upstream, downstream, client:
        client.setblocking(False)
        for at in range(0, len(pieces), BATCH):
            batch = pieces[at : at + BATCH]
            node.sendall(b"".join(batch))
            start = time.process_time()
            for piece in batch:
                if written := answer.feed(scanner.feed(upstream.recv(len(piece)))):
                    downstream.sendall(written)
            used += time.process_time() - start
            while client.recv(1 << 20) and _more(client):
                pass
    return used


def _more(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def best(run: command.Run, *measures: Callable[[], float]) -> list[float]:
    """The least of each. They take turns, so that a busy machine troubles all alike."""
    rounds = run.pick(9, 9, 1)
    taken = [[measure() for measure in measures] for _ in run.budget.rounds(rounds, "streams")]
    return [min(of_one) for of_one in zip(*taken, strict=True)]


def body_ms(repeats: int) -> float:
    """Milliseconds that a conversation of a megabyte takes, with calls and results."""
    turns: list[object] = [{"role": "user", "content": "Hi"}]
    for number in range(250):
        use = {"type": "tool_use", "id": f"t{number}", "name": "read", "input": {"path": f"a/{number}"}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "line of text\n" * 300}
        turns += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        translation.messages.to_chat(body)
        times.append((time.perf_counter() - start) * (1 << 20) / len(body))
    return statistics.median(times) * 1000


def litellm_per_million(peer: Peer) -> float:
    adapter = Path(__file__).with_name("adapter.py")
    done = subprocess.run(
        [peer.program("python"), str(adapter)],
        input=b"".join(stream(LITELLM_CHUNKS)),
        capture_output=True,
        check=True,
        timeout=LITELLM_S,
    )
    return float(done.stdout.split()[-1])


def measure(run: command.Run) -> dict[str, Any]:
    pieces = stream(run.pick(20_000, 20_000, 500))
    taken = best(
        run,
        lambda: relay(pieces, CHAT.answer(CALL, "r")),
        lambda: relay(pieces, MESSAGES.answer(CALL, "r")),
        lambda: rewrite(pieces, MESSAGES.answer(CALL, "r")),
    )
    passed, translated, rewriting = (seconds / len(pieces) * 1e6 for seconds in taken)
    theirs = litellm_per_million(LITELLM) if run.peers else None
    return {
        "cpu_over_passthrough": ratio(translated, passed),
        "cpu_over_litellm": ratio(rewriting, theirs),
        "body_1mb_ms": body_ms(run.pick(21, 21, 1)),
        "passthrough_cpu_s_per_million": passed,
        "translated_cpu_s_per_million": translated,
        "rewriting_cpu_s_per_million": rewriting,
        "litellm_cpu_s_per_million": theirs,
    }


if __name__ == "__main__":
    command.run("translate", __doc__, measure, peers=[LITELLM])
