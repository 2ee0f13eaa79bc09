from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.text.notations.known import NOTATIONS
from neuron.text.wrapped import AnswerMarkers, AnswerUnwrapper
from tests.text.splitting import cut

ANSWER = AnswerMarkers("<answer>", "</answer>")
FRAGMENTS = st.sampled_from(["<answer>", "</answer>", "<begin>", "<", "</ans", "\n", " ", "a", "b c", "<be"])
FAMILIES = [(ANSWER, AnswerMarkers("<begin>")), (AnswerMarkers("", "</answer>"), ANSWER), ()]


def run(pieces, *answers):
    unwrapper = AnswerUnwrapper(answers)
    return "".join([*map(unwrapper.feed, pieces), unwrapper.finish()])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("<answer>\nHi.\n</answer>", "Hi."),
        ("\n<answer>Hi.</answer>\n<call>", "Hi.<call>"),
        ("<answer>Hi.", "Hi."),
        ("Hi <answer> is a tag</answer>", "Hi <answer> is a tag</answer>"),
        ("<answer>a</answer><answer>b</answer>", "a<answer>b</answer>"),
        ("<ans", "<ans"),
        (" ", " "),
    ],
)
def test_what_stands_around_the_answer_is_dropped(text, expected):
    assert run([text], ANSWER) == run(list(text), ANSWER) == expected


def test_the_thoughts_end_may_be_the_answers_beginning():
    assert run(["Hi.\n[END FINAL RESPONSE]"], *NOTATIONS["apriel"].answers) == "Hi."


@pytest.mark.parametrize("answers", FAMILIES)
@given(text=st.lists(FRAGMENTS, max_size=12).map("".join), data=st.data())
def test_any_split_gives_the_same_text(answers, text, data):
    assert run(cut(text, data), *answers) == run([text], *answers) == run(list(text), *answers)


@given(st.lists(FRAGMENTS, max_size=12).map("".join))
def test_only_one_wrapper_is_dropped(text):
    lost = len("".join(text.split())) - len("".join(run([text], ANSWER).split()))
    assert lost in {0, len(ANSWER.open), len(ANSWER.open + ANSWER.close)}
