from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.provider import sse
from helexa_acp.provider.sse import SseComment, SseEvent, SseParser

STREAM = (
    '\ufeff: hello\n\ndata:{"a":1}\n\nevent: x\r\nid: 7\r\ndata: one\r\ndata: two\r\n\r\n'
    ": OPENROUTER PROCESSING\rdata: caf\u00e9 \u2028 \x85 \U0001f600\r\rretry: 5\ndata\n\ndata: last"
).encode()

EVENTS = [
    SseComment("hello"),
    SseEvent('{"a":1}'),
    SseEvent("one\ntwo", "x"),
    SseComment("OPENROUTER PROCESSING"),
    SseEvent("caf\u00e9 \u2028 \x85 \U0001f600"),
    SseEvent(""),
    SseEvent("last"),
]


def parse(chunks):
    parser = SseParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return [*events, *parser.close()]


def test_a_stream_is_parsed_at_once():
    assert parse([STREAM]) == EVENTS


def test_a_stream_is_parsed_byte_by_byte():
    assert parse([STREAM[at : at + 1] for at in range(len(STREAM))]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_events(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parse([STREAM[a:b] for a, b in itertools.pairwise(edges)]) == EVENTS


@given(st.binary(max_size=400))
def test_any_bytes_give_events_and_no_error(data):
    assert parse([data]) == parse([data[:7], data[7:]])


def test_an_endless_event_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 100)
    parser = SseParser()
    with pytest.raises(sse.SseTooLongError):
        for _ in range(20):
            parser.feed(b"data: " + b"x" * 10)
