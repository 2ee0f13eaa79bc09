"""What translating chat to Anthropic's messages costs: python -m bench.translate --json [LITELLM_PYTHON]

CPU seconds per million chunks of a text stream, one chunk at a time:

passthrough   read a chunk from a socket, scan it, write it to another
translated    the same with the chunk rewritten between
rewriting     the rewriting alone, without sockets and scanner
litellm       the adapter of LiteLLM (an environment of its own) on the same chunks: decode, adapt, encode

`cpu_over_passthrough` is translated to passthrough, `cpu_over_litellm` rewriting to litellm. `body_1mb_ms` is
the translation of a request with a conversation of 1 MB.

`python -m bench.translate prepare` makes LiteLLM's environment, under bench/.venvs.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ext.sse import SSEScanner
from fleet import translation
from fleet.gateway.dialects import CHAT, MESSAGES, Answer, Call

CHUNKS = 20_000
BATCH = 64  # chunks that wait in a socket at a time
ROUNDS = 9
LITELLM = Path("bench/.venvs/litellm/bin/python")
LITELLM_VERSION = "1.106.2"
CALL = Call("m", True, b"")


def chunk(delta: object, finish: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"


def stream(chunks: int = CHUNKS) -> list[bytes]:
    usage = {"prompt_tokens": 10, "completion_tokens": chunks, "total_tokens": chunks + 10}
    words = [chunk({"content": f" word{number % 97}"}) for number in range(chunks)]
    end = [chunk({}, "stop"), chunk({}, None, usage=usage), b"data: [DONE]\n\n"]
    return [chunk({"role": "assistant", "content": ""}), *words, *end]


def rewrite(pieces: list[bytes], answer: Answer) -> float:
    start = time.process_time()
    for piece in pieces:
        answer.feed(piece)
    return time.process_time() - start


def relay(pieces: list[bytes], answer: Answer) -> float:
    """Only the gateway's own side is timed: the sockets are filled and emptied in between."""
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


def best(*measures: Callable[[], float]) -> list[float]:
    """The least of each, taken in turns so that a busy machine troubles all alike."""
    rounds = [[measure() for measure in measures] for _ in range(ROUNDS)]
    return [min(taken) for taken in zip(*rounds, strict=True)]


def body_ms() -> float:
    """The median of many: one conversation of a megabyte, with calls and results."""
    turns: list[object] = [{"role": "user", "content": "Hi"}]
    for number in range(250):
        use = {"type": "tool_use", "id": f"t{number}", "name": "read", "input": {"path": f"a/{number}"}}
        result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": "line of text\n" * 300}
        turns += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()
    times = []
    for _ in range(21):
        start = time.perf_counter()
        translation.messages.to_chat(body)
        times.append((time.perf_counter() - start) * (1 << 20) / len(body))
    return statistics.median(times) * 1000


def litellm_per_million(python: Path) -> float | None:
    """None where LiteLLM is not installed."""
    if not python.exists():
        return None
    script = Path(__file__).with_name("adapter.py")
    done = subprocess.run(
        [python, script], input=b"".join(stream(2000)), capture_output=True, check=True, timeout=300
    )
    return float(done.stdout.split()[-1])


def prepare() -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", LITELLM.parents[1]], check=True)
    pip = [LITELLM, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"litellm=={LITELLM_VERSION}"], check=True)


def main() -> None:
    if sys.argv[1:] == ["prepare"]:
        prepare()
        return
    pieces = stream()
    scale = 1e6 / len(pieces)
    taken = best(
        lambda: relay(pieces, CHAT.answer(CALL, "r")),
        lambda: relay(pieces, MESSAGES.answer(CALL, "r")),
        lambda: rewrite(pieces, MESSAGES.answer(CALL, "r")),
    )
    passed, translated, rewriting = (seconds * scale for seconds in taken)
    arguments = [argument for argument in sys.argv[1:] if argument != "--json"]
    other = litellm_per_million(Path(arguments[0]) if arguments else LITELLM)
    figures = {
        "cpu_over_passthrough": round(translated / passed, 2),
        "cpu_over_litellm": round(rewriting / other, 4) if other else None,
        "body_1mb_ms": round(body_ms(), 2),
        "passthrough_cpu_s_per_million": round(passed, 2),
        "translated_cpu_s_per_million": round(translated, 2),
        "rewriting_cpu_s_per_million": round(rewriting, 2),
        "litellm_cpu_s_per_million": round(other, 1) if other else None,
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
