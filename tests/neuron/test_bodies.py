from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neuron.api.bodies import completion, embedding
from neuron.api.bodies.chat import NEUTRAL, ChatBody, decode
from neuron.wire import ApiError

NAMES = [field.name for field in msgspec.structs.fields(ChatBody)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "robot"]), "content": JSON})
BODIES = st.dictionaries(
    st.sampled_from([*NAMES, "unheard_of"]), JSON | st.lists(MESSAGE, max_size=2), max_size=6
)
VALID = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def decoded_or_refused(body: bytes) -> ChatBody | ApiError:
    try:
        return decode(body)
    except ApiError as error:
        refusal = error
    assert refusal.status == 400
    assert refusal.message
    return refusal


@pytest.mark.parametrize(
    "name", ["a b", "a\n", "\t", '"', "it's", "`", "<f>", "a\x00", "a\x7f", "a\u2028b", "a" * 257]
)
def test_names_that_calls_cannot_spell_are_no_tools(name):
    tools = [{"type": "function", "function": {"name": each}} for each in ("f", name)]
    refusal = decoded_or_refused(json.dumps(VALID | {"tools": tools}).encode())
    assert refusal.param == "tools[1].function.name"
    assert len(refusal.message) < 300


@pytest.mark.parametrize("name", ["get_time", "mcp__files-2.read:all/x", "größe", "a" * 256])
def test_names_of_tools_are_those_that_other_servers_take(name):
    tools = [{"type": "function", "function": {"name": name}}]
    assert decode(json.dumps(VALID | {"tools": tools}).encode()).tools[0].function.name == name


OTHERS = {
    completion.decode: completion.CompletionBody,
    embedding.decode: embedding.EmbeddingBody,
}


@pytest.mark.parametrize("other", OTHERS)
@given(data=st.data())
def test_any_other_body_is_decoded_or_refused_by_name(other, data):
    names = [field.name for field in msgspec.structs.fields(OTHERS[other])]
    body = data.draw(st.dictionaries(st.sampled_from([*names, "unheard_of"]), JSON, max_size=6))
    body |= data.draw(st.sampled_from([{}, {"model": "m", "prompt": "x", "input": "x"}]))
    try:
        other(json.dumps(body).encode())
    except ApiError as error:
        refusal = error
    else:
        return
    assert refusal.status == 400
    assert refusal.param or refusal.code == "malformed_json"


@given(st.binary())
@example(b'{"":')
@example(b'{"x": 1, "y": ' + b"[" * 100_000)
def test_any_bytes_are_decoded_or_refused(body):
    decoded_or_refused(body)


@given(BODIES, st.booleans())
def test_any_json_is_decoded_or_refused_by_name(change, is_complete):
    outcome = decoded_or_refused(json.dumps((VALID if is_complete else {}) | change).encode())
    if isinstance(outcome, ApiError) and outcome.code != "malformed_json":
        assert outcome.param


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_neutral_values_are_accepted_and_others_refused(name):
    for value in NEUTRAL[name]:
        decode(json.dumps(VALID | {name: value}).encode())
    with pytest.raises(ApiError) as caught:
        decode(json.dumps(VALID | {name: 7}).encode())
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", name)
