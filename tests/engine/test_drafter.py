from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cortex_site.base import speculation
from neuron.engine import drafter
from neuron.engine.drafter import DraftLength, NgramDrafter

TEXT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


def test_settings_name_what_there_is():
    assert drafter.SPECULATIONS == speculation.SPECULATIONS
    assert drafter.MOST_DRAFT_TOKENS == speculation.MOST_DRAFT_TOKENS


def test_a_text_goes_on_as_it_did_before():
    assert NgramDrafter().draft([*TEXT, 5, 6, 7], 15) == [8, 9]


def test_a_draft_that_was_right_is_followed_by_one_twice_as_long():
    ngrams = NgramDrafter()
    ngrams.learn(2, 2)
    assert ngrams.draft([*TEXT, 5, 6, 7], 15) == [8, 9, 10, 11]
    ngrams.learn(4, 4)
    assert ngrams.draft([*TEXT, 5, 6, 7], 3) == [8, 9, 10]


def test_the_last_place_counts():
    assert NgramDrafter().draft([*TEXT, 5, 6, 7, 1, 2, 5, 6, 7], 2) == [1, 2]


def test_a_text_that_repeats_itself_is_drafted_beyond_its_end():
    ngrams = NgramDrafter()
    ngrams.learn(4, 4)
    ngrams.learn(4, 4)
    assert ngrams.draft([1, 2, 1, 2, 1, 2], 7) == [1, 2, 1, 2, 1, 2, 1]


def test_nothing_is_drafted_where_nothing_repeats():
    assert NgramDrafter().draft(TEXT, 15) == []
    assert NgramDrafter().draft([1, 2], 15) == []


def test_wrong_drafts_come_ever_less_often():
    length = DraftLength()
    at = []
    for step in range(400):
        if count := length.take(15):
            at.append(step)
            length.learn(count, 0)
    assert at[:5] == [0, 2, 7, 24, 89]
    assert len(at) < 10


def test_a_long_text_is_learned_over_several_steps():
    ngrams = NgramDrafter()
    text = [*range(100, 9100), 1, 2, 3]
    assert ngrams.draft([*text, *range(5000, 5003)], 2) == []
    assert ngrams.draft([*text, *range(5000, 5003)], 2) == [5003, 5004]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 15))
def test_a_draft_is_what_followed_its_beginning(text: list[int], most: int):
    drafted = NgramDrafter().draft(text, most)
    assert len(drafted) <= most
    places = [at for at in range(3, len(text)) if text[at - 3 : at] == text[-3:]]
    if drafted:
        expected = text[places[-1] :]
        assert drafted == (expected * most)[: len(drafted)]
    else:
        assert not places
