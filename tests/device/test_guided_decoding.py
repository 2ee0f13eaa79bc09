"""Guided answers of a model with random weights follow their schema."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from neuron.engine.drafter import DraftSource, NgramDrafter
from neuron.engine.grammar_matcher import GrammarCompiler, GrammarError, LLGuidanceMatcher
from neuron.engine.request import GrammarFailure
from neuron.models.decoder import AnyDecoder
from neuron.pipe import Finished, Refused, Sampling, Submit
from neuron.step import CacheShape
from tests.device.serving import Serving, decoder, prompt
from tests.device.zoo import save
from tests.stubs.model_dir import END, byte_tokenizer

SHAPE = CacheShape(num_pages=400, page_size=8, num_slots=32, context=512)
WARM = Sampling(temperature=1.0, seed=3)
TOKENIZER = byte_tokenizer()
END_ID = TOKENIZER.token_to_id(END)
# A string's characters are printable ASCII only, so that any answer decodes.
TEXT = {"type": "string", "pattern": "^[ -!#-[\\]-~]*$", "maxLength": 6}

LEAVES = st.sampled_from([
    TEXT, {"type": "boolean"}, {"type": "null"}, {"enum": ["a", 1, None]}, {"const": "x"},
    {"type": "integer", "minimum": -5, "maximum": 500}, {"type": "number", "minimum": 0, "maximum": 1},
])  # fmt: skip


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    required = list(properties)[::2]
    return {
        "type": "object", "properties": properties, "required": required, "additionalProperties": False
    }  # fmt: skip


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "some name"]), inner, max_size=3).map(_object),
        st.fixed_dictionaries({"items": inner}).map(lambda s: s | {"type": "array", "maxItems": 3}),
        st.lists(inner, min_size=1, max_size=2).map(lambda schemas: {"anyOf": schemas}),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> AnyDecoder:
    path = tmp_path_factory.mktemp("guided") / "model"
    return decoder(save(path, vocab_size=TOKENIZER.get_vocab_size(), max_position_embeddings=1024))


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    TOKENIZER.save(str(file))
    return file


@pytest.fixture(scope="module")
def grammars(tokenizer_file: Path) -> GrammarCompiler:
    return GrammarCompiler(tokenizer_file)


def grammar(schema: Any) -> str:
    compact = {"x-guidance": {"whitespace_flexible": False}}
    return "start: %json " + json.dumps(schema | compact)


class GuidedServing(Serving):
    def __init__(
        self, loaded: AnyDecoder, shape: CacheShape = SHAPE, drafts: DraftSource | None = None
    ) -> None:
        super().__init__(loaded, shape, vocab=TOKENIZER.get_vocab_size(), drafts=drafts)

    def guided(self, number: int, guide: Any, sampling: Sampling = WARM, max_tokens: int = 400) -> None:
        self.tokens[number] = []
        request = Submit(number, "m", prompt(number, 9), max_tokens, sampling, [END_ID])
        assert self.scheduler.submit(request, 0.0, guide) is None

    def text(self, number: int) -> str:
        return TOKENIZER.decode(self.tokens[number], skip_special_tokens=False)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schemas=st.lists(SCHEMAS, min_size=2, max_size=5), temperature=st.sampled_from([0.0, 1.0, 2.0]))
def test_answers_validate_and_end_with_the_grammar(loaded, grammars, schemas, temperature):
    serving = GuidedServing(loaded)
    for number, schema in enumerate(schemas):
        sampling = Sampling(temperature=temperature, seed=number)
        serving.guided(number, grammars.compile(grammar(schema), [END_ID]), sampling)
    serving.submit(99, prompt(99, 9), WARM, max_tokens=20)
    serving.drain()
    for number, schema in enumerate(schemas):
        end = serving.ends[number]
        assert isinstance(end, Finished)
        assert end.reason == "stop"
        jsonschema.validate(json.loads(serving.text(number)), schema)
    assert len(serving.tokens[99]) == 20  # a request without a grammar is not constrained


def test_preempted_and_batched_answers_are_the_same(loaded, grammars):
    schema = _object({"list": {"type": "array", "items": TEXT, "minItems": 4, "maxItems": 8}})
    tight = CacheShape(num_pages=24, page_size=8, num_slots=8, context=128)
    crowded = GuidedServing(loaded, tight)
    for number in range(6):
        crowded.guided(number, grammars.compile(grammar(schema), [END_ID]), max_tokens=100)
    crowded.drain()
    assert crowded.num_joined > 6
    for number in range(6):
        alone = GuidedServing(loaded)
        alone.guided(number, grammars.compile(grammar(schema), [END_ID]), max_tokens=100)
        assert alone.drain()[number] == crowded.tokens[number]


def test_the_token_limit_cuts_a_guided_answer_short(loaded, grammars):
    serving = GuidedServing(loaded)
    serving.guided(1, grammars.compile(grammar({"const": "a long constant"}), [END_ID]), max_tokens=5)
    serving.drain()
    assert serving.text(1) == '"a lo'
    end = serving.ends[1]
    assert isinstance(end, Finished)
    assert end.reason == "length"


@pytest.mark.parametrize("text", ["<think>", "a</think>b", "<|im_end|>"])
def test_text_that_must_come_may_spell_a_control_token(loaded, grammars, text):
    serving = GuidedServing(loaded)
    serving.guided(1, grammars.compile(grammar({"const": text}), [END_ID]), max_tokens=50)
    serving.drain()
    assert json.loads(serving.text(1)) == text


LONG = {f"field {index}": {"type": "string", "maxLength": 500 + index} for index in range(20)}


def written(guide: LLGuidanceMatcher, text: str) -> GrammarFailure | None:
    """How the grammar ends the answer `text`; None when it can go on."""
    return next(filter(None, map(guide.accept_token, TOKENIZER.encode(text).ids)), None)


def long_answer(seed: int) -> str:
    draw = random.Random(seed)  # noqa: S311
    return json.dumps({name: "".join(draw.choices("abc ,.", k=500)) for name in LONG}, separators=(",", ":"))


def test_twenty_long_answers_to_one_schema_are_all_valid(grammars):
    for seed in range(20):
        guide = grammars.compile(grammar(_object(LONG) | {"required": list(LONG)}), [END_ID])
        answer = long_answer(seed)
        assert written(guide, answer) is None
        assert guide.is_terminated
        jsonschema.validate(json.loads(answer), _object(LONG))


@pytest.fixture
def few_states(monkeypatch):
    limits = LLParserLimits(max_lexer_states=600)
    monkeypatch.setattr("neuron.engine.grammar_matcher.LIMITS", limits)


def test_an_answer_that_uses_up_the_states_fails_and_the_next_one_does_not_notice(grammars, few_states):
    text = grammar(_object(LONG) | {"required": list(LONG)})
    failed = written(grammars.compile(text, [END_ID]), long_answer(0))
    assert failed is not None
    assert (failed.status, failed.code) == (400, "grammar_exhausted")
    assert "too many states" in failed.message
    assert written(grammars.compile(text, [END_ID]), long_answer(1)[:40]) is None


def test_a_used_up_grammar_ends_its_request_as_an_error_and_others_go_on(loaded, grammars, few_states):
    serving = GuidedServing(loaded)
    endless = {"type": "string", "minLength": 450, "maxLength": 500}
    serving.guided(1, grammars.compile(grammar(endless), [END_ID]))
    serving.guided(2, grammars.compile(grammar({"const": "short"}), [END_ID]))
    serving.drain()
    end = serving.ends[1]
    assert isinstance(end, Refused)
    assert (end.status, end.code) == (400, "grammar_exhausted")
    assert serving.tokens[1]  # it had begun
    assert serving.text(2) == '"short"'


def test_a_grammar_whose_first_mask_takes_too_much_is_refused(grammars, monkeypatch):
    monkeypatch.setattr("neuron.engine.grammar_matcher.LIMITS", LLParserLimits(max_lexer_states=4))
    with pytest.raises(GrammarError, match="too many states"):
        grammars.compile("start: /[a-z]{0,9}[0-9]/", [END_ID])


@pytest.mark.parametrize(
    "text", ['start: %json {"type": "objekt"}', "start: nothing", "", "start: /(?<=a)b/"]
)
def test_an_invalid_grammar_is_refused_with_the_reason(grammars, text):
    with pytest.raises(GrammarError, match=r"\w+"):
        grammars.compile(text, [END_ID])


def test_a_token_against_the_grammar_ends_the_request_and_not_the_engine(grammars):
    guide = grammars.compile(grammar({"const": "x"}), [END_ID])
    failed = guide.accept_token(TOKENIZER.encode("7").ids[0])
    assert failed is not None
    assert (failed.status, failed.code) == (500, "engine_error")
    assert "grammar cannot go on" in failed.message


def test_drafts_follow_the_grammar_and_change_no_answer(loaded, grammars):
    schemas = {1: {"const": "over and over and over and over and over"}, 2: TEXT, 3: {"enum": ["a b a b", 7]}}
    plain = GuidedServing(loaded)
    drafted = GuidedServing(loaded, drafts=DraftSource(NgramDrafter))
    for serving in (plain, drafted):
        for number, schema in schemas.items():
            serving.guided(number, grammars.compile(grammar(schema), [END_ID]), max_tokens=60)
        serving.drain()
    assert drafted.tokens == plain.tokens
    assert [end.reason for end in drafted.ends.values()] == [end.reason for end in plain.ends.values()]
    assert drafted.scheduler.status().accepted > 10


def test_what_may_follow_drafts_is_found_without_taking_them(grammars):
    guide = grammars.compile(grammar({"enum": ["abc", "abd"]}), [END_ID])
    first, ids = guide.allowed, TOKENIZER.encode('"abc"').ids
    masks = guide.masks_after(ids)
    assert len(masks) == 4, "the last token ends the answer"
    assert guide.masks_after(TOKENIZER.encode('"ax').ids) == masks[:2]
    assert guide.allowed == first
    for token, mask in zip(ids, masks, strict=False):
        assert guide.accept_token(token) is None
        assert guide.allowed == mask
