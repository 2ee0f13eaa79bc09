"""From a client's closed socket to the engine's freed slot, through every process."""

from __future__ import annotations

import json
import socket
import statistics
import time

import httpx
import pytest

from tests.e2e.conftest import TINY

pytestmark = pytest.mark.e2e

ROUNDS = 10
BOUND_S = 1.0  # up to a quarter of it is the device worker's interval of reports


def send(stack, stream: bool) -> socket.socket:
    """A request that would take long; closing the socket is to leave."""
    turn = {"role": "user", "content": "Which port does neuron listen on?"}
    body = {"model": TINY, "messages": [turn], "stream": stream, "ignore_eos": True, "max_tokens": 2000}
    content = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", stack.base_port), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    sock.sendall(head.encode() + content)
    return sock


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_socket_frees_the_slot(stack, stream, capsys):
    with httpx.Client(base_url=stack.neuron, timeout=10) as neuron:

        def running() -> int:
            return sum(model["running"] for model in neuron.get("/health").json()["models"])

        assert stack.chat("Which port does neuron listen on?").status_code == 200
        stack.eventually(lambda: running() == 0)
        times = []
        for _ in range(ROUNDS):
            sock = send(stack, stream)
            stack.eventually(lambda: running() == 1)
            if stream:
                while b"data:" not in sock.recv(65536):
                    pass
            sock.close()
            start = time.monotonic()
            while running():
                assert time.monotonic() - start < BOUND_S
            times.append(time.monotonic() - start)
    middle, longest = (1000 * figure for figure in (statistics.median(times), max(times)))
    with capsys.disabled():
        print(f"\n{stream=}: socket closed to slot freed {middle:.0f} ms, at most {longest:.0f} ms")  # noqa: T201
