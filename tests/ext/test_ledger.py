"""`ext.ledger`: what is written of a request, what it adds to sums, and what finds no room."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ext.conftest import variants
from tests.stubs.records import RequestRecord, read

GOOD, BAD = b'"level":"info","message":"request"', b'"level":"warning","message":"request"'
TEXTS = st.text(st.characters(), max_size=40)
TIMES = st.floats(0, 1e6)
COUNTS = st.integers(0, 2**31 - 1)
FIELDS = {
    "model": TEXTS,
    "node": TEXTS,
    "key": TEXTS,
    "error_code": TEXTS,
    "finish_reason": TEXTS,
    "outcome": st.sampled_from(["ok", "error", "cancelled", "rejected"]),
    "status": st.integers(0, 999),
    "retries": st.integers(0, 99),
    "stream": st.booleans(),
    "cold": st.booleans(),
    "prompt_tokens": COUNTS,
    "completion_tokens": COUNTS,
    "cached_tokens": COUNTS,
    "queue_s": TIMES,
    "load_s": TIMES,
    "overhead_s": st.just(-1.0) | TIMES,
    "attempts": st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
    "waits_s": st.lists(st.tuples(TEXTS, TIMES), max_size=3).map(tuple),
    "notes": st.lists(st.tuples(TEXTS, TEXTS), max_size=3).map(tuple),
}


@pytest.fixture(params=variants("ledger"), scope="module")
def ext(request):
    return request.param


def make(ext, **options):
    buckets = ext.Buckets(duration=(1, 2), first_token=(1,), rate=(10,), gap=(0.1,), overhead=(0.1,))
    return ext.Ledger(buckets, **{"heads": (GOOD, BAD), **options})


def entry(ext, **fields):
    made = ext.Entry("r", "openai-chat", 100.0)
    for name, value in ({"model": "m", "node": "n", "outcome": "ok", "status": 200} | fields).items():
        setattr(made, name, value)
    return made


def as_stored(value):
    """Text as a database takes it, numbers to the millionth."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode().replace("\0", "\ufffd")
    if isinstance(value, tuple):
        return tuple(map(as_stored, value))
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


@given(fields=st.fixed_dictionaries({}, optional=FIELDS), latency_s=TIMES)
def test_a_row_says_what_the_entry_says(ext, fields, latency_s):
    ledger = make(ext)
    ledger.put(entry(ext, **fields), 100.0 + latency_s, 1.8e9)
    row = ledger.take_rows()[0]
    record = read(row)
    for name, value in fields.items():
        told = None if name == "overhead_s" and value < 0 else value
        assert getattr(record, name) == as_stored(told), name
    assert record.latency_s == as_stored(latency_s)
    assert record.started_at == as_stored(1.8e9 - latency_s)
    line = json.loads(ledger.take_lines())
    assert line | json.loads(row) == line


def test_a_line_begins_with_its_time_and_its_head(ext):
    ledger = make(ext)
    for at, outcome in ((0.25, "ok"), (0.75, "error"), (86_400.0, "cancelled")):
        ledger.put(entry(ext, outcome=outcome), 101.0, at)
    lines = [json.loads(line) for line in ledger.take_lines().splitlines()]
    assert [(line["time"], line["level"]) for line in lines] == [
        ("1970-01-01T00:00:00.250+00:00", "info"),
        ("1970-01-01T00:00:00.750+00:00", "warning"),
        ("1970-01-02T00:00:00.000+00:00", "info"),
    ]
    assert ledger.take_lines() == b""


def test_no_line_is_made_without_a_head_and_nobody_told(ext):
    told = []
    ledger = make(ext, heads=(b"", BAD), on_line=lambda: told.append(ledger.take_lines()))
    ledger.put(entry(ext), 101.0, 1.0)
    assert not told
    ledger.put(entry(ext, outcome="error"), 101.0, 1.0)
    assert len(told) == 1
    assert len(ledger.take_rows()) == 2


def test_who_waits_for_lines_is_told_of_the_first_only(ext):
    told = []
    ledger = make(ext, on_line=lambda: told.append(1))
    for expected in (1, 1, 1):
        ledger.put(entry(ext), 101.0, 1.0)
        assert len(told) == expected
    ledger.take_lines()
    ledger.put(entry(ext), 101.0, 1.0)
    assert len(told) == 2


