"""Clients that disconnect, that do not read, and that listen for a long time."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from urllib.parse import urlsplit

import pytest

from neuron.wire import NodeState
from tests.neuron.conftest import PATIENCE_S, config, neuron_with, until
from tests.stubs.model_dir import write_model


def body(text, **options):
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | options


async def is_idle(neuron):
    return await neuron.running() == 0


@pytest.fixture
async def loaded(model_dir):
    async with neuron_with(config()) as neuron:
        await neuron.load(model_dir)
        yield neuron


@pytest.mark.parametrize("text", ["forever", "wait"])
@pytest.mark.parametrize("stream", [False, True])
async def test_disconnected_client_frees_its_slot(loaded, text, stream):
    request = asyncio.create_task(loaded.chat(text, stream=stream))
    await until(loaded.running)
    request.cancel()
    await until(lambda: is_idle(loaded))
    assert (await loaded.chat("echo next")).status_code == 200


async def test_client_that_disconnects_within_a_stream_ends_its_request(loaded, caplog):
    caplog.set_level(logging.INFO, "neuron.http")
    async with loaded.http.stream(
        "POST", "/v1/chat/completions", json=body("forever", stream=True)
    ) as answer:
        await anext(answer.aiter_bytes())  # it runs; unread for long, it would be cut off
    await until(lambda: is_idle(loaded))
    (line,) = [vars(record) for record in caplog.records if record.__dict__.get("method") == "POST"]
    assert (line["code"], line["model"], line["status"]) == ("client_gone", "m", 200)
    assert line["completion_tokens"] > 0


@pytest.mark.parametrize("options", [{}, {"n": 3}, {"logprobs": True, "top_logprobs": 5}])
async def test_client_that_does_not_read_is_cut_off(model_dir, caplog, options):
    async with neuron_with(config(stream={"max_unread_tokens": 2000})) as neuron:
        await neuron.load(model_dir)
        with silent_client(neuron, body("flood", stream=True, **options)) as sock:
            await until(lambda: was_cut_off(caplog))
            await until(lambda: is_idle(neuron))
            assert (await neuron.chat("echo others")).status_code == 200
            rest = await asyncio.to_thread(read_all, sock)
        assert b"client_too_slow" in rest
        assert b"[DONE]" not in rest


async def was_cut_off(caplog):
    return "does not read" in caplog.text


def silent_client(neuron, content):
    parts = urlsplit(neuron.url)
    sock = socket.create_connection((parts.hostname, parts.port))
    payload = json.dumps(content).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Length: {len(payload)}"
    sock.sendall(f"{head}\r\n\r\n".encode() + payload)
    return sock


def read_all(sock):
    data = b""
    while part := sock.recv(1 << 20):
        data = data[-1000:] + part
    return data


async def test_comments_keep_a_quiet_stream_alive(model_dir):
    async with neuron_with(config(stream={"keepalive_s": 0.02, "head_wait_s": 0.02})) as neuron:
        await neuron.load(model_dir)
        async with neuron.http.stream(
            "POST", "/v1/chat/completions", json=body("wait", stream=True)
        ) as answer:
            lines = answer.aiter_lines()
            seen = [await anext(lines) for _ in range(6)]
        assert "role" in seen[0]
        assert seen[2] == ": keep-alive"


class Events:
    """The states that `/events` sends, one by one."""

    def __init__(self, response):
        self._lines = response.aiter_lines()

    async def next(self):
        async with asyncio.timeout(PATIENCE_S):
            async for line in self._lines:
                if line.startswith("data: "):
                    return NodeState.model_validate_json(line.removeprefix("data: "))
        raise AssertionError("the stream ended")

    async def until(self, condition):
        while not condition(state := await self.next()):
            pass
        return state


async def test_event_stream_sends_the_state_at_once_and_after_each_change(tmp_path):
    directory = write_model(tmp_path / "m")
    (directory / "gate").touch()
    async with neuron_with(config()) as neuron, neuron.http.stream("GET", "/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = Events(response)
        first = await events.next()
        assert first.models == []
        load = asyncio.create_task(neuron.load(directory))
        state = await events.until(lambda state: state.models)
        assert state.models[0].state == "loading"
        assert state.seq > first.seq
        await events.until(lambda state: state.models[0].progress == 0.25)
        (directory / "gate").unlink()
        await load
        state = await events.until(lambda state: state.models[0].state == "loaded" and state.health.models)
        assert state.health.models[0].running == 0
        chat = asyncio.create_task(neuron.chat("wait"))
        await events.until(lambda state: state.health.models[0].running == 1)
        chat.cancel()
        await events.until(lambda state: state.health.models[0].running == 0)
        await neuron.http.post("/models/unload", json={"model_id": "m"})
        await events.until(lambda state: not state.models)


async def test_comments_keep_a_quiet_event_stream_alive():
    async with (
        neuron_with(config(stream={"keepalive_s": 0.02})) as neuron,
        neuron.http.stream("GET", "/events") as response,
    ):
        async with asyncio.timeout(PATIENCE_S):
            async for line in response.aiter_lines():
                if line == ": keep-alive":
                    break


async def test_event_streams_end_when_the_daemon_stops(caplog):
    caplog.set_level(logging.ERROR)
    async with neuron_with(config()) as neuron, neuron.http.stream("GET", "/events") as response:
        lines = response.aiter_lines()
        await anext(lines)
        neuron.daemon.events.close()
        async for _ in lines:
            pass
    assert not caplog.records
