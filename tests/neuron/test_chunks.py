"""Chunks that are put together from bytes equal those that a JSON encoder writes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.api.answers.chat import ChatChoiceWriter
from neuron.api.answers.chunks import ChunkEncoder
from neuron.text.events import CallArguments, CallStart, Content, ReasoningContent

texts = st.text(max_size=12)
events = st.one_of(
    st.builds(Content, texts),
    st.builds(ReasoningContent, texts),
    st.builds(CallStart, st.integers(0, 3), texts, texts),
    st.builds(CallArguments, st.integers(0, 3), texts),
)
WORDS = {Content: "content", ReasoningContent: "reasoning_content"}


def payloads(stream: bytes) -> list[dict]:
    assert stream.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in stream[:-2].split(b"\n\n")]


@pytest.mark.parametrize("include_usage", [False, True])
@given(
    said=st.lists(events, min_size=1, max_size=4),
    model=st.text(max_size=5) | st.just('""'),
    index=st.integers(0, 9),
)
def test_chunk_of_every_event_has_all_fields_of_a_chunk(include_usage, said, model, index):
    choice = ChatChoiceWriter(index, ChunkEncoder("c-1", model, "kind", include_usage=include_usage), None)
    found = payloads(choice.delta(said, ()))
    assert len(found) == len(said)
    for event, payload in zip(said, found, strict=True):
        (one,) = payload.pop("choices")
        created = payload.pop("created")
        assert isinstance(created, int)
        usage = {"usage": None} if include_usage else {}
        assert payload == {"id": "c-1", "object": "kind", "model": model} | usage
        assert (one["index"], one["finish_reason"]) == (index, None)
        if type(event) in WORDS:
            assert one["delta"] == {WORDS[type(event)]: event.text}
        else:
            assert list(one["delta"]) == ["tool_calls"]
