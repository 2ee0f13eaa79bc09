"""Ways to cut the input of state machines whose result must not depend on them."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st

from neuron.text.events import CallArguments, Content, Event, ReasoningContent


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def merged(events: Iterable[Event]) -> list[Event]:
    """The events with neighbours of one kind joined, as a client sees them in the end."""
    out: list[Event] = []
    for event in events:
        match out[-1] if out else None, event:
            case Content(before), Content(text):
                out[-1] = Content(before + text)
            case ReasoningContent(before), ReasoningContent(text):
                out[-1] = ReasoningContent(before + text)
            case CallArguments(index, before), CallArguments(same, text) if index == same:
                out[-1] = CallArguments(index, before + text)
            case _:
                out.append(event)
    return out
