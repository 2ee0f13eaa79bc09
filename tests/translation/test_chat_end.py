"""How answers end, and how they break off."""

from __future__ import annotations

import pytest

from fleet.translation import ChatReader
from fleet.translation.events import (
    Failure,
    MessageStart,
    Stop,
    TextDelta,
)
from tests.translation.tape import call, called, read, say, sse, use

START = MessageStart("chatcmpl-7")
STOP = Stop("stop")
CALLS = Stop("tool_calls")
F = called("a", "f", '{"x":1}')


def test_finish_without_done_is_an_end():
    assert read(sse(say("stop", content="a"), done=False)) == [START, TextDelta("a"), STOP]


def test_last_event_may_lack_its_blank_line():
    assert read(sse(say("stop", content="a"), done=False).rstrip()) == [START, TextDelta("a"), STOP]


def test_whole_calls_without_finish_or_done_can_run():
    chunk = use(call(index=0, id="a", name="f", arguments='{"x":1}'))
    assert read(sse(chunk, done=False)) == [START, *F, CALLS]


@pytest.mark.parametrize(
    "chunks",
    [[say(content="a")], [use(call(index=0, id="a", name="f", arguments="{"))], [say(role="assistant")]],
)
def test_bytes_that_just_end_are_a_cut_answer(chunks):
    *_, last = read(sse(*chunks, done=False))
    assert (last.status, last.code) == (502, "upstream_cut")


def test_half_a_call_is_cut_even_at_done():
    *_, last = read(sse(use(call(index=0, id="a", name="f", arguments='{"x'))))
    assert last.code == "upstream_cut"


def test_done_ends_the_answer_at_once_and_nothing_follows():
    reader = ChatReader()
    assert reader.feed(sse(say("stop", content="a")))[-1] == STOP
    assert reader.feed(sse(say("stop", content="b"))) == []
    assert reader.close() == []


ERRORS = {
    "object": (
        {"error": {"message": "full", "type": "rate_limit_error", "code": "queue_full"}},
        (429, "queue_full", "full"),
    ),
    "text": ({"error": "full"}, (502, "upstream_error", "full")),
    "code is a status": ({"error": {"message": "full", "code": 503}}, (503, "upstream_error", "full")),
    "bare": ({"code": 500, "message": "full"}, (500, "upstream_error", "full")),
    "object error": (
        {"object": "error", "message": "full", "type": "BadRequestError"},
        (502, "upstream_error", "full"),
    ),
    "in the choice": (
        say("error", choice={"error": {"message": "full", "code": 502}}),
        (502, "upstream_error", "full"),
    ),
    "finish is error": (say("error"), (502, "upstream_error", "the upstream failed without saying why")),
    "not JSON": (
        "<html>",
        (502, "upstream_malformed", "the upstream sent an event that is not a chat chunk"),
    ),
    "a sentence": (
        "pinging the model failed",
        (502, "upstream_malformed", "the upstream sent an event that is not a chat chunk"),
    ),
    "half a chunk": (
        '{"choices": [',
        (502, "upstream_malformed", "the upstream sent an event that is not a chat chunk"),
    ),
    "wrong shape": (
        {"choices": {"a": 1}},
        (502, "upstream_malformed", "the upstream sent an event that is not a chat chunk"),
    ),
    "list": ([1, 2], (502, "upstream_malformed", "the upstream sent an event that is not a chat chunk")),
}


@pytest.mark.parametrize("row", ERRORS)
def test_error_inside_a_200_stream(row):
    payload, expected = ERRORS[row]
    start, text, last = read(sse(say(content="a"), payload, say("stop", content="b")))
    assert (start, text) == (START, TextDelta("a"))
    assert last == Failure(*expected)


@pytest.mark.parametrize(("data", "message"), [(b'{"message":"full"}', "full"), (b"full", "full")])
def test_error_by_event_name(data, message):
    assert read(b"event: error\ndata: " + data + b"\n\n") == [Failure(502, "upstream_error", message)]


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"<html>bad gateway</html>", b"data: [DONE]\n\n", b": ping\n\n", b"data: ping\n\n"]
)
def test_no_answer_at_all(data):
    assert [event.code for event in read(data)] == ["upstream_malformed"]


def test_a_broken_code_point_is_replaced():
    data = sse(say("stop", content="aXb")).replace(b"X", b"\xe2\x82")
    assert read(data)[1] == TextDelta("a\ufffdb")


def test_one_event_has_a_bound():
    reader = ChatReader(max_event_bytes=1000)
    assert reader.feed(b"data: " + b"x" * 2000)[-1].code == "upstream_malformed"
    assert reader.feed(b"x" * 2000) == []
    reader = ChatReader(max_event_bytes=1000)
    assert reader.feed(b'{"choices": "' + b"x" * 2000)[-1].code == "upstream_malformed"


def test_what_follows_the_end_is_not_read():
    reader = ChatReader(max_event_bytes=200)
    assert reader.feed(sse(say("stop", content="a")) + b"data: " + b"x" * 300)[-1] == STOP


def test_a_status_beside_a_type_wins():
    error = {"error": {"message": "full", "type": "api_error", "status": 429}}
    assert read(sse(error)) == [Failure(429, "upstream_error", "full")]


def test_bytes_after_a_cr_may_be_none():
    reader = ChatReader()
    whole = sse(say("stop", content="a"), end="\r\n")
    cut = whole.index(b"\r") + 1
    events = reader.feed(whole[:cut]) + reader.feed(b"") + reader.feed(whole[cut:])
    assert events == [START, TextDelta("a"), STOP]
