"""What is kept of what a managed engine's server writes, and that rows and settings name the same engines."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from neuron.config import EngineName
from neuron.managed.known import ENGINES
from neuron.managed.log import MAX_LINE_CHARS, ServerLog

written = st.lists(
    st.sampled_from([b"a", b"bc d", b"\n", b"\r", b"\r\n", b"\x1b[1;31m", b"\xff", b"\xc3\xa9"])
)


def fed(pieces, max_lines=1000):
    log = ServerLog(max_lines)
    said = [line for piece in pieces for line in log.feed(piece)]
    return log, said


@given(written, st.integers(1, 5))
def test_lines_do_not_depend_on_how_they_arrive(pieces, size):
    whole = b"".join(pieces)
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    log, said = fed(cut)
    assert (log.lines, said) == (fed([whole])[0].lines, fed([whole])[1])
    assert all(line and "\x1b" not in line for line in log.lines)


@given(st.lists(st.binary(max_size=5000), max_size=20), st.integers(1, 3))
def test_a_log_is_bounded_whatever_is_written(pieces, max_lines):
    log, said = fed(pieces, max_lines)
    assert len(log.lines) <= max_lines
    assert all(len(line) <= MAX_LINE_CHARS for line in [*log.lines, *said])


def test_of_a_line_that_is_drawn_over_the_last_state_is_kept():
    log, said = fed([b"load: 1%\rload: 2%\r", b"load: 3%\r\nready\n"])
    assert said == ["load: 1%", "load: 2%", "load: 3%", "ready"]
    assert log.lines == ["load: 3%", "ready"]
    log.note("neuron: gone")
    assert log.lines[-1] == "neuron: gone"


def test_every_engine_has_settings():
    assert set(get_args(EngineName)) == {engine.name for engine in ENGINES}
