from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from neuron.text.detokenizer import MAX_OPEN_TOKENS, Detokenizer
from tests.stubs.model_dir import byte_tokenizer

TOKENIZER = byte_tokenizer()
BYTES = sorted(range(256), key=lambda token: TOKENIZER.id_to_token(token) or "")
END_ID = TOKENIZER.token_to_id("<|im_end|>")


def pieces_of(ids: list[int], hidden: tuple[int, ...] = ()) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER, hidden)
    return [detokenizer.feed(token) for token in ids] + [detokenizer.finish()]


@given(st.text())
def test_pieces_hold_whole_characters_and_join_to_the_text(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    pieces = pieces_of(ids)
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@given(st.lists(st.sampled_from(BYTES), max_size=60))
def test_any_bytes_are_decoded_as_the_tokenizer_does(ids):
    expected = TOKENIZER.decode(ids, skip_special_tokens=False)
    # of bytes that are no text, only how many U+FFFD stand for them depends on the cut
    assert re.sub("\ufffd+", "\ufffd", "".join(pieces_of(ids))) == re.sub("\ufffd+", "\ufffd", expected)


@given(st.lists(st.sampled_from(BYTES), max_size=60))
def test_detokenizer_holds_no_more_than_a_character_can_need(ids):
    detokenizer = Detokenizer(TOKENIZER)
    for token in ids:
        detokenizer.feed(token)
        assert len(detokenizer._ids) - detokenizer._shown <= MAX_OPEN_TOKENS


def test_a_character_appears_with_its_last_byte():
    assert pieces_of(TOKENIZER.encode("é€😀").ids) == ["", "é", "", "", "€", "", "", "", "😀", ""]


def test_half_a_character_at_the_end_is_not_lost():
    ids = TOKENIZER.encode("a€").ids[:-1]
    assert pieces_of(ids) == ["a", "", "", "\ufffd"]


def test_hidden_tokens_leave_no_text():
    ids = [END_ID, *TOKENIZER.encode("hi").ids, END_ID]
    assert "".join(pieces_of(ids, hidden=(END_ID,))) == "hi"


def fallback_tokenizer() -> Tokenizer:
    """A tokenizer like Llama 2's: words with a marked space, and bytes for the rest."""
    words = ["▁a", "▁", "a", "é", "▁word", "<unk>"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


FALLBACK = fallback_tokenizer()


@given(st.lists(st.integers(128, 255) | st.just(260), max_size=40))
def test_words_among_broken_bytes_are_kept(ids):
    """The decoder drops all bytes of a run with a wrong one in it; those that were shown stay."""
    detokenizer = Detokenizer(FALLBACK)
    shown = "".join([detokenizer.feed(token) for token in ids] + [detokenizer.finish()])
    assert shown.count("word") == ids.count(260)
    assert "▁" not in shown


@given(st.text(alphabet="aé😀€ \n", max_size=20))
def test_byte_fallback_never_shows_half_a_character(text):
    ids = [byte for sign in text for byte in sign.encode()]
    detokenizer = Detokenizer(FALLBACK)
    pieces = [detokenizer.feed(token) for token in ids] + [detokenizer.finish()]
    assert "".join(pieces) == text.removeprefix(" ")
    assert not any("\ufffd" in piece for piece in pieces)


class WordDecoder:
    """A tokenizer like sentencepiece's: words with a leading space, which the first of a text loses."""

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f" w{token}" for token in ids).removeprefix(" ")


def test_spaces_between_words_survive_decoders_that_strip_the_first():
    detokenizer = Detokenizer(WordDecoder())
    assert [detokenizer.feed(token) for token in (1, 2, 3)] == ["w1", " w2", " w3"]
