"""Text of GGUF files: the tokens of transformers' own tokenizers, and what begins, ends and renders it."""

from __future__ import annotations

import inspect
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GemmaTokenizer, GPT2Tokenizer, LlamaTokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer

from neuron.model_texts import read_text
from neuron.models.checkpoint import ModelLoadError
from neuron.models.gguf.pre_tokenizers import PRE_TOKENIZERS
from neuron.models.gguf.text import read_gguf_text
from neuron.text.directory import TextSettings
from neuron.text.rendering import fitted_template
from tests.gguf.texts import (
    CONTROLS,
    OF_USERS,
    SAMPLES,
    byte_level,
    byte_level_keys,
    sentencepiece_keys,
    train_sentencepiece,
    write_keys,
)

VOCABULARY, MERGES = byte_level()
LAST = len(VOCABULARY) + len(CONTROLS) + len(OF_USERS) - 1


def with_added(tokenizer):
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROLS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in OF_USERS])
    return tokenizer


def of_class(kind):
    none = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"))
    return with_added(kind(vocab=dict(VOCABULARY), merges=list(MERGES), **none).backend_tokenizer)


def of_llama_3():
    """As its tokenizer.json says, with the pattern that transformers converts it by."""
    tokenizer = Tokenizer(models.BPE(vocab=VOCABULARY, merges=MERGES, ignore_merges=True))
    pattern = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    signs = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, signs])
    tokenizer.decoder = decoders.ByteLevel()
    return with_added(tokenizer)


@cache
def pair(pre, folder):
    makers = {
        "qwen2": lambda: of_class(Qwen2Tokenizer),
        "qwen35": lambda: of_class(Qwen3_5Tokenizer),
        "gpt-2": lambda: of_class(GPT2Tokenizer),
        "llama-bpe": of_llama_3,
    }
    path = write_keys(folder / f"{pre}.gguf", byte_level_keys(VOCABULARY, MERGES, pre) | NO_BOS)
    return makers[pre](), read_gguf_text(path).tokenizer


NO_BOS = {"tokenizer.ggml.add_bos_token": False}


@cache
def sentencepiece_pair(kind, folder):
    path = train_sentencepiece(folder)
    keys = sentencepiece_keys(path) | NO_BOS
    if kind is GemmaTokenizer:
        keys["tokenizer.ggml.add_space_prefix"] = False
    tokenizer = kind.from_pretrained(folder).backend_tokenizer
    return tokenizer, read_gguf_text(write_keys(folder / f"{kind.__name__}.gguf", keys)).tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


def assert_same(pair, text):
    expected, ours = pair
    ids = expected.encode(text, add_special_tokens=False).ids
    assert ours.encode(text).ids == ids
    assert ours.decode(ids, skip_special_tokens=False) == expected.decode(ids, skip_special_tokens=False)


PIECES = [*SAMPLES, *CONTROLS, *OF_USERS, "'LL", "a\u0301", "\r\n", "  ", "9876", "Ab", "\u0e33"]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=6).map("".join)


@pytest.mark.parametrize("pre", ["qwen2", "qwen35", "gpt-2", "llama-bpe"])
@given(text=TEXTS)
def test_byte_level_text_has_the_tokens_of_the_models_own_tokenizer(folder, pre, text):
    assert_same(pair(pre, folder), text)


@given(text=TEXTS)
def test_gemmas_text_has_the_tokens_of_its_own_tokenizer(folder, text):
    assert_same(sentencepiece_pair(GemmaTokenizer, folder), text)


@given(text=TEXTS.filter(lambda text: text and text[0] not in " ▁<" and "<tool>" not in text))
def test_llamas_text_has_the_tokens_of_its_own_tokenizer(folder, text):
    """But for spaces at the beginning and after added tokens, of which releases of transformers differ."""
    assert_same(sentencepiece_pair(LlamaTokenizer, folder), text)


