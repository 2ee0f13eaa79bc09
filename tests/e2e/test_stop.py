"""Data-plane workers that stop, die and come back while they serve: real processes, a scripted node."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.conftest import Stack, clean_environment, free_base_port
from tests.stubs.fake_node import STREAM_HEAD, FakeNode, answer_hello, chunk, framed
from tests.stubs.tls import get

pytestmark = pytest.mark.e2e

CONFIG = """
state_dir = "{state}"
[gateway]
listen = "127.0.0.1:{api}"
metrics_listen = "127.0.0.1:{metrics}"
admin_listen = "127.0.0.1:{admin}"
stop_grace_s = {grace_s}
[redis]
url = "unix:///nonexistent/redis.sock"
[[neurons]]
name = "n0"
endpoint = "{node}"
"""
TURN = [{"role": "user", "content": "Hi"}]
STREAMS = {
    "/v1/chat/completions": {"model": "m", "messages": TURN, "stream": True},
    "/v1/messages": {"model": "m", "messages": TURN, "stream": True, "max_tokens": 9},
    "/v1/responses": {"model": "m", "input": "Hi", "stream": True},
}
LAST_EVENT = {  # how a stream says in each dialect that it failed
    "/v1/chat/completions": 'data: {"error":',
    "/v1/messages": "event: error",
    "/v1/responses": "event: response.failed",
}


def start_serve(folder, node: FakeNode, grace_s: float) -> Stack:
    base = free_base_port()
    ports = {"api": base, "metrics": base + 1, "admin": base + 2}
    file = folder / "cortex.toml"
    file.write_text(CONFIG.format(state=folder / "state", grace_s=grace_s, node=node.url, **ports))
    arguments = ("serve", "--config", str(file), "--workers", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "cortex_site", *arguments],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    return Stack(folder / "state", base, process)


@asynccontextmanager
async def serving(folder, node: FakeNode, grace_s: float):
    """`cortex serve --workers 2` before `node`."""
    stack = start_serve(folder, node, grace_s)
    try:
        await asyncio.to_thread(stack.read_until, "Ctrl-C ends it", 180)
        stack.drain()
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(stack.wait)


@pytest.fixture
async def node():
    fake = FakeNode("n0")
    await fake.start()
    await fake.set_model("m")
    yield fake
    await fake.stop()


class Gate:
    """An answer that begins at once and ends when it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, request, writer) -> None:
        if request.json.get("stream"):
            writer.write(STREAM_HEAD + framed(chunk({"content": "Hel"})))
            await writer.drain()
        await self.open.wait()
        if not request.json.get("stream"):
            await answer_hello(request, writer)
            return
        end = chunk({}, "stop") + b"data: [DONE]\n\n"
        writer.write(framed(chunk({"content": "lo"})) + framed(end) + b"0\r\n\r\n")


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def refuses(stack: Stack) -> bool:
    try:
        get(f"{stack.api}/health", timeout=1)
    except httpx.ConnectError:
        return True
    except httpx.HTTPError:
        pass
    return False


async def test_a_stop_refuses_new_connections_and_lets_running_answers_end(tmp_path, node):
    node.answer = gate = Gate()
    async with serving(tmp_path, node, grace_s=30) as stack, httpx.AsyncClient(timeout=60) as client:
        paths = [*STREAMS, *STREAMS]
        running = [asyncio.create_task(client.post(stack.api + path, json=STREAMS[path])) for path in paths]
        whole = {"model": "m", "messages": TURN}
        running.append(asyncio.create_task(client.post(f"{stack.api}/v1/chat/completions", json=whole)))
        await until(lambda: len(node.requests) == len(running))
        stack.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(stack))
        assert not any(task.done() for task in running)
        gate.open.set()
        for path, answer in zip([*paths, "whole"], await asyncio.gather(*running), strict=True):
            assert answer.status_code == 200
            assert "lo" in answer.text, path
            assert "error" not in answer.text or path == "/v1/responses", answer.text
    assert stack.process.returncode == 0


async def test_what_runs_at_the_deadline_ends_with_an_error_in_the_clients_dialect(tmp_path, node):
    node.answer = Gate()
    async with serving(tmp_path, node, grace_s=1) as stack, httpx.AsyncClient(timeout=60) as client:
        running = {
            path: asyncio.create_task(client.post(stack.api + path, json=body))
            for path, body in STREAMS.items()
        }
        whole = {"model": "m", "messages": TURN, "max_tokens": 9}
        running["whole"] = asyncio.create_task(client.post(f"{stack.api}/v1/messages", json=whole))
        await until(lambda: len(node.requests) == len(running))
        stack.process.send_signal(signal.SIGTERM)
        answers = {path: await task for path, task in running.items()}
    for path, start in LAST_EVENT.items():
        assert answers[path].status_code == 200
        last = answers[path].text.rstrip().split("\n\n")[-1]
        assert last.startswith(start), (path, last)
        assert "gateway_stopping" in last or "stopped" in last, (path, last)
    refused = answers["whole"]
    assert (refused.status_code, refused.json()["type"]) == (503, "error")
    assert int(refused.headers["retry-after"]) > 0
    assert stack.process.returncode == 0


