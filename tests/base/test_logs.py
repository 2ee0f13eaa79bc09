"""Log lines: whole, in order, and never waited for."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress

import pytest

from cortex_site.base.last_lines import MAX_LINE_CHARS, LastLines
from cortex_site.base.logs import JsonFormatter, ThreadHandler, head, tell


@pytest.fixture
def pipe():
    """A reader's end, and a stream to write to."""
    reader, writer = os.pipe()
    with suppress(BrokenPipeError), os.fdopen(writer, "w") as stream, os.fdopen(reader) as lines:
        yield lines, stream


@pytest.fixture
def handler(pipe):
    made = ThreadHandler(pipe[1], max_waiting=100)
    made.setFormatter(JsonFormatter("test"))
    yield made
    made.close()


def record(message: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": message, "levelname": "INFO"})


def test_lines_come_in_their_order(handler, pipe):
    for number in range(50):
        handler.emit(record(f"line {number}"))
    assert [json.loads(pipe[0].readline())["message"] for _ in range(50)] == [f"line {n}" for n in range(50)]


def test_who_logs_does_not_wait_for_who_reads(handler, pipe):
    lines, _ = pipe
    for _ in range(5000):  # far more than a pipe holds, and nobody reads
        handler.emit(record("x" * 1000))
    written = dropped = 0
    while written + dropped < 5000:
        handler.emit(record("more"))  # with room again, how many there were too many is told first
        line = json.loads(lines.readline())
        written += line["message"][0] == "x"
        dropped += line.get("lines", 0) if written else 0
    assert dropped > 1000


def test_what_waits_is_written_at_the_end(pipe):
    lines, stream = pipe
    handler = ThreadHandler(stream)
    handler.emit(record("last words"))
    handler.close()
    assert lines.readline() == "last words\n"


def test_lines_that_wait_elsewhere_are_written_in_their_turn(handler, pipe):
    handler.emit(record("before"))
    handler.put(lambda: b'{"message":"one"}\n{"message":"\xe2\x98\x83"}\n')
    handler.emit(record("after"))
    messages = [json.loads(pipe[0].readline())["message"] for _ in range(4)]
    assert messages == ["before", "one", "\N{SNOWMAN}", "after"]


LINE = b'{"time":"1970-01-01T00:00:01","level":"warning","program":"","logger":"l","message":"m","a":1}\n'


def test_lines_that_wait_elsewhere_become_records_for_other_handlers(caplog):
    tell(logging.getLogger("cortex.test"), lambda: 2 * LINE)
    assert [(made.levelname, made.message, made.a) for made in caplog.records] == [("WARNING", "m", 1)] * 2


def test_the_head_of_a_line_is_empty_where_its_level_is_not_logged():
    logger = logging.getLogger("cortex.test")
    logger.setLevel(logging.WARNING)
    assert head(logger, logging.INFO, "m") == b""
    assert json.loads(b"{%b}" % head(logger, logging.WARNING, "m")) == {
        "level": "warning",
        "program": "",
        "logger": "cortex.test",
        "message": "m",
    }


def test_a_reader_that_went_away_harms_nobody(handler, pipe):
    pipe[0].close()
    for _ in range(3):
        handler.emit(record("into the void"))
    handler.close()


def test_what_a_client_sent_is_cut(handler, pipe):
    made = record("refused " + "m" * 5_000_000)
    made.model = "m" * 5_000_000
    made.places = ["p" * 5_000_000]
    handler.emit(made)
    line = pipe[0].readline()
    assert len(line) < 10_000
    fields = json.loads(line)
    assert fields["model"].startswith("mmm")
    assert "more characters" in fields["model"]
    assert "more characters" in fields["places"]


def test_the_last_lines_that_were_written_are_kept(pipe):
    last = LastLines(3)
    handler = ThreadHandler(pipe[1], last=last)
    handler.emit(record("one"))
    handler.put_text("two of a child\nthree of a child")
    handler.put(lambda: b"four\n")
    handler.close()
    assert last.part().lines == ["two of a child", "three of a child", "four"]


def test_a_reader_of_last_lines_goes_on_where_it_was():
    last = LastLines(3)
    last.feed("a r1\nb r2\n")
    first = last.part()
    assert first.lines == ["a r1", "b r2"]
    assert last.part(after=first.end).lines == []
    last.feed("c r1\n")
    assert last.part(after=first.end).lines == ["c r1"]
    assert last.part(match="r1").lines == ["a r1", "c r1"]
    last.feed("d\ne\nf\ng\n")
    assert last.part(after=first.end).lines == ["e", "f", "g"]  # of more than are kept, the last
    assert last.part(after=first.end + 10**9).lines == ["e", "f", "g"]  # of an earlier process


def test_last_lines_are_cut():
    last = LastLines(1)
    last.feed("x" * 10 * MAX_LINE_CHARS)
    assert len(last.part().lines[0]) < 2 * MAX_LINE_CHARS
