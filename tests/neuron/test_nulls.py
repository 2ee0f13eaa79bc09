"""A null is the default: of every optional field, at every depth, and of parameters unknown here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.api.bodies import chat, completion, embedding, ranking
from neuron.wire import ApiError
from tests.stubs.nulls import optional_places, with_nulls, without

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
GENERATION = {
    "model": "m", "temperature": 1, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "repetition_penalty": 1.1,
    "presence_penalty": 1, "frequency_penalty": 1, "logit_bias": {"5": 1}, "seed": 1, "n": 2, "max_tokens": 9,
    "min_tokens": 0, "stop": ["x"], "stop_token_ids": [1], "ignore_eos": False, "stream": True, "user": "u",
    "stream_options": {"include_usage": True, "include_obfuscation": False}, "metadata": {"a": "b"},
    "store": True, "service_tier": "auto", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
    "safety_identifier": "s",
}  # fmt: skip
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "x"}, PICTURE], "name": "n"},
    {"role": "assistant", "content": "x", "reasoning_content": "r", "tool_calls": [CALLED], "refusal": "r"},
    {"role": "tool", "content": "x", "tool_call_id": "c"},
]
CHAT = GENERATION | {
    "messages": MESSAGES, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 2,
    "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "auto", "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object"}, "strict": True, "description": "d",
    }},
    "add_generation_prompt": True, "continue_final_message": False, "documents": [{"title": "t"}],
    "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low", "verbosity": "low",
    "prediction": {"type": "content", "content": "x"}, "modalities": ["text"], "functions": [],
    "prompt_cache_options": {},
    "function_call": "none",
}  # fmt: skip
COMPLETION = GENERATION | {"prompt": "x", "echo": True, "logprobs": 2, "best_of": 2, "suffix": ""}
EMBEDDING = {
    "model": "m",
    "input": "x",
    "encoding_format": "base64",
    "dimensions": 3,
    "user": "u",
    "task": "query",
}
RERANK = {
    "model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True,
    "max_tokens_per_doc": 9, "truncate_prompt_tokens": 3, "user": "u",
}  # fmt: skip
SCORE = {
    "model": "m", "text_1": "q", "text_2": ["a"], "truncate_prompt_tokens": 3, "user": "u",
    "encoding_format": "float",
}  # fmt: skip
REQUIRED = {"messages", "prompt", "input", "query", "documents", "text_1", "text_2"}
FORMS = {  # of an answer; each excludes the others, and response_format
    "structured_outputs": {"choice": ["a"], "json_object": False, "disable_fallback": False},
    "guided_json": {"type": "object"}, "guided_regex": "a", "guided_choice": ["a"],
    "guided_grammar": "start: \"a\"",
}  # fmt: skip
FREE = {
    "logit_bias", "metadata", "parameters", "schema", "documents", "chat_template_kwargs", "prediction",
    "guided_json",
}  # fmt: skip
BODIES = {
    "chat": (chat.decode, CHAT),
    "completions": (completion.decode, COMPLETION | {"response_format": CHAT["response_format"]}),
    "embeddings": (embedding.decode, EMBEDDING),
    "rerank": (ranking.decode_rerank, RERANK),
    "score": (ranking.decode_score, SCORE),
} | {name: (completion.decode, COMPLETION | {name: form}) for name, form in FORMS.items()}


def is_accepted(decode, body) -> bool:
    try:
        decode(json.dumps(body).encode())
    except ApiError:
        return False
    return True


PLACES = {
    name: optional_places(body, lambda changed, decode=decode: is_accepted(decode, changed), free=FREE)
    for name, (decode, body) in BODIES.items()
}


@pytest.mark.parametrize("endpoint", BODIES)
@given(data=st.data())
def test_null_is_the_default_of_every_optional_field(endpoint, data):
    decode, body = BODIES[endpoint]
    places = data.draw(st.lists(st.sampled_from(PLACES[endpoint]), max_size=4))
    shortened = without(body, places)
    if is_accepted(decode, shortened):  # one may need another
        assert decode(json.dumps(with_nulls(body, places)).encode()) == decode(json.dumps(shortened).encode())


@pytest.mark.parametrize("endpoint", BODIES)
def test_all_fields_at_once_may_be_null(endpoint):
    decode, body = BODIES[endpoint]
    required = {name: body[name] for name in ("model", *REQUIRED) if name in body}
    nulls = dict.fromkeys(body) | {"unheard_of": None} | required
    assert decode(json.dumps(nulls).encode()) == decode(json.dumps(required).encode())


def test_every_parameter_is_in_the_bodies_above():
    assert set(chat.ChatBody.__struct_fields__) - {"audio", "web_search_options"} == {*CHAT, *FORMS}
    assert set(completion.CompletionBody.__struct_fields__) == {*COMPLETION, *FORMS, "response_format"}
    assert set(embedding.EmbeddingBody.__struct_fields__) == set(EMBEDDING)
    assert set(ranking.RerankBody.__struct_fields__) == set(RERANK)
    assert set(ranking.ScoreBody.__struct_fields__) == set(SCORE)


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_required_field_that_is_null_is_named(endpoint):
    decode, body = BODIES[endpoint]
    for name in {name for name in REQUIRED & set(body) if (name,) not in PLACES[endpoint]}:
        with pytest.raises(ApiError) as caught:
            decode(json.dumps(body | {name: None}).encode())
        assert caught.value.param == name
