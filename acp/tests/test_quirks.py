from __future__ import annotations

import pytest

from helexa_acp.provider.quirks import QuirkBook, Quirks, learn


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ("Unrecognized request argument supplied: stream_options", "stream_options", False),
        ("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "max_tokens_field", "max_completion_tokens"),
        ("The `reasoning_content` in the thinking mode must be passed back to the API.", "reasoning_roundtrip", True),
        ("thinking is enabled but reasoning_content is missing in assistant tool call message at index 2", "reasoning_roundtrip", True),
        ("Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.", "short_tool_ids", True),
        ("Unsupported value: 'temperature' does not support 0.2 with this model.", "sampling", False),
        ("thinking.type.enabled is not supported; use adaptive thinking", "thinking", "adaptive"),
        ("Unknown parameter: 'reasoning_effort'", "effort", False),
        ("registry/x does not support tools", "tools", False),
        ("image_url is not supported by this model", "images", False),
        ("Encrypted content is not supported with this model: encrypted_content", "encrypted_reasoning", False),
        ("messages.0.cache_control: Extra inputs are not permitted", "cache_control", False),
        ("streaming is not supported", "stream", False),
        ("role 'system' is not supported", "system_role", "developer"),
    ],
)  # fmt: skip
def test_refusals_teach_quirks(words, field, value):
    learned = learn(Quirks(), 400, words)
    assert learned is not None
    assert learned.changed() == {field: value}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Invalid schema for function 'read': tools[0].function.parameters"),
        (400, "messages: at least one message is required"),
        (500, "stream_options"),
        (401, "stream_options"),
        (400, ""),
    ],
)
def test_other_refusals_teach_nothing(status, words):
    assert learn(Quirks(), status, words) is None


def test_a_quirk_is_not_learned_twice():
    assert learn(Quirks(stream_options=False), 400, "stream_options") is None


def test_two_agents_share_the_quirk_book(tmp_path):
    path = tmp_path / "quirks.json"
    one, two = QuirkBook(path), QuirkBook(path)
    one.remember("a:m", Quirks(stream=False))
    two.remember("b:m", Quirks(tools=False))
    three = QuirkBook(path)
    assert three.get("a:m") == Quirks(stream=False)
    assert three.get("b:m") == Quirks(tools=False)


def test_a_damaged_quirk_book_counts_as_empty(tmp_path):
    path = tmp_path / "quirks.json"
    path.write_text('{"a:m": {"colour": 1}, "b:m": 3}')
    assert QuirkBook(path).get("a:m") == Quirks()
    path.write_text("{")
    assert QuirkBook(path).get("a:m") == Quirks()
