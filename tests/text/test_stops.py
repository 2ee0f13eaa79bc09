from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from neuron.text.stops import StopStrings
from tests.text.splitting import cut

LETTERS = st.text(alphabet="abc", max_size=30)
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    machine = StopStrings(stops)
    text = "".join([machine.feed(piece) for piece in pieces])
    return text + machine.finish(), machine.matched


@given(STOPS, LETTERS, st.data())
def test_any_split_gives_the_same_text(stops, text, data):
    assert run(stops, cut(text, data)) == run(stops, list(text))


@given(STOPS, LETTERS)
def test_text_ends_where_the_first_complete_stop_begins(stops, text):
    ends = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    _, at, matched = min(ends) if ends else (0, len(text), None)
    assert run(stops, [text]) == (text[:at], matched)


def test_stop_across_pieces_is_found_and_hidden():
    machine = StopStrings(["\nUser:"])
    assert [machine.feed(piece) for piece in ("hi\n", "Us", "er: x", "more")] == ["hi", "", "", ""]
    assert machine.matched == "\nUser:"


def test_text_that_resembles_a_stop_is_passed_on():
    machine = StopStrings(["END"])
    assert [machine.feed("xE"), machine.feed("N"), machine.feed("X"), machine.feed("E")] == [
        "x",
        "",
        "ENX",
        "",
    ]
    assert machine.finish() == "E"