def test_only_mistrals_later_vocabularies_leave_text_after_added_tokens_alone(folder, tmp_path):
    path = train_sentencepiece(tmp_path)
    keys = sentencepiece_keys(path) | NO_BOS
    before = read_gguf_text(write_keys(tmp_path / "a.gguf", keys)).tokenizer
    assert before.encode("a<tool>b").tokens == ["▁a", "<tool>", "▁b"]
    keys["tokenizer.ggml.tokens"][-1], keys["tokenizer.ggml.token_type"][-1] = "[INST]", 3
    later = read_gguf_text(write_keys(tmp_path / "b.gguf", keys)).tokenizer
    assert later.encode("a<tool>b").tokens == ["▁a", "<tool>", "b"]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("tekken", "camelCase isn't 123 a/b//\n x", "camel|Case| isn|'t| |1|2|3| a|/b|//\n| x"),
        ("gpt-4o", "camelCase isn't 1234 a//\n x", "camel|Case| isn't| |123|4| a|//\n| x"),
        ("smollm", "abc 1234", "abc| |1|2|3|4"),
        ("command-r", "abc12", "abc|1|2"),
        ("deepseek-v3", "ab12345東京 .com", "ab|123|45|東京| .|com"),
        ("seed-coder", "a !?\n12", "a| !?|\n|1|2"),
    ],
)
def test_text_is_split_as_the_models_split_it(pre, text, pieces):
    split = PRE_TOKENIZERS[pre].build().pre_tokenize_str(text)
    assert "|".join(text[start:end] for _, (start, end) in split) == pieces


# --- ends -------------------------------------------------------------------------------------------------


def gpt2_text(tmp_path, pre="qwen2", architecture="llama", **keys):
    named = {f"tokenizer.{key}".replace("__", "."): value for key, value in keys.items()}
    keys = byte_level_keys(VOCABULARY, MERGES, pre) | named
    keys = {key: value for key, value in keys.items() if value is not None}
    return read_gguf_text(write_keys(tmp_path / "model.gguf", keys, architecture))


@pytest.mark.parametrize(
    ("pre", "flag", "begins"),
    [("qwen2", None, False), ("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", True, True)],
)
def test_whether_a_text_begins_with_a_token_is_the_files_say_or_its_kinds(tmp_path, pre, flag, begins):
    text = gpt2_text(tmp_path, pre, ggml__bos_token_id=3, ggml__add_bos_token=flag)
    assert (text.tokenizer.encode("hi").ids[0] == 3) == begins
    assert text.tokenizer.encode("hi", add_special_tokens=False).ids[0] != 3


def test_sentencepiece_begins_with_a_token_unless_the_file_says_otherwise(folder, tmp_path):
    keys = sentencepiece_keys(train_sentencepiece(tmp_path))
    without = {key: value for key, value in keys.items() if not key.endswith("_id")}
    text = read_gguf_text(write_keys(tmp_path / "model.gguf", without))
    assert text.tokenizer.encode("hi").tokens[0] == "<s>"
    assert text.config == {"bos_token_id": 1, "eos_token_id": [2]}


def test_what_ends_an_answer_is_told_by_keys_and_by_texts(tmp_path):
    first = len(VOCABULARY)
    text = gpt2_text(tmp_path, ggml__eos_token_id=first, ggml__eot_token_id=5)
    assert text.config["eos_token_id"] == [first, 5, first + 2]  # and <|im_end|>


def test_a_message_that_ends_in_harmony_is_not_the_answers_end(tmp_path):
    tokens = [*VOCABULARY, "<|end|>", "<|return|>", "<|call|>"]
    kinds = [1] * len(VOCABULARY) + [3] * 3
    text = gpt2_text(
        tmp_path, "gpt-4o", ggml__tokens=tokens, ggml__token_type=kinds, ggml__eos_token_id=len(tokens) - 2
    )
    assert text.config["eos_token_id"] == [len(tokens) - 2, len(tokens) - 1]


def test_tokens_of_phi_3_swallow_the_white_space_after_them(tmp_path):
    keys = sentencepiece_keys(train_sentencepiece(tmp_path)) | NO_BOS
    tokens = {}
    for architecture in ("phi3", "llama"):
        text = read_gguf_text(write_keys(tmp_path / "model.gguf", keys, architecture))
        ids = text.tokenizer.encode("a<tool>\n b").ids
        tokens[architecture] = [text.tokenizer.id_to_token(id_) for id_ in ids]
    assert tokens["phi3"] == ["▁a", "<tool>", "▁b"]
    assert "\n" in tokens["llama"]


