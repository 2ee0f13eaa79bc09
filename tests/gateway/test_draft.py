from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.gateway.record.draft import RecordDraft


def finish_of(body: bytes) -> str:
    draft = RecordDraft("r", "openai-chat")
    draft.note_answer(body)
    return draft.entry.finish_reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"choices": [{"finish_reason":"stop"}]}', "stop"),
        (b'{"choices": [{"finish_reason" :\r\n\t "tool_calls"}]}', "tool_calls"),
        (b'{"choices": [{"finish_reason": null}, {"finish_reason": "length"}]}', "length"),
        (b'{"choices": [{"finish_reason": "%s"}]}' % (b"x" * 30), "x" * 30),
        (b'{"choices": [{"finish_reason": "%s"}]}' % (b"x" * 31), ""),
        (b'{"choices": [{"finish_reason": "a b"}]}', ""),
        (b'{"choices": [{"finish_reason": ""}]}', ""),
        (b'{"choices": [], "finish_reason": "st\\u006fp"}', ""),
        (b'{"choices": []}', ""),
    ],
)
def test_the_first_plain_finish_reason_counts(body, reason):
    assert finish_of(body) == reason


@given(st.text(), st.sampled_from([None, 0, 2]))
def test_a_finish_reason_is_what_json_says_or_nothing(reason, indent):
    body = json.dumps({"finish_reason": reason}, indent=indent, ensure_ascii=False).encode(errors="replace")
    assert finish_of(body) in {reason, ""}