def test_what_finds_no_room_is_counted(ext):
    ledger = make(ext, max_rows=3, max_lines=2)
    for _ in range(10):
        ledger.put(entry(ext), 101.0, 1.0)
    assert (ledger.waiting, len(ledger.take_rows())) == (3, 3)
    assert len(ledger.take_lines().splitlines()) == 2
    assert (ledger.take_lost_rows(), ledger.take_lost_lines()) == (7, 8)
    assert (ledger.take_lost_rows(), ledger.take_lost_lines()) == (0, 0)
    ledger.put(entry(ext), 101.0, 1.0)
    assert len(ledger.take_rows()) == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e300, 9e12])
def test_what_is_no_time_is_null(ext, value):
    ledger = make(ext)
    ledger.put(entry(ext, waits_s=(("a", value),)), 101.0, 1.0)
    assert json.loads(ledger.take_rows()[0])["waits_s"] == [["a", None]]


def test_a_long_record_is_whole(ext):
    ledger = make(ext)
    name = "é" * 5000
    for _ in range(2):
        ledger.put(entry(ext, model=name, notes=((name, name),)), 101.0, 1.0)
    assert [read(row).notes for row in ledger.take_rows()] == [((name, name),)] * 2


def test_requests_of_a_kind_are_summed_up(ext):
    ledger = make(ext)
    usual = {"prompt_tokens": 7, "completion_tokens": 11, "cached_tokens": 2, "overhead_s": 0.05}
    for latency_s in (0.5, 1.0, 1.5, 9.0):
        made = entry(ext, **usual, retries=1, first_token=100.25, gaps=[2, 1], gaps_s=0.5)
        ledger.put(made, 100.0 + latency_s, 1.0)
    ledger.put(entry(ext, cold=True, load_s=0.5, error_code="e"), 101.0, 1.0)
    many, cold = ledger.take_sums()[0]
    assert many.kind == ("m", "n", "ok", "openai-chat", "")
    assert (many.requests, many.retries, many.cold, cold.requests, cold.cold) == (4, 4, 0, 1, 1)
    assert (many.prompt_tokens, many.completion_tokens, many.cached_tokens) == (28, 44, 8)
    assert many.durations.counts == [2, 1, 1]
    assert many.durations.total == pytest.approx(12.0)
    assert many.first_tokens.counts == [4, 0]
    assert many.rates.counts == [2, 2]  # 40 and 13.3 a second, 8 and 1.1
    assert many.gaps.counts == [8, 4]
    assert many.overheads.counts == [4, 0]
    assert cold.loads.counts == [1, 0, 0]
    assert ledger.take_sums() == ([], {})


def test_requests_that_reached_no_node_add_no_tokens(ext):
    ledger = make(ext)
    ledger.put(entry(ext, node="", outcome="rejected", prompt_tokens=5), 101.0, 1.0)
    sums = ledger.take_sums()[0][0]
    assert (sums.requests, sums.prompt_tokens, sums.queued.counts) == (1, 0, [0, 0, 0])


def test_what_keys_spend_is_summed_up_by_key(ext):
    ledger = make(ext)
    for key in ("a", "b", "a", ""):
        ledger.put(entry(ext, key=key, prompt_tokens=3, completion_tokens=4), 101.0, 1.0)
    ledger.put(entry(ext, key="a", node="", prompt_tokens=100), 101.0, 1.0)
    sums, spent = ledger.take_sums()
    assert [one.requests for one in sums] == [4, 1]
    assert {key: (one.prompt_tokens, one.completion_tokens) for key, one in spent.items()} == {
        "a": (6, 8),
        "b": (3, 4),
    }


def test_models_that_nobody_knows_are_one_in_sums_and_themselves_in_rows(ext):
    ledger = make(ext, known=lambda model: model == "m")
    for number in range(50):
        ledger.put(entry(ext, model=f"guess-{number}", outcome="rejected"), 101.0, 1.0)
    assert [read(row).model for row in ledger.take_rows()] == [f"guess-{number}" for number in range(50)]
    assert [(sums.kind[0], sums.requests) for sums in ledger.take_sums()[0]] == [("unknown", 50)]


def test_a_row_is_a_record(ext):
    ledger = make(ext)
    made = entry(ext, first_token=100.5, completion_tokens=11, prompt_tokens=3, finish_reason="stop")
    ledger.put(made, 103.0, 1003.0)
    assert read(ledger.take_rows()[0]) == RequestRecord(
        "r", 1000.0, "m", "n", "openai-chat", False, 200, "ok",
        prompt_tokens=3, completion_tokens=11, ttft_s=0.5, latency_s=3.0,
        finish_reason="stop", tokens_per_second=4.0,
    )  # fmt: skip