def local_port(response: httpx.Response) -> int:
    return response.extensions["network_stream"].get_extra_info("client_addr")[1]


def ports_of(process: psutil.Process) -> set[int]:
    """The clients' ports of its connections."""
    return {item.raddr.port for item in process.net_connections("tcp") if item.raddr}


async def test_a_worker_that_dies_costs_the_other_ones_clients_nothing(tmp_path, node):
    body = {"model": "m", "messages": TURN}
    async with serving(tmp_path, node, grace_s=5) as stack:
        url = f"{stack.api}/v1/chat/completions"
        victim, survivor = stack.process_of("gateway-0"), stack.process_of("gateway-1")
        clients: dict[int, httpx.AsyncClient] = {}  # by their kept connection's port

        async def connect() -> None:
            client = httpx.AsyncClient(timeout=60)
            async with client.stream("POST", url, json=body) as answer:
                assert answer.status_code == 200
                await answer.aread()
                clients[local_port(answer)] = client

        while not (clients.keys() & ports_of(victim) and clients.keys() & ports_of(survivor)):
            assert len(clients) < 100
            await asyncio.gather(*(connect() for _ in range(4)))
        safe = [clients[port] for port in clients.keys() & ports_of(survivor)]
        node.answer = gate = Gate()
        before = len(node.requests)
        running = [asyncio.create_task(client.post(url, json=body | {"stream": True})) for client in safe]
        await until(lambda: len(node.requests) == before + len(safe))
        victim.kill()
        node.answer = answer_hello
        async with httpx.AsyncClient(timeout=60) as client:  # new connections are served meanwhile
            for _ in range(20):
                fresh = await client.post(url, json=body, headers={"connection": "close"})
                assert fresh.status_code == 200
        gate.open.set()
        for answer in await asyncio.gather(*running):
            assert answer.text.rstrip().endswith("[DONE]")
        for client in safe:  # on the connections they kept
            assert (await client.post(url, json=body)).status_code == 200
        await asyncio.to_thread(stack.eventually, lambda: stack.process_of("gateway-0").pid != victim.pid)
        for client in clients.values():
            await client.aclose()


async def test_a_worker_that_is_told_to_stop_ends_its_answers_first_and_is_replaced(tmp_path, node):
    node.answer = gate = Gate()
    body = {"model": "m", "messages": TURN}
    async with serving(tmp_path, node, grace_s=30) as stack, httpx.AsyncClient(timeout=60) as client:
        url = f"{stack.api}/v1/chat/completions"
        victim = stack.process_of("gateway-0")
        running: list[asyncio.Task[httpx.Response]] = []

        def serves() -> bool:
            return any(
                item.raddr and item.laddr.port == stack.base_port for item in victim.net_connections("tcp")
            )

        while len(running) < 8 or not serves():
            assert len(running) < 100
            running.append(asyncio.create_task(client.post(url, json=body | {"stream": True})))
            await until(lambda: len(node.requests) == len(running))
        victim.terminate()
        node.answer = answer_hello
        for _ in range(20):
            async with httpx.AsyncClient(timeout=60) as other:
                assert (await other.post(url, json=body)).status_code == 200
        assert victim.is_running()
        gate.open.set()
        for answer in await asyncio.gather(*running):
            assert answer.text.rstrip().endswith("[DONE]")
        await asyncio.to_thread(stack.eventually, lambda: stack.process_of("gateway-0").pid != victim.pid)


MIB = 1 << 20
LIMIT_BYTES = 64 * MIB


def peak_bytes(stack: Stack) -> int:
    """The most memory that the data-plane workers ever had, summed."""
    total = 0
    for name in ("gateway-0", "gateway-1"):
        lines = Path(f"/proc/{stack.process_of(name).pid}/status").read_text().splitlines()
        total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total


def body_of(size: int) -> bytes:
    start, end = b'{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "', b'"}]}'
    return start + b"x" * (size - len(start) - len(end)) + end


async def test_the_largest_body_passes_with_one_copy_and_a_larger_one_is_refused(tmp_path, node):
    async with serving(tmp_path, node, grace_s=5) as stack, httpx.AsyncClient(timeout=60) as client:
        url = f"{stack.api}/v1/chat/completions"
        assert (await client.post(url, content=body_of(1000))).status_code == 200
        before = peak_bytes(stack)
        assert (await client.post(url, content=body_of(LIMIT_BYTES))).status_code == 200
        assert len(node.requests[-1].body) == LIMIT_BYTES
        grown = peak_bytes(stack) - before
        assert LIMIT_BYTES < grown < 2.5 * LIMIT_BYTES, f"{grown / LIMIT_BYTES:.2f} times the body"
        for path, wanted in {"/v1/chat/completions": "request_too_large", "/v1/messages": "error"}.items():
            refused = await client.post(stack.api + path, content=body_of(LIMIT_BYTES + 1))
            assert refused.status_code == 413
            told = refused.json()
            assert wanted in {told.get("type"), told["error"].get("code")}
