#!/usr/bin/env bash
# llguidance 1.9.1: a matcher that reaches `max_lexer_states` in the middle of a value raises nothing. Its bitmask
# then allows the end token alone, so that a sampler ends the answer there, as if it were complete; only
# `is_error()` and `get_error()` tell. A copy made by `deep_copy()` before the first token shares what was used up:
# once the original has reached the limit, the copy fails at its own first mask.
# Seen: the original stops after 25 bytes of a valid document and the copy at byte 0, each with the end token only;
# without the limit the same document is accepted whole.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet llguidance==1.9.1
"$work/venv/bin/python" - <<'PYTHON'
import json

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

tokenizer = LLTokenizer("byte")
schema = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 400}, "b": {"type": "string", "maxLength": 399}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
document = json.dumps({"a": "x" * 400, "b": "y" * 399}).encode()


def follow(matcher):
    """The number of bytes that were allowed, and the tokens that the next mask allows."""
    for at, byte in enumerate(document):
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(tokenizer.vocab_size) if mask[token // 8] >> (token % 8) & 1]
        if byte not in allowed:
            return at, allowed
        assert matcher.consume_token(byte)
    return len(document), []


limited = LLMatcher(tokenizer, grammar, log_level=0, limits=LLParserLimits(max_lexer_states=200))
copy = limited.deep_copy()
first, second = follow(limited), follow(copy)
print("original:", first, limited.get_error().splitlines()[0])
print("copy:    ", second, copy.get_error().splitlines()[0])
assert 0 < first[0] < len(document) and first[1] == [tokenizer.eos_token] and limited.is_error()
assert second == (0, [tokenizer.eos_token]) and copy.is_error()
free = LLMatcher(tokenizer, grammar, log_level=0)
assert follow(free) == (len(document), []) and free.is_accepting()
PYTHON
