from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.translation.sse import SseEvent, SseSplitter, SseTooLarge
from tests.translation.tape import cut

ENDS = ["\n", "\r\n", "\r"]


def split(*pieces: bytes, limit: int = 1 << 20) -> list[SseEvent]:
    splitter = SseSplitter(max_event_bytes=limit)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return [*events, *splitter.close()]


@pytest.mark.parametrize(
    ("sent", "events"),
    [
        (b"data: a\n\n", [SseEvent(b"a")]),
        (b"data:a\n\n", [SseEvent(b"a")]),
        (b"data:  a\n\n", [SseEvent(b" a")]),
        (b"data: a\ndata: b\n\n", [SseEvent(b"a\nb")]),
        (b"data\n\n", [SseEvent(b"")]),
        (b": comment\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [SseEvent(b"a", b"error"), SseEvent(b"b")]),
        (b"event: ping\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"id: 1\nretry: 5\nunknown: x\ndata: a\n\n", [SseEvent(b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [SseEvent(b"a")]),
        (b"data: a", [SseEvent(b"a")]),
        (b"data: a\n", [SseEvent(b"a")]),
        ("data: a\u2028b\x85c\n\n".encode(), [SseEvent("a\u2028b\x85c".encode())]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_framing(sent, events):
    assert split(sent) == events
    assert split(*(bytes([byte]) for byte in sent)) == events


texts = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=12)
blocks = st.lists(
    st.tuples(st.sampled_from(["", "event: e", ": c"]), st.lists(texts, min_size=1, max_size=3))
)


@given(blocks, st.data())
def test_any_line_end_and_any_cut_give_the_same_events(sent, data):
    lines, expected = [], []
    for head, values in sent:
        lines += ([head] if head else []) + [f"data: {value}" for value in values] + [""]
        expected.append(SseEvent("\n".join(values).encode(), b"e" if head == "event: e" else b""))
    end = data.draw(st.sampled_from(ENDS))
    stream = "".join(line + end for line in lines).encode()
    assert split(*cut(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))) == expected


@pytest.mark.parametrize(
    "sent", [b"data: " + b"x" * 200, b"data: xxxxxxxxx\n" * 20, b"data:\n" * 200, b":" * 200]
)
def test_an_event_without_end_is_refused_in_any_pieces(sent):
    with pytest.raises(SseTooLarge):
        split(sent, limit=100)
    with pytest.raises(SseTooLarge):
        split(*(bytes([byte]) for byte in sent), limit=100)


def test_the_bound_is_for_one_event():
    assert len(split(b"data: 0123456789\n\n" * 50, limit=40)) == 50
    assert len(split(*[b"data: 01234", b"56789\n\n"] * 50, limit=40)) == 50


def test_what_came_before_an_event_too_large_is_not_lost():
    splitter = SseSplitter(max_event_bytes=40)
    events = splitter.feed(b"data: a\n\ndata: " + b"x" * 60)
    assert next(events) == SseEvent(b"a")
    with pytest.raises(SseTooLarge):
        next(events)
