"""Answers with status 200 that state an error and nothing else."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import make_house
from tests.gateway.test_dialects import say
from tests.gateway.test_failures import error_of

TURN = [{"role": "user", "content": "Hi"}]
ASKED = {
    "/v1/chat/completions": {"messages": TURN},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"messages": TURN, "max_tokens": 9},
    "/v1/responses": {"input": "Hi", "store": False},
}
WORKER_DIED = {"error": {"message": "worker died", "code": 500}}


@pytest.mark.parametrize("path", ASKED)
async def test_json_with_an_error_alone_is_no_stream(path):
    async with make_house(nodes=2) as house:
        asked = {"model": "m", "stream": True} | ASKED[path]
        await house.burden_all_but(house.nodes[0])
        house.nodes[0].answer = say(WORKER_DIED)
        response = await house.client.post(path, json=asked)
        assert (response.status_code, response.headers["x-cortex-node"]) == (200, "n1")
        assert "there" in response.text
        house.nodes[1].answer = say(WORKER_DIED)
        response = await house.client.post(path, json=asked)
        assert (response.status_code, error_of(response)["message"]) == (500, "worker died")


@pytest.mark.parametrize("path", ASKED)
async def test_a_200_with_an_error_alone_is_no_answer(path):
    async with make_house(nodes=2) as house:
        await house.burden_all_but(house.nodes[0])
        house.nodes[0].answer = say(WORKER_DIED)
        response = await house.client.post(path, json={"model": "m"} | ASKED[path])
        assert (response.status_code, response.headers["x-cortex-node"]) == (200, "n1")
        assert "error" not in response.json() or response.json()["error"] is None
        assert (await house.record()).retries == 1
        house.nodes[1].answer = say(WORKER_DIED)
        response = await house.client.post(path, json={"model": "m"} | ASKED[path])
        assert (response.status_code, error_of(response)["message"]) == (500, "worker died")
        assert (await house.record(2)).outcome == "error"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"message": "too long", "type": "invalid_request_error", "code": "long"}, (400, "long")),
        ({"message": "no such user", "code": 404}, (404, "upstream_error")),
    ],
)
async def test_an_error_of_the_requests_own_in_a_200_is_asked_of_one_replica(error, expected):
    async with make_house(nodes=2) as house:
        for node in house.nodes:
            node.answer = say({"error": error})
        response = await house.chat()
        assert (response.status_code, error_of(response)["code"]) == expected
        assert sum(len(node.requests) for node in house.nodes) == 1


async def test_an_answer_beside_an_error_is_an_answer(house):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": '{"error": 1}'},
        "finish_reason": "stop",
    }
    for answer in ({"choices": [choice], "error": {"code": 0}}, {"choices": [choice], "error": None}):
        house.node.answer = say(answer)
        response = await house.chat()
        assert (response.status_code, response.json()) == (200, answer)


@pytest.mark.parametrize("choices", [None, []])
async def test_no_choice_beside_an_error_is_no_answer(house, choices):
    house.node.answer = say({"choices": choices, "error": "worker died"})
    response = await house.chat()
    assert (response.status_code, error_of(response)["message"]) == (502, "worker died")
