from __future__ import annotations

import pytest

from neuron.engine.grammar_matcher import GrammarError, LLGuidanceMatcher
from neuron.engine.grammar_trial import grammar_problem


@pytest.mark.parametrize(
    "grammar",
    [
        'start: %json {"type": "object"}',
        'start: "a" <[40000]> T\nT: /b+/',  # a marker that is a token of its own
        'start: "ü" <[300]> | <[2]>',
    ],
)
def test_a_grammar_that_can_begin_has_no_problem(grammar):
    assert grammar_problem(grammar, [300, 40_000], 40_001) is None


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('start: "a" <[40001]>', "40001"),
        ("start: nothing", "nothing"),
        ('start: %json {"type": "objekt"}', "objekt"),
    ],
)
def test_any_other_says_what_is_wrong(grammar, reason):
    assert reason in (grammar_problem(grammar, [300], 40_001) or "")


class Panicked:
    """A matcher of the library after an assertion in it failed."""

    def __init__(self, error):
        self._error = error

    def compute_bitmask(self):
        return b""

    def is_error(self):
        return True

    def get_error(self):
        return self._error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("panic: too deep\n   0: backtrace::here", "the grammar cannot be compiled: too deep"),
        ("panic:", "the grammar cannot be compiled"),
        ("NoExtensionBias\n<state>", "the grammar cannot be compiled: no text follows it"),
    ],
)
def test_what_the_library_did_not_foresee_is_said_in_plain_words(error, said):
    with pytest.raises(GrammarError) as caught:
        LLGuidanceMatcher(Panicked(error))
    assert str(caught.value) == said


def test_a_small_vocabulary_has_room_for_every_byte():
    assert grammar_problem('start: "ÿ"', [2], 3) is None
