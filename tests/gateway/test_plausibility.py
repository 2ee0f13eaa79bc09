"""A neuron that says what cannot be gains nothing by it: no requests, no tokens given back."""

from __future__ import annotations

import json

import pytest

from tests.gateway.conftest import MODEL, make_house
from tests.stubs.fake_node import STREAM_HEAD, Answer, answer_hello, chunk, framed, head, sse


@pytest.mark.parametrize(
    "lie",
    [{"running": -1000}, {"waiting": -1000}, {"tok_s_prefill": -1.0}, {"max_running": -4, "running": 3}],
)
async def test_counts_below_none_draw_no_requests(lie):
    async with make_house(nodes=2) as house:
        liar, honest = house.nodes
        await liar.set_model(MODEL, **({"running": 5} | lie))
        await honest.set_model(MODEL, running=0, waiting=0)
        await house.until(
            lambda snapshot: all(
                view.running >= 0 and view.waiting >= 0 and view.max_running >= 0 and view.tok_s_prefill >= 0
                for _, view in snapshot.replicas(MODEL)
            )
        )
        nodes = {(await house.chat()).headers["x-cortex-node"] for _ in range(40)}  # equals are drawn for
        assert "n1" in nodes


def used(tokens) -> Answer:
    """Answers that say they used so much."""

    async def answer(request, writer):
        usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
        if request.json.get("stream"):
            events = chunk({"content": "Hi"}, "stop") + sse({"choices": [], "usage": usage}) + sse(b"[DONE]")
            writer.write(STREAM_HEAD + framed(events) + b"0\r\n\r\n")
            return
        body = json.dumps({"id": "c1", "choices": [], "usage": usage}).encode()
        writer.write(head(content_length=len(body)) + body)

    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [-5, 2**31, 10**30, "7", 1.5, [1]])
async def test_tokens_that_cannot_be_are_recorded_as_none(house, tokens, stream):
    house.node.answer = used(tokens)
    assert (await house.chat(stream=stream)).status_code == 200
    record = await house.record()
    assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("ok", 0, 0)
    house.node.answer = answer_hello
    assert (await house.chat(stream=stream)).status_code == 200
    assert (await house.record(2)).prompt_tokens == 7  # who records them is still there


async def test_details_without_a_count_leave_the_other_counts(house):
    async def answer(request, writer):
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": None}}
        body = json.dumps({"id": "c1", "choices": [], "usage": usage}).encode()
        writer.write(head(content_length=len(body)) + body)

    house.node.answer = answer
    assert (await house.chat()).status_code == 200
    record = await house.record()
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (7, 3, 0)


async def test_a_state_nobody_knows_is_not_routed_to(house):
    await house.node.set_model(MODEL, "dreaming")
    await house.until(lambda snapshot: not snapshot.replicas(MODEL))
    assert house.gateway.fleet.snapshot.nodes["n0"].healthy
    listed = (await house.client.get("/v1/models")).json()["data"]
    assert [node["state"] for node in listed[0]["nodes"]] == ["dreaming"]


async def test_another_protocol_is_not_trusted(house):
    house.node.protocol = 2
    await house.node.set_model(MODEL)
    await house.until(lambda snapshot: not snapshot.nodes["n0"].healthy)
    reason = (await house.client.get("/health")).json()["away"][0]["reason"]
    assert reason == "it speaks protocol 2, this cortex speaks 1"
