"""What a neuron notes about an answer, in headers: it reaches the client and the record, within bounds."""

from __future__ import annotations

import pytest

from cortex_site.base.excerpt import MAX_NOTE_CHARS
from fleet.gateway.nodes.adapter import MAX_NOTES, RequestAdapter
from fleet.snapshot import NodeConfig
from tests.stubs import fake_node
from tests.stubs.fake_node import answer_hello

ADJUSTED, UNENFORCED = "joined system messages", "tools[0].function.parameters/pattern"
NOTES = {"x-cortex-adjusted": ADJUSTED, "x-cortex-unenforced": UNENFORCED}
MESSAGES = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
BODIES = {
    "/v1/chat/completions": MESSAGES,
    "/v1/messages": MESSAGES | {"max_tokens": 9},
    "/v1/responses": {"model": "m", "input": "Hi"},
    "/v1/completions": {"model": "m", "prompt": "Hi"},
}


def noting(headers):
    """`answer_hello`, with more headers in its head."""

    async def answer(request, writer):
        await answer_hello(request, _Noting(writer, headers))

    return answer


class _Noting:
    def __init__(self, writer, headers):
        self._writer = writer
        self._lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")

    def write(self, data):
        first, _, rest = data.partition(b"\r\n")
        self._writer.write(first + b"\r\n" + self._lines + rest if self._lines else data)
        self._lines = b""

    async def drain(self):
        await self._writer.drain()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_neurons_notes_reach_the_client_and_the_record(house, path, stream):
    house.node.answer = noting(NOTES)
    response = await house.client.post(path, json=BODIES[path] | {"stream": stream})
    assert response.status_code == 200
    assert {name: response.headers[name] for name in NOTES} == NOTES
    record = await house.record()
    assert record.notes == (("adjusted", ADJUSTED), ("unenforced", UNENFORCED))


async def test_how_many_drafts_were_right_is_noted(house, monkeypatch):
    details = {"reasoning_tokens": 0, "accepted_prediction_tokens": 30, "rejected_prediction_tokens": 10}
    monkeypatch.setitem(fake_node.USAGE, "completion_tokens_details", details)
    await house.chat()
    assert (await house.record()).notes == (("drafts", "30 of 40 guessed tokens were right"),)


async def test_an_answer_without_notes_has_none(house):
    await house.chat()
    assert (await house.record()).notes == ()


@pytest.mark.parametrize(
    ("headers", "notes"),
    [
        ({"x-cortex-node": "me", "x-cortex-retries": "9", "x-cortex-expected-wait-s": "1"}, ()),
        ({"set-cookie": "a=b", "x-other": "x", "x-cortex-": "x", "x-cortex-a_b": "x"}, ()),
        ({"x-cortex-" + "a" * 42: "x"}, ()),
        ({"x-cortex-long": "x" * 2000}, (("long", "x" * MAX_NOTE_CHARS),)),
        ({"x-cortex-odd": "a\xe9\tb"}, (("odd", "a??b"),)),
        ({f"x-cortex-n{i}": "x" for i in range(30)}, tuple((f"n{i}", "x") for i in range(MAX_NOTES))),
    ],
)
async def test_notes_are_bounded(house, headers, notes):
    house.node.answer = noting(headers)
    response = await house.chat()
    record = await house.record()
    assert (response.status_code, record.notes) == (200, notes)
    assert (response.headers["x-cortex-node"], response.headers["x-cortex-retries"]) == (record.node, "0")
    assert "set-cookie" not in response.headers
    assert {f"x-cortex-{name}": text for name, text in notes}.items() <= dict(response.headers).items()


def test_another_server_notes_nothing():
    headers = {b"x-cortex-adjusted": b"x"}
    server = NodeConfig("s", "http://127.0.0.1:1/v1", kind="openai")
    assert RequestAdapter(server).notes(headers) == ()
    assert RequestAdapter(NodeConfig("n", "http://127.0.0.1:1")).notes(headers) == (("adjusted", "x"),)
