"""Answers drawn at random from grammars, read by the parsers of their notations."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from neuron.text.answer import AnswerStream
from neuron.text.constraint import AnswerConstraint, answer_grammar
from neuron.text.content import ChoiceContent
from neuron.text.detokenizer import Detokenizer
from neuron.text.events import CallArguments, CallStart, Content
from neuron.text.grammar import UnenforceableSchemaError
from neuron.text.notations import json_rows, python_rows
from neuron.text.notations.known import NOTATIONS
from neuron.text.reasoning import KNOWN_MARKERS, ReasoningSplitter
from tests.stubs.model_dir import END, byte_tokenizer
from tests.text.families import MISTRAL_LIST, rendered, written

WORD = {"type": "string", "enum": ["Oslo", "Rome", 'a "b" c']}
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": WORD, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
}
CONTENT = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
CONTENT |= {"additionalProperties": False}
MAX_TOKENS = 3000
THINK = KNOWN_MARKERS[0]
FAMILIES = [row.name for row in (*json_rows.ROWS, *python_rows.ROWS)]


class Vocabulary:
    """A byte-level tokenizer in which `markers` are tokens of their own."""

    def __init__(self, markers: Iterable[str]) -> None:
        specification = json.loads(byte_tokenizer().to_str())
        specification["added_tokens"] = []
        self.tokenizer = Tokenizer.from_str(json.dumps(specification))
        self.tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in (END, *markers)])
        self.added = {t.content: i for i, t in self.tokenizer.get_added_tokens_decoder().items()}
        self.end_id = self.added[END]
        self.guided = LLTokenizer(self.tokenizer.to_str(), eos_token=self.end_id)


MARKERS = dict.fromkeys(mark for known in NOTATIONS.values() for mark in known.markers)
FULL = Vocabulary([*MARKERS, THINK.open, THINK.close])
BARE = Vocabulary([])  # markers are text like any other


def say(grammar: str, seed: int, vocabulary: Vocabulary = FULL) -> list[int]:
    """Tokens drawn at random from what the grammar allows, up to its end."""
    matcher = LLMatcher(vocabulary.guided, grammar)
    assert not matcher.is_error(), matcher.get_error()
    draw, said = random.Random(seed), []  # noqa: S311
    for _ in range(MAX_TOKENS):
        if matcher.is_stopped():
            return said
        bits = matcher.compute_bitmask()
        allowed = [i for i in range(vocabulary.guided.vocab_size) if bits[i // 8] >> i % 8 & 1]
        # tokens of their own are favoured, so that free text comes to an end
        own = [token for token in allowed if token in vocabulary.added.values()]
        token = draw.choice(own if own and draw.random() < 0.3 else allowed)
        assert matcher.consume_token(token)
        if token == vocabulary.end_id:
            return said
        said.append(token)
    raise AssertionError(f"no end in {MAX_TOKENS} tokens: {vocabulary.tokenizer.decode(said)[-200:]!r}")


def heard(
    name: str, said: list[int], *, thinks: bool, opened: bool = False, vocabulary: Vocabulary = FULL
) -> tuple[str, list[tuple[str, Any]]]:
    """The text and the calls of an answer, as its client gets them."""
    notation = NOTATIONS[name]
    visible = {*notation.visible, THINK.open, THINK.close}
    hidden = {id_ for mark, id_ in vocabulary.added.items() if mark not in visible}
    answer = AnswerStream(
        Detokenizer(vocabulary.tokenizer, hidden),
        ReasoningSplitter(THINK if thinks else None, opened=opened, answers=notation.answers),
        calls=notation.parser(lambda name, index: "id", SCHEMAS),
    )
    events = [event for token in said for event in answer.feed(token)] + answer.finish()
    text = "".join(event.text for event in events if isinstance(event, Content))
    names = [event.name for event in events if isinstance(event, CallStart)]
    arguments = [""] * len(names)
    for event in events:
        if isinstance(event, CallArguments):
            arguments[event.index] += event.text
    return text, [(called, json.loads(given_)) for called, given_ in zip(names, arguments, strict=True)]


def check(calls: list[tuple[str, Any]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(arguments, SCHEMAS[name])


@pytest.mark.parametrize("name", NOTATIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), thinks=st.booleans(), opened=st.booleans(), is_parallel=st.booleans())
def test_required_call_is_generated(name, seed, thinks, opened, is_parallel):
    notation = NOTATIONS[name]
    thinks = thinks and not notation.splits_reasoning
    constraint = AnswerConstraint(calls=list(SCHEMAS.items()), must_call=True, is_parallel=is_parallel)
    thought = (THINK, opened) if thinks else None
    grammar = answer_grammar(constraint, added=FULL.added, notation=notation, thought=thought)
    text, calls = heard(name, say(grammar, seed), thinks=thinks, opened=thinks and opened)
    assert calls
    assert is_parallel or len(calls) == 1
    assert not text.strip()
    check(calls)


@pytest.mark.parametrize("name", [name for name, known in NOTATIONS.items() if not known.splits_reasoning])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_markers_may_be_plain_text(name, seed):
    # one call: drawn byte by byte, many calls may not end in time
    constraint = AnswerConstraint(calls=list(SCHEMAS.items()), must_call=True, is_parallel=False)
    grammar = answer_grammar(constraint, added=BARE.added, notation=NOTATIONS[name], thought=None)
    text, calls = heard(name, say(grammar, seed, BARE), thinks=False, vocabulary=BARE)
    assert calls
    assert not text.strip()
    check(calls)


def accepts(grammar: str, text: str, vocabulary: Vocabulary) -> bool:
    matcher = LLMatcher(vocabulary.guided, grammar)
    tokens = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
    return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("vocabulary", [FULL, BARE], ids=["tokens", "text"])
def test_what_a_template_writes_is_accepted(name, vocabulary):
    calls = [("weather", {"city": 'a "b" c', "days": 3}), ("stop", {}), ("weather", {"city": "Oslo"})]
    constraint = AnswerConstraint(calls=list(SCHEMAS.items()), must_call=True)
    grammar = answer_grammar(constraint, added=vocabulary.added, notation=NOTATIONS[name], thought=None)
    text = rendered(MISTRAL_LIST, calls) if (name, vocabulary) == ("mistral", BARE) else written(name, calls)
    assert accepts(grammar, text.strip(), vocabulary)
    assert not accepts(grammar, text.replace("Oslo", "Bonn").strip(), vocabulary)


@pytest.mark.parametrize("name", NOTATIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_strict_tools_schemas_hold_where_they_are_called(name, seed):
    constraint = AnswerConstraint(calls=list(SCHEMAS.items()))
    grammar = answer_grammar(constraint, added=FULL.added, notation=NOTATIONS[name], thought=None)
    _, calls = heard(name, say(grammar, seed), thinks=False)
    check(calls)


@pytest.mark.parametrize("name", NOTATIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), thinks=st.booleans())
def test_content_follows_its_schema_or_calls_theirs(name, seed, thinks):
    thinks = thinks and not NOTATIONS[name].splits_reasoning
    constraint = AnswerConstraint(content=CONTENT, calls=list(SCHEMAS.items()))
    thought = (THINK, False) if thinks else None
    grammar = answer_grammar(constraint, added=FULL.added, notation=NOTATIONS[name], thought=thought)
    text, calls = heard(name, say(grammar, seed), thinks=thinks)
    assert bool(text.strip()) != bool(calls)
    check(calls)
    if text.strip():
        jsonschema.validate(json.loads(text), CONTENT)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), opened=st.booleans())
def test_reasoning_is_free_and_the_answer_is_not(seed, opened):
    grammar = answer_grammar(
        AnswerConstraint(content=CONTENT), added=FULL.added, notation=None, thought=(THINK, opened)
    )
    text, calls = heard("hermes", say(grammar, seed), thinks=True, opened=opened)
    assert not calls
    jsonschema.validate(json.loads(text), CONTENT)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("hunyuan", "<answer>\n", "\n</answer>"), ("solar", "<|content|>", "<|end|>")],
)
def test_content_may_stand_in_the_familys_wrapper(name, before, after):
    vocabulary = Vocabulary(NOTATIONS[name].visible)
    constraint = AnswerConstraint(content=CONTENT)
    grammar = answer_grammar(constraint, added=vocabulary.added, notation=NOTATIONS[name], thought=None)
    assert accepts(grammar, before + '{"ok": true}' + after, vocabulary)
    assert accepts(grammar, '{"ok": true}', vocabulary)
    assert not accepts(grammar, before + '{"ok": 1}' + after, vocabulary)


def test_unquoted_text_can_be_held_to_an_enum_only():
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}}
    constraint = AnswerConstraint(calls=[("f", schema)], must_call=True)
    with pytest.raises(UnenforceableSchemaError, match="maxLength"):
        answer_grammar(constraint, added=FULL.added, notation=NOTATIONS["qwen-xml"], thought=None)


def test_a_choice_that_names_a_control_token_is_text():
    constraint = AnswerConstraint(ChoiceContent(["<think>", f"a{END}"]))
    grammar = answer_grammar(constraint, added=FULL.added, notation=None, thought=None)
    plain = byte_tokenizer().encode("<").ids[0]
    matcher = LLMatcher(FULL.guided, grammar)
    assert not matcher.try_consume_tokens([FULL.added["<think>"]])
    assert matcher.try_consume_tokens([plain])
