"""A chunk that differs from the last one in its text only is read without a parser: nothing else changes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from fleet.translation import ChatReader
from fleet.translation.chat.chunk_template import ChunkTemplate
from fleet.translation.events import Event

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def event(delta: object, *, finish: str | None = None, ascii_only: bool = True, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    body = json.dumps({**HEAD, "choices": choices, **more}, ensure_ascii=ascii_only)
    return b"data: " + body.encode() + b"\n\n"


TEXTS = st.sampled_from(
    ["a", " word", '"', "\\", "é☃", "<think>", "</think>", "\n", "}]}", '","x":"', "data: "]
)
TEXTS |= st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CHUNKS = st.one_of(
    st.builds(lambda text, plain: event({"content": text}, ascii_only=plain), TEXTS, st.booleans()),
    st.builds(lambda text: event({"content": text, "reasoning_content": text}), TEXTS),
    st.builds(lambda text: event({"reasoning_content": text}), TEXTS),
    st.builds(lambda text: event({"content": text}, finish="stop"), TEXTS),
    st.builds(lambda text: event({"content": text}, usage={"prompt_tokens": 1}), TEXTS),
    st.sampled_from(
        [
            event({"tool_calls": [CALL]}),
            event({"role": "assistant", "content": ""}),
            event({"content": "w"}).replace(b"\n\n", b"\r\n\r\n"),
            event({"content": "bad"}).replace(b"bad", b"\xff"),
            event({"content": "bad"}).replace(b"bad", b"b\x01d"),
            b": ping\n\n",
            b"event: error\n",
            b"data: [DONE]\n\n",
        ]
    ),
)


def read(pieces: list[bytes]) -> list[Event]:
    reader = ChatReader(request_id="r")
    return [said for piece in pieces for said in reader.feed(piece)] + reader.close()


@given(st.lists(CHUNKS, max_size=12))
def test_events_come_out_the_same_whole_and_in_single_bytes(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    assert read(chunks) == read([stream[at : at + 1] for at in range(len(stream))])


def test_what_is_alike() -> None:
    alike = ChunkTemplate.of(event({"content": "one"}), "one")
    assert alike is not None
    assert alike.text(event({"content": "two ☃"}, ascii_only=False)) == "two ☃"
    for other in ({"content": 'a"b'}, {"content": ""}, {"content": "a", "refusal": "b"}, {"contents": "a"}):
        assert alike.text(event(other)) == ""
    assert alike.text(event({"content": "two"}, finish="stop")) == ""
    assert alike.text(event({"content": "two"}).replace(b"two", b"\xc3")) == ""


def test_text_that_is_written_in_another_way_has_nothing_alike() -> None:
    assert ChunkTemplate.of(event({"content": "é"}), "é") is None
    assert ChunkTemplate.of(event({"content": "a", "x": {"content": "b"}}), "a") is None
