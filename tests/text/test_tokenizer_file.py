from __future__ import annotations

import json
from base64 import b64encode

import pytest

from neuron.text.tokenizer_file import BrokenTokenizerError, read_tokenizer

PIECES = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"hell", b"hello"]
SPECIAL = ["<unk>", "<s>", "</s>"]


@pytest.fixture
def directory(tmp_path):
    """A model without a tokenizer of any kind."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral"}))
    return tmp_path


def tekken(*, special=True):
    vocab = [{"rank": i, "token_bytes": b64encode(piece).decode()} for i, piece in enumerate(PIECES)]
    config = {"pattern": r"\s+|\w+|[^\s\w]+", "default_num_special_tokens": len(SPECIAL), "version": "v3"}
    names = {"special_tokens": [{"rank": i, "token_str": name} for i, name in enumerate(SPECIAL)]}
    return json.dumps({"config": config, "vocab": vocab} | (names if special else {}))


def test_tekken_is_converted_and_nothing_is_written(directory):
    (directory / "tekken.json").write_text(tekken())
    before = sorted(directory.iterdir())
    tokenizer = read_tokenizer(directory)
    assert tokenizer.encode("hello hell").ids == [
        len(SPECIAL) + PIECES.index(p) for p in (b"hello", b" ", b"hell")
    ]
    assert tokenizer.token_to_id("</s>") == 2
    assert sorted(directory.iterdir()) == before


def test_tiktoken_is_converted(directory):
    pytest.importorskip("tiktoken")
    lines = [b"%s %d\n" % (b64encode(piece), rank) for rank, piece in enumerate(PIECES)]
    (directory / "tiktoken.model").write_bytes(b"".join(lines))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert read_tokenizer(directory).encode("hello").ids == [PIECES.index(b"hello")]


def test_sentencepiece_is_converted(directory):
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    text = iter(["hello world of small models"] * 50)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_prefix=str(directory / "tokenizer"), vocab_size=60, model_type="bpe",
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    tokenizer = read_tokenizer(directory)
    assert tokenizer.decode(tokenizer.encode("hello models").ids) == "hello models"


def test_a_missing_package_is_named_with_the_cure(directory, monkeypatch):
    (directory / "tokenizer.model").write_bytes(b"no model")
    monkeypatch.setattr("neuron.text.tokenizer_file.find_spec", lambda name: name == "transformers" or None)
    with pytest.raises(
        BrokenTokenizerError, match=r"tokenizer\.model: .* pip install sentencepiece protobuf"
    ):
        read_tokenizer(directory)


def test_a_file_that_cannot_be_converted_is_named_with_its_cause(directory):
    (directory / "tekken.json").write_text("{}")
    with pytest.raises(BrokenTokenizerError, match=r"tekken\.json: cannot be converted: .*config"):
        read_tokenizer(directory)


def test_a_directory_without_any_tokenizer_says_what_could_be_there(directory):
    with pytest.raises(BrokenTokenizerError, match=r"tokenizer\.json: missing, .*tekken\.json"):
        read_tokenizer(directory)
