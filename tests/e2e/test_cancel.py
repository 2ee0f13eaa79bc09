"""From a client's closed socket to the engine's freed slot, through every process."""

from __future__ import annotations

import json
import socket
import statistics
import time

import httpx
import pytest

from tests.e2e.conftest import TINY
from tests.stubs.tls import TLS

pytestmark = pytest.mark.e2e

ROUNDS = {"prefill": 3, "decode": 10}
# Up to a quarter of a second is the device worker's interval of reports. A step of 512 prompt tokens takes a
# busy CPU more than a second; all of the prompt would take it more than a minute.
BOUND_S = {"prefill": 10.0, "decode": 1.0}


QUESTION = "Which port does neuron listen on?"


def send(stack, stream: bool, question: str) -> socket.socket:
    """A request that would take long; closing the socket is to leave."""
    turn = {"role": "user", "content": question}
    body = {"model": TINY, "messages": [turn], "stream": stream, "ignore_eos": True, "max_tokens": 2000}
    content = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", stack.base_port), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n\r\n"
    sock.sendall(head.encode() + content)
    return sock


def long_question(number: int) -> str:
    """Long to read, and nothing of it in a cache."""
    return f"{number}: " + f"word {number} " * 8000


def has_answered(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(65536))
    except BlockingIOError:
        return False
    finally:
        sock.setblocking(True)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_socket_frees_the_slot(stack, stream, phase, capsys):
    with httpx.Client(verify=TLS, base_url=stack.neuron, timeout=10) as neuron:

        def running() -> int:
            return sum(model["running"] for model in neuron.get("/health").json()["models"])

        assert stack.chat(QUESTION).status_code == 200
        stack.eventually(lambda: running() == 0)
        times = []
        for number in range(ROUNDS[phase]):
            sock = send(
                stack, stream, long_question(number + 100 * stream) if phase == "prefill" else QUESTION
            )
            stack.eventually(lambda: running() == 1)
            if phase == "prefill":
                assert not has_answered(sock)
            elif stream:
                while b"data:" not in sock.recv(65536):
                    pass
            sock.close()
            start = time.monotonic()
            while running():
                assert time.monotonic() - start < BOUND_S[phase]
            times.append(time.monotonic() - start)
    middle, longest = (1000 * figure for figure in (statistics.median(times), max(times)))
    with capsys.disabled():
        print(f"\n{phase}, {stream=}: socket closed to slot freed {middle:.0f} ms, at most {longest:.0f} ms")  # noqa: T201
