"""Random answers: as neutral events, and as the chat streams that mean them."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import strategies as st

from fleet.translation.events import (
    Failure,
    MessageStart,
    ReasoningDelta,
    ReasoningSignature,
    RedactedReasoning,
    Stop,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
names = st.text("abcdefgh_", min_size=1, max_size=8)
numbers = st.integers(-(1 << 40), 1 << 40)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
inputs = st.dictionaries(texts, values, max_size=2)
counts = st.integers(0, 9999)
usages = st.builds(Usage, counts, counts, st.integers(0, 99), st.integers(0, 99))
ends = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])
stops = st.builds(Stop, ends) | st.builds(Stop, st.just("stop"), texts)
failures = st.builds(Failure, st.integers(400, 599), names, texts)


@st.composite
def fragments(draw, text):
    """A string in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    bounds = [0, *places, len(text)]
    return [text[start:end] for start, end in pairwise(bounds) if start < end]


@st.composite
def calls(draw, arguments):
    pieces = draw(fragments(draw(arguments)))
    return [ToolCallStart(draw(names), draw(names)), *map(ToolCallArguments, pieces), ToolCallEnd()]


blocks = st.one_of(
    st.lists(st.builds(TextDelta, texts), min_size=1, max_size=3),
    st.lists(st.builds(ReasoningDelta, texts), min_size=1, max_size=3),
    st.tuples(st.builds(ReasoningDelta, texts), st.builds(ReasoningSignature, names)).map(list),
    st.builds(RedactedReasoning, names).map(lambda event: [event]),
    st.builds(lambda usage: [usage], usages),
    calls(inputs.map(json.dumps)),
    calls(texts.filter(str.strip)),  # not JSON
)


@st.composite
def answers(draw, end=stops):
    """The events of one answer that the grammar allows; a reader gives every call an id of its own."""
    start = MessageStart(draw(names), draw(st.none() | usages))
    events = [event for block in draw(st.lists(blocks, max_size=4)) for event in block]
    return [start, *(own(event, place) for place, event in enumerate(events)), draw(end)]


def own(event, place):
    return ToolCallStart(f"{event.id}{place}", event.name) if isinstance(event, ToolCallStart) else event
