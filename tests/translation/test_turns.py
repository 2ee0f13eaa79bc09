"""One message for an assistant's turn, and the outputs of its calls right after it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fleet.translation.turns import in_chat_order

SAID = st.sampled_from(["a", "", None, [{"type": "text", "text": "p"}]])


@st.composite
def conversations(draw):
    """Messages in any order in which outputs follow their calls somewhere. Ids may come again."""
    messages, known = [], []
    for number in range(draw(st.integers(0, 12))):
        role = draw(st.sampled_from(["user", "system", "assistant", "assistant", "tool"]))
        if role == "tool" and known:
            ident = draw(st.sampled_from(known))
            messages.append({"role": role, "tool_call_id": ident, "content": str(number)})
        elif role == "assistant":
            calls = draw(st.lists(st.sampled_from("xyz"), max_size=2, unique=True))
            known += calls
            thoughts = {"reasoning_content": f"r{number}"} if draw(st.booleans()) else {}
            made = {"tool_calls": [{"id": ident, "of": number} for ident in calls]} if calls else {}
            messages.append({"role": role, "content": draw(SAID)} | thoughts | made)
        elif role != "tool":
            messages.append({"role": role, "content": str(number)})
    return messages


def outputs(messages):
    """The call that each output answers."""
    calls, found = {}, []
    for message in messages:
        calls |= {call["id"]: call["of"] for call in message.get("tool_calls", ())}
        if message["role"] == "tool":
            found.append((message["content"], calls[message["tool_call_id"]]))
    return sorted(found)


def told(messages, role, field):
    return [message[field] for message in messages if message["role"] == role and message.get(field)]


@given(conversations())
def test_a_strict_server_takes_what_comes_out(messages):
    ordered = in_chat_order(messages)
    for before, after in pairwise(ordered):
        assert (before["role"], after["role"]) != ("assistant", "assistant")
        if after["role"] == "tool":
            assert before["role"] == "tool" or before.get("tool_calls")


@given(conversations())
def test_nothing_is_lost_and_no_output_changes_its_call(messages):
    ordered = in_chat_order(messages)
    for role in ("user", "system"):
        assert told(ordered, role, "content") == told(messages, role, "content")
    calls, sent = (
        [call for turn in told(found, "assistant", "tool_calls") for call in turn]
        for found in (ordered, messages)
    )
    assert calls == sent
    thoughts, thought = (told(found, "assistant", "reasoning_content") for found in (ordered, messages))
    assert "\n".join(thoughts) == "\n".join(thought)
    if len({call["id"] for call in sent}) == len(sent):
        assert outputs(ordered) == outputs(messages)


@given(conversations())
def test_what_is_in_order_stays(messages):
    ordered = in_chat_order(messages)
    assert in_chat_order(ordered) == ordered


def test_an_id_that_comes_again_is_the_last_call_s():
    def call(number):
        return {"role": "assistant", "content": None, "tool_calls": [{"id": "x", "of": number}]}

    def output(text):
        return {"role": "tool", "tool_call_id": "x", "content": text}

    user = {"role": "user", "content": "u"}
    messages = [call(1), output("1"), user, call(2), user, output("2")]
    assert in_chat_order(messages) == [call(1), output("1"), user, call(2), output("2"), user]
