from __future__ import annotations

import asyncio

import pytest

from fleet.gateway import detour, loading
from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import refuse


@pytest.fixture
async def cold():
    async with make_house(loaded=False) as house:

        async def load(operation):
            operation.node = "n0"
            await house.node.set_model(MODEL, "loading")
            await asyncio.sleep(0.05)
            await house.node.set_model(MODEL)
            operation.state = "succeeded"

        house.control.on_load = lambda operation: spawn(load(operation))
        yield house


async def spawn(work) -> None:
    task = asyncio.ensure_future(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


tasks: set[asyncio.Future] = set()


async def test_cold_model_is_loaded_and_answers(cold):
    response = await cold.chat()
    assert response.status_code == 200
    record = await cold.record()
    assert record.cold
    assert record.queue_s > 0


async def test_many_at_once_cause_one_load(cold):
    answers = await asyncio.gather(*(cold.chat(stream=number % 2 == 0) for number in range(20)))
    assert {response.status_code for response in answers} == {200}
    assert len(cold.control.operations) == 1


async def test_failed_load_is_a_503_with_the_reason(cold):
    async def fail(operation):
        operation.state, operation.error_code = "failed", "model_broken"
        operation.message = "shard 2 is missing"

    cold.control.on_load = fail
    for stream in (False, True):
        response = await cold.chat(stream=stream)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "model_broken"
        assert "shard 2 is missing" in response.json()["error"]["message"]


async def test_control_plane_away(cold):
    cold.control.down = True
    response = await cold.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "control_plane_unavailable")
    assert "retry-after" in response.headers


async def test_wait_is_bounded():
    async with make_house(loaded=False, load_wait_s=0.1) as house:
        response = await house.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
        assert "retry-after" in response.headers


async def test_a_waiting_stream_is_told_for_how_long(cold, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.02)

    async def known(operation):
        operation.eta_s = 41.5

    cold.control.on_load = known
    body = {"model": MODEL, "messages": [], "stream": True}
    async with cold.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["x-cortex-expected-wait-s"] == "42"
        await cold.node.set_model(MODEL)
        assert "data: [DONE]" in [line async for line in response.aiter_lines()]


async def test_a_client_that_waited_long_enough_is_told_when_to_come_back():
    async def known(operation):
        operation.eta_s = 41.5

    async with make_house(loaded=False, load_wait_s=0.1) as house:
        house.control.on_load = known
        assert (await house.chat()).headers["retry-after"] == "42"


STORY = [
    (
        {"state": "pending", "message": "n0: waits for another operation\n\ndata: {}"},
        "queued: n0: waits for another operation data: {}",
    ),
    ({"message": "evicting old from n0"}, "evicting old from n0"),
    ({"message": "loading on n0", "eta_s": 11.2}, "loading on n0, about 12 s left"),
    ({"progress": 0.43}, "loading m on n0 43 %"),
    ({"progress": 0.43, "eta_s": 6.0}, "loading m on n0 43 %, about 6 s left"),
]


async def test_long_wait_of_a_stream_is_filled_with_progress(cold, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.02)
    monkeypatch.setattr(loading, "CHECK_INTERVAL_S", 0.02)
    cold.control.on_load = keep_pending
    body = {"model": MODEL, "messages": [], "stream": True}
    async with cold.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        lines = response.aiter_lines()
        operation = cold.control.operations[0]
        for fields, text in STORY:
            vars(operation).update(node="n0", state="running", progress=None, message="", eta_s=None)
            vars(operation).update(fields)
            async with asyncio.timeout(10):
                while (await anext(lines)) != f": {text}":
                    pass
        await cold.node.set_model(MODEL)
        operation.state = "succeeded"
        rest = [line async for line in lines]
    assert "data: [DONE]" in rest
    assert "data: {}" not in rest


async def keep_pending(operation) -> None:
    operation.state = "pending"


async def test_a_load_without_an_operation_is_told_too(cold, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.02)
    await cold.node.set_model(MODEL, "loading", progress=0.5)
    await cold.until(lambda snapshot: snapshot.placements(MODEL))
    body = {"model": MODEL, "messages": [], "stream": True}
    async with cold.client.stream("POST", "/v1/chat/completions", json=body) as response:
        async with asyncio.timeout(10):
            async for line in response.aiter_lines():
                if line == ": loading m on n0 50 %":
                    break


async def test_a_wait_that_is_too_long_ends_a_stream_with_an_error_event(monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.02)
    async with make_house(loaded=False, load_wait_s=0.2) as house:
        response = await house.chat(stream=True)
        assert response.status_code == 200
        assert response.text.startswith(": ")
        assert '"model_loading"' in response.text
        assert "[DONE]" not in response.text


async def test_failure_after_progress_is_an_error_event(cold, monkeypatch):
    monkeypatch.setattr(detour, "PATIENCE_S", 0.05)

    async def fail_later(operation):
        await asyncio.sleep(0.2)
        operation.state, operation.message = "failed", "out of memory"

    cold.control.on_load = lambda operation: spawn(fail_later(operation))
    response = await cold.chat(stream=True)
    assert response.status_code == 200
    assert "out of memory" in response.text
    assert "[DONE]" not in response.text


@pytest.mark.parametrize(
    "refusal",
    [refuse(404, "model_not_found"), refuse(503, "model_unloaded", retry_after="5")],
    ids=["unknown", "unloaded"],
)
async def test_model_that_left_between_two_events_is_loaded_again(cold, refusal):
    await cold.node.set_model(MODEL)
    await cold.until_routable()
    reality = cold.node.answer

    async def gone_once(request, writer):
        cold.node.answer = reality
        await cold.node.drop_model(MODEL)
        await refusal(request, writer)

    cold.node.answer = gone_once
    assert (await cold.chat()).status_code == 200
    assert len(cold.control.operations) == 1


async def test_reload_by_the_node_itself_needs_no_operation(cold):
    await cold.node.set_model(MODEL, "loading")
    await cold.until(lambda snapshot: snapshot.placements(MODEL))
    waiting = asyncio.create_task(cold.chat())
    await asyncio.sleep(0.1)
    await cold.node.set_model(MODEL)
    assert (await waiting).status_code == 200
    assert cold.control.operations == []
