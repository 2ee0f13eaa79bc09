from __future__ import annotations

import pytest

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


def test_a_small_vocabulary_has_room_for_every_byte():
    assert grammar_problem('start: "ÿ"', [2], 3) is None
