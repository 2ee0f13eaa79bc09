"""The chain from tokens to events: stop strings count in visible text, for any cut of the answer."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from neuron.text.answer import AnswerStream
from neuron.text.detokenizer import Detokenizer
from neuron.text.events import CallArguments, CallStart, Content, Event, ReasoningContent
from neuron.text.notations.known import NOTATIONS
from neuron.text.reasoning import KNOWN_MARKERS, ReasoningSplitter
from tests.text.splitting import cut, merged

CALL = '<tool_call>{"name": "f", "arguments": {"a": "END"}}</tool_call>'
ANSWERS = st.lists(
    st.sampled_from(["<think>", "</think>", CALL, "<tool_call>", "E", "N", "D", "END", "so", " ", "\n"]),
    max_size=12,
).map("".join)
STOPS = st.lists(st.sampled_from(["END", "ND", "DE", "E N", "\n", "<tool_call>", "f"]), max_size=3)


class Pieces:
    """Decodes tokens that are numbers of pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(self._pieces[id_] for id_ in ids)


def read(pieces: list[str], *stops: str, min_tokens: int = 0, max_calls: int | None = None):
    numbers = itertools.count()
    answer = AnswerStream(
        Detokenizer(Pieces(pieces)),
        ReasoningSplitter(KNOWN_MARKERS[0]),
        stops=stops,
        min_tokens=min_tokens,
        calls=NOTATIONS["hermes"].parser(lambda name, index: f"call_{next(numbers)}", {"f": {}}),
        max_calls=max_calls,
    )
    events = [event for token in range(len(pieces)) for event in answer.feed(token)]
    return answer, merged(events + answer.finish())


@given(ANSWERS, STOPS, st.sampled_from([None, 1]), st.data())
def test_any_cut_gives_the_same_answer(text, stops, max_calls, data):
    answer, events = read(cut(text, data), *stops, max_calls=max_calls)
    slow, expected = read(list(text), *stops, max_calls=max_calls)
    assert (events, answer.stop_string, answer.has_calls) == (expected, slow.stop_string, slow.has_calls)


@given(ANSWERS, STOPS)
def test_an_answer_ends_at_the_first_stop_string_of_its_visible_text(text, stops):
    _, unstopped = read(list(text))
    answer, events = read(list(text), *stops)
    assert (events, answer.stop_string) == before_stop(unstopped, stops)
    assert answer.has_calls is any(isinstance(event, CallStart) for event in events)


def before_stop(events: list[Event], stops: list[str]) -> tuple[list[Event], str | None]:
    for number, event in enumerate(events):
        text = event.text if isinstance(event, Content) else ""
        if found := [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]:
            _, at, stop = min(found)
            return [*events[:number], *([Content(text[:at])] if at else [])], stop
    return events, None


def test_thoughts_and_calls_may_hold_a_stop_string():
    answer, events = read(["<think>an END", "</think>so ", CALL, " more"], "END")
    assert events == [
        ReasoningContent("an END"),
        Content("so"),
        CallStart(0, "call_0", "f"),
        CallArguments(0, '{"a": "END"}'),
        Content("more"),
    ]
    assert answer.stop_string is None


def test_a_call_behind_a_stop_string_is_no_call():
    answer, events = read([f"so END {CALL}"], "END")
    assert (events, answer.stop_string, answer.has_calls) == ([Content("so ")], "END", False)


def test_a_stop_string_does_not_reach_across_a_call():
    _, events = read(["E", CALL, "ND"], "END")
    assert [event.text for event in events if isinstance(event, Content)] == ["E", "ND"]


def test_text_of_the_first_min_tokens_is_not_searched():
    answer, events = read(["END", "EN", "D", "so"], "END", min_tokens=1)
    assert (events, answer.stop_string, answer.tokens) == ([Content("END")], "END", 3)