# --- templates and defaults -------------------------------------------------------------------------------

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"


def test_templates_names_and_defaults_are_the_files(tmp_path):
    keys = byte_level_keys(VOCABULARY, MERGES, "qwen2") | {
        "tokenizer.chat_template": "{{ eos_token }}" + TEMPLATE,
        "tokenizer.chat_template.tool_use": "tools" + TEMPLATE,
        "tokenizer.chat_templates": ["tool_use"],
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
    }
    path = write_keys(tmp_path / "model.gguf", keys)
    text = read_text(path, TextSettings(), fitted_template)
    user = [{"role": "user", "content": "hi"}]
    assert text.template is not None
    assert text.template.render(user).text == "<|im_end|><|im_start|>hi"
    assert text.template_for(tools=True).render(user).text == "tools<|im_start|>hi"
    assert (text.defaults.temperature, text.defaults.top_k) == (0.6, 20)
    assert text.eos_ids == (len(VOCABULARY) + 2, len(VOCABULARY))
    assert text.hidden_ids == frozenset(range(len(VOCABULARY), len(VOCABULARY) + 3))


def test_a_setting_goes_before_the_files_template(tmp_path):
    (tmp_path / "own.jinja").write_text("own{{ messages[0].content }}")
    path = write_keys(tmp_path / "model.gguf", byte_level_keys(VOCABULARY, MERGES, "qwen2"))
    text = read_text(path, TextSettings(chat_template="own.jinja"), fitted_template)
    assert text.template is not None
    assert text.template.render([{"role": "user", "content": "hi"}]).text == "ownhi"


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ggml__pre": "volapuk"}, "tokenizer.ggml.pre is 'volapuk', which is not known here; .*qwen2.* are"),
        ({"ggml__pre": None}, "lacks the key tokenizer.ggml.pre"),
        ({"ggml__model": "bert"}, "tokenizer.ggml.model is 'bert'"),
        ({"ggml__model": None}, "lacks the key tokenizer.ggml.model"),
        ({"ggml__merges": None}, "lacks the key tokenizer.ggml.merges"),
        ({"ggml__merges": ["ab"]}, "tokenizer.ggml.merges holds 'ab' as number 0, which joins nothing"),
        ({"ggml__merges": ["a zzzz"]}, "tokenizer.ggml.merges does not fit the tokens"),
        ({"ggml__tokens": ["a", "b", "a"]}, "tokenizer.ggml.tokens holds 'a' twice, as 0 and as 2"),
        ({"ggml__tokens": [1, 2]}, "tokenizer.ggml.tokens is .*, but must be a list of texts"),
        ({"ggml__token_type": [1]}, "tokenizer.ggml.token_type has 1 entries for"),
        ({"ggml__token_type": [9] * (LAST + 1)}, "tokenizer.ggml.token_type holds 9"),
        ({"ggml__add_bos_token": True}, "tokenizer.ggml.add_bos_token asks for a token"),
        ({"ggml__add_bos_token": 1}, "tokenizer.ggml.add_bos_token is 1, but must be true or false"),
        ({"ggml__eos_token_id": "x"}, "tokenizer.ggml.eos_token_id is 'x', but must be a token's number"),
        ({"chat_template": 1}, "tokenizer.chat_template is 1, but must be a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_key(tmp_path, keys, message):
    with pytest.raises(ModelLoadError, match=rf"model.gguf: {message}"):
        gpt2_text(tmp_path, **keys)


def test_sentencepiece_without_scores_is_refused(tmp_path):
    keys = sentencepiece_keys(train_sentencepiece(tmp_path))
    del keys["tokenizer.ggml.scores"]
    with pytest.raises(ModelLoadError, match=r"tokenizer\.ggml\.scores is missing"):
        read_gguf_text(write_keys(tmp_path / "model.gguf", keys))
