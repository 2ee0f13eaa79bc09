from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.events import Content, ReasoningContent
from neuron.text.reasoning import KNOWN_MARKERS, CallOpeners, ReasoningSplitter
from tests.text.splitting import cut, merged

THINK = KNOWN_MARKERS[0]
FRAGMENTS = st.sampled_from(["<think>", "</think>", "<", "think", "</", ">", "\n", " ", "a", "b c"])


def run(pieces, *, markers=THINK, **options):
    splitter = ReasoningSplitter(markers, **options)
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return merged(events + splitter.finish())


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("plain", False, [Content("plain")]),
        ("  plain", False, [Content("  plain")]),
        ("<think>\nwhy\n</think>\n\nso", False, [ReasoningContent("why"), Content("so")]),
        ("\n<think>why</think>so", False, [ReasoningContent("why"), Content("so")]),
        ("why\n</think>\n\nso", True, [ReasoningContent("why"), Content("so")]),
        ("<think>\n\n</think>\n\nso", False, [Content("so")]),
        ("<think>cut off", False, [ReasoningContent("cut off")]),
        ("cut off </thi", True, [ReasoningContent("cut off </thi")]),
        ("<think>a</think>\n\n", False, [ReasoningContent("a")]),
        ("so <think>is a marker</think>", False, [Content("so <think>is a marker</think>")]),
        ("<think>a</think>b</think><think>c", False, [ReasoningContent("a"), Content("b</think><think>c")]),
        ("<thi", False, [Content("<thi")]),
        ("", True, []),
        ("</think>\n\nso", False, [Content("so")]),
        ("</thin", False, [Content("</thin")]),
    ],
)
def test_reasoning_is_split_from_the_answer(text, opened, expected):
    assert run([text], opened=opened) == expected
    assert run(list(text), opened=opened) == expected


@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.booleans(), st.data())
def test_any_split_gives_the_same_events(text, opened, data):
    assert run(cut(text, data), opened=opened) == run([text], opened=opened)


@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.data())
def test_everything_is_content_without_markers(text, data):
    assert run(cut(text, data), markers=None) == ([Content(text)] if text else [])


@given(st.lists(FRAGMENTS, max_size=12).map("".join), st.booleans())
def test_at_most_one_pair_of_markers_is_dropped(text, opened):
    shown = "".join(event.text for event in run([text], opened=opened))
    lost = len("".join(text.split())) - len("".join(shown.split()))
    assert lost in {0, len("<think>"), len("</think>"), len("<think></think>")}


CALLS = CallOpeners(tokens=("<|call|>",), texts=("<call>",))
CALL_FRAGMENTS = st.sampled_from(["<think>", "</think>", "<|call|>", "<call>", "<", "\n", " ", "a", "<|ca"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm\n<call>{}</call>", [ReasoningContent("hm"), Content("<call>{}</call>")]),
        ("<think>hm\n  <call>", [ReasoningContent("hm"), Content("<call>")]),
        ("<think>hm <|call|>{}", [ReasoningContent("hm"), Content("<|call|>{}")]),
        ("<think><call>", [Content("<call>")]),
        ("<think>a <call> b</think>c", [ReasoningContent("a <call> b"), Content("c")]),
        ("<think>a</think>\n<call>", [ReasoningContent("a"), Content("<call>")]),
        ("<think>hm\n<ca", [ReasoningContent("hm\n<ca")]),
    ],
)
def test_a_call_closes_an_open_thought(text, expected):
    assert run([text], calls=CALLS) == expected
    assert run(list(text), calls=CALLS) == expected


@given(st.lists(CALL_FRAGMENTS, max_size=12).map("".join), st.booleans(), st.data())
def test_any_split_gives_the_same_events_with_calls(text, opened, data):
    pieces = cut(text, data)
    assert run(pieces, opened=opened, calls=CALLS) == run([text], opened=opened, calls=CALLS)


def test_prompt_opens_or_closes_the_block():
    assert THINK.opened_by("<|im_start|>assistant\n<think>\n")
    assert not THINK.opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not THINK.opened_by("<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n")
