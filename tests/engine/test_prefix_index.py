"""The prefixes that the cache holds, by the digests that gateways know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron.step import CacheShape
from neuron.wire import PREFIX_BYTES, prefix_marks
from tests.engine.test_scheduler import Bench, prompt

SHAPE = CacheShape(num_pages=12, page_size=4, num_slots=8, context=40)


def resident(bench: Bench) -> list[int]:
    return bench.scheduler.status().prefixes


def test_a_prompts_marks_are_published_once_it_is_computed():
    bench = Bench(SHAPE, step_tokens=12)
    bench.submit(1, prompt(1, 20), 2, marks=[(7, 8), (9, 19)])
    bench.step()
    assert resident(bench) == []  # twelve of twenty tokens
    bench.step()
    assert resident(bench) == [7, 9]
    bench.drain()
    assert resident(bench) == [7, 9]  # the pages stay when the request has ended


def test_a_mark_shorter_than_a_page_is_not_published():
    bench = Bench(SHAPE)
    bench.submit(1, prompt(1, 20), 1, marks=[(7, 3), (8, 4)])
    bench.drain()
    assert resident(bench) == [8]


def test_marks_of_evicted_pages_disappear():
    bench = Bench(SHAPE)
    bench.submit(1, prompt(1, 20), 1, marks=[(7, 8), (9, 20)])
    bench.drain()
    bench.submit(2, prompt(2, 30), 1, marks=[(11, 28)])
    bench.drain()
    assert resident(bench) == [7, 11]  # the end of a prompt is evicted first
    bench.submit(3, prompt(3, 38), 1)
    bench.drain()
    assert 7 not in resident(bench)


def test_marks_of_a_model_with_states_follow_its_snapshots():
    bench = Bench(replace(SHAPE, num_snapshots=2), step_tokens=12)
    bench.submit(1, prompt(1, 19), 1, marks=[(7, 8), (9, 18)])
    bench.drain()
    assert resident(bench) == [7, 9]  # after 12 and after 16 tokens
    bench.submit(2, prompt(2, 9), 1, marks=[(11, 8)])
    bench.drain()
    assert resident(bench) == [9, 11]  # there is room for two; the pages of the first are all there


def test_the_prefix_index_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neuron.engine.prefix_index.MAX_PREFIXES", 2)
    bench = Bench(SHAPE)
    for digest in (1, 2, 3):
        bench.submit(digest, prompt(1, 8), 1, marks=[(digest, 8)])
        bench.drain()
    assert resident(bench) == [2, 3]


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.binary(max_size=100))
def test_bodies_with_a_common_prefix_share_its_marks(common: bytes, rest: bytes, head: bytes):
    prefix = b'"messages"' + common
    first, second = prefix_marks(b"{" + prefix), prefix_marks(b'{"model":1,' + prefix + rest)
    assert second[: len(first)] == first
    assert [length for _, length in second] == [n for n in PREFIX_BYTES if n <= len(prefix + rest)]


def test_different_bodies_have_different_marks():
    assert not set(prefix_marks(b"a" * 5000)) & set(prefix_marks(b"b" * 5000))
