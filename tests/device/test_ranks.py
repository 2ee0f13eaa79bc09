"""What ranks share: sums and gathers, plans, and the end of all when one is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ext import compiled
from neuron.device.collective import (
    GroupLostError,
    SharedCollective,
    TorchCollective,
    sum_ranks,
    tell_plan,
    use_collective,
)
from neuron.models.checkpoint import ModelLoadError
from neuron.pipe import Sampling
from neuron.segment import MAX_RANKS, SLOT_BYTES, SharedSegment
from neuron.step import CacheShape, Chunk, Draw, Joined, StepPlan
from neuron.supervisor.device_group import SharedFiles
from neuron.worker.rank_link import RankLink
from neuron.worker.rank_plan import MAX_CANDIDATES, CandidateCount, decode_plan, encode_plan
from tests.device.ranks import in_threads, links

built = pytest.mark.skipif(compiled("ranks") is None, reason="there was no compiler")


def collectives(shared: SharedFiles, size: int, timeout_s: float = 20.0) -> list[SharedCollective]:
    paths = [shared.place(rank, timeout_s).memory for rank in range(size)]
    return [
        SharedCollective(SharedSegment.open(path, size), rank, timeout_s) for rank, path in enumerate(paths)
    ]


@built
@pytest.mark.parametrize("size", [2, 3, 4])
def test_sums_are_the_same_bits_on_every_rank_whatever_their_length(size: int):
    shared = SharedFiles(size)
    ranks = collectives(shared, size)
    for count in (1, 1000, SLOT_BYTES // 4, SLOT_BYTES // 2 + 7):  # the last in three pieces
        parts = [torch.randn(count, generator=torch.Generator().manual_seed(rank)) for rank in range(size)]
        wanted = parts[0].clone()
        for part in parts[1:]:
            wanted += part
        sums = in_threads([lambda r=r, p=p: r.sum(p.clone()) for r, p in zip(ranks, parts, strict=True)])
        assert all(torch.equal(found, wanted) for found in sums)  # type: ignore[arg-type]
    shared.close()


@built
def test_halves_are_summed_in_float32():
    shared = SharedFiles(2)
    parts = torch.tensor([256.0, 1.0], dtype=torch.bfloat16)  # 257 is no bfloat16
    ranks = collectives(shared, 2)
    sums = in_threads([lambda r=r, p=p: r.sum(p[None]) for r, p in zip(ranks, parts, strict=True)])
    assert [float(found) for found in sums] == [256.0, 256.0]  # type: ignore[arg-type]
    assert sums[0].dtype is torch.bfloat16  # type: ignore[union-attr]
    shared.close()


@built
def test_rank_0_gathers_and_others_go_on():
    shared = SharedFiles(3)
    ranks = collectives(shared, 3)
    for turn in range(5):
        parts = [torch.full((2, 3), 10 * turn + rank) for rank in range(3)]
        first, *others = in_threads([lambda r=r, p=p: r.gather(p) for r, p in zip(ranks, parts, strict=True)])
        assert torch.equal(first, torch.stack(parts))  # type: ignore[arg-type]
        assert others == [None, None]
    shared.close()


def test_gloo_does_the_same():
    """Where `ext` was not built, and in NCCL's place here."""
    with_store = SharedFiles(2)
    place = with_store.place(0, 5.0)

    def talk(rank: int) -> tuple[torch.Tensor, object, TorchCollective]:
        gloo = TorchCollective(SharedSegment.open(place.memory, 2), place.store, rank, 5.0, "gloo")
        return gloo.sum(torch.ones(3) * (rank + 1)), gloo.gather(torch.tensor([rank])), gloo

    talks = in_threads([lambda: talk(0), lambda: talk(1)])
    (first, gathered, one), (second, nothing, other) = talks  # type: ignore[misc]
    one.close()
    other.close()
    assert first.tolist() == second.tolist() == [3.0] * 3
    assert gathered.tolist() == [[0], [1]]
    assert nothing is None
    with_store.close()


def test_a_step_whose_group_ends_meanwhile_does_not_count():
    shared = SharedFiles(2)
    place = shared.place(0, 5.0)

    def step(rank: int) -> None:
        gloo = TorchCollective(SharedSegment.open(place.memory, 2), place.store, rank, 5.0, "gloo")
        with use_collective(gloo):
            assert sum_ranks(torch.ones(1)) == 2
            if rank == 0:
                shared.segment.abort("cpu-dev-1 went away")
            time.sleep(0.5)

    lost = in_threads([lambda: step(0), lambda: step(1)])
    assert [str(each) for each in lost] == ["cpu-dev-1 went away"] * 2
    shared.close()


@built
def test_who_waits_in_vain_names_the_silent_rank_and_ends_the_group():
    shared = SharedFiles(3)
    ranks = collectives(shared, 3, timeout_s=0.2)
    lost = in_threads([lambda r=r: r.sum(torch.ones(1)) for r in ranks[:2]])
    assert all(isinstance(each, GroupLostError) for each in lost)
    assert (shared.segment.reason, shared.segment.silent) == ("rank 2 did not answer", [2])
    shared.close()


@built
def test_an_end_from_outside_wakes_who_waits():
    shared = SharedFiles(2)
    ranks = collectives(shared, 2)

    def abort() -> None:
        time.sleep(0.1)
        shared.segment.abort("cpu-dev-1 went away")

    lost, _ = in_threads([lambda: ranks[0].sum(torch.ones(1)), abort])
    assert str(lost) == "cpu-dev-1 went away"
    assert shared.segment.silent == []
    shared.segment.abort("something else")
    assert shared.segment.reason == "cpu-dev-1 went away"
    shared.close()


def test_nothing_of_a_group_has_a_name():
    shared_memory, descriptors = Path("/dev/shm"), Path("/proc/self/fd")  # noqa: S108 - looked at alone
    before = set(shared_memory.iterdir()), len(list(descriptors.iterdir()))
    with links(2):
        assert set(shared_memory.iterdir()) == before[0]
    assert len(list(descriptors.iterdir())) == before[1]


# --- the load ---------------------------------------------------------------------------------------------


def test_ranks_agree_on_what_all_have_room_for():
    shared = SharedFiles(2)
    first, second = (RankLink(shared.place(rank, 5.0)) for rank in range(2))
    shapes = CacheShape(90, 16, 8, 512, 4), CacheShape(70, 16, 32, 1024)
    agreed = in_threads([lambda: first.agree(shapes[0], _pause), lambda: second.agree(shapes[1], _pause)])
    assert agreed == [CacheShape(70, 16, 8, 512)] * 2
    shared.close()


def test_a_rank_that_fails_to_load_fails_the_others():
    shared = SharedFiles(2)
    first, second = (RankLink(shared.place(rank, 5.0)) for rank in range(2))
    second.fail(ModelLoadError("insufficient_memory", "it takes more"))
    with pytest.raises(ModelLoadError, match="rank 1 failed: it takes more") as failed:
        first.agree(CacheShape(9, 16, 1, 16), _pause)
    assert failed.value.code == "group_failed"
    with pytest.raises(ModelLoadError, match="rank 1 failed"):
        first.checking(lambda _: None)(0.5)
    shared.close()


def test_a_group_that_is_gone_is_a_failed_load():
    shared = SharedFiles(2)
    place = shared.place(1, 5.0)
    shared.close()
    with pytest.raises(ModelLoadError, match="the group is gone"):
        RankLink(place)


def _pause() -> None:
    pass


# --- plans ------------------------------------------------------------------------------------------------

numbers = st.integers(0, 2**20)
chunks = st.builds(
    Chunk,
    numbers,
    st.lists(numbers, min_size=1, max_size=5).map(tuple),
    numbers,
    st.lists(numbers, max_size=3).map(tuple),
    st.none() | st.builds(Draw, st.floats(0, 0.99), allowed=st.none() | st.binary(max_size=4)),
    snapshot=st.none() | numbers,
    checks=st.sampled_from([(), (Draw(0.5),)]),
    rewinds=st.booleans(),
)
joins = st.builds(
    Joined,
    numbers,
    st.just(Sampling(temperature=0.5)),
    st.lists(numbers, max_size=9).map(tuple),
    st.just((1, 2)),
    st.lists(numbers, max_size=5).map(tuple),
    st.none() | numbers,
    adapter=st.none() | numbers,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(chunks, min_size=1, max_size=4), st.lists(joins, max_size=3), st.integers(0, MAX_CANDIDATES))
def test_plans_tell_what_is_computed(chunked: list[Chunk], joined: list[Joined], count: int):
    moves = ((3, 0),), ((1, 5), (2, 6)), ((0, 4),)
    told = decode_plan(encode_plan(StepPlan(tuple(chunked), tuple(joined), *moves), count))
    plan = told.step_plan()
    assert told.num_candidates == count
    assert (plan.leaving, plan.returning, plan.leaving_states) == moves
    for found, chunk in zip(plan.chunks, chunked, strict=True):
        assert (found.slot, found.tokens, found.start) == (chunk.slot, chunk.tokens, chunk.start)
        assert (found.new_pages, found.snapshot) == (chunk.new_pages, chunk.snapshot)
        assert (found.draw is None) == (chunk.draw is None)
        assert (found.drafts, found.rewinds) == (chunk.drafts, chunk.rewinds)
    for joins_now, join in zip(plan.joined, joined, strict=True):
        assert (joins_now.slot, joins_now.pages, joins_now.snapshot) == (join.slot, join.pages, join.snapshot)
        assert joins_now.adapter == join.adapter
        assert len(joins_now.prompt) == len(join.prompt)


@pytest.mark.parametrize(
    ("samplings", "draws", "count"),
    [
        ([Sampling()], [Draw(0.0)], 1),
        ([Sampling()], [Draw(0.0, banned=(4, 5))], 3),
        ([Sampling(), Sampling(temperature=1.0, top_k=20, top_p=0.9)], [Draw(0.0)] * 2, 20),
        ([Sampling(), Sampling(temperature=1.0)], [Draw(0.0)] * 2, 0),
        ([Sampling(temperature=1.0, top_k=MAX_CANDIDATES + 1)], [Draw(0.0)], 0),
        ([Sampling(presence_penalty=0.1)], [Draw(0.0)], 0),
        ([Sampling(logit_bias=((1, 1.0),))], [Draw(0.0)], 0),
        ([Sampling(top_logprobs=0)], [Draw(0.0)], 0),
        ([Sampling()], [Draw(0.0, allowed=b"\1")], 0),
    ],
)
def test_candidates_are_enough_for_every_row(samplings: list[Sampling], draws: list[Draw], count: int):
    plan = StepPlan(
        tuple(Chunk(slot, (1,), 0, draw=draw) for slot, draw in enumerate(draws)),
        tuple(Joined(slot, sampling, (1,), (), ()) for slot, sampling in enumerate(samplings)),
    )
    counts = CandidateCount(8)
    assert counts.count(plan) == count
    assert counts.count(StepPlan(plan.chunks)) == count  # the slots' samplings are kept


def test_prompts_alone_need_no_candidates():
    assert CandidateCount(8).count(StepPlan((Chunk(0, (1, 2), 0),))) == 0


def test_a_plan_that_is_too_long_is_refused_before_anyone_is_told():
    shared = SharedFiles(2)
    with pytest.raises(ValueError, match="a plan of"):
        tell_plan(shared.segment, bytes(17 << 20), 1)
    assert shared.segment.read_plan() == (b"", 0, 0)
    shared.close()


def test_as_many_ranks_as_there_are_lines_for():
    shared = SharedFiles(MAX_RANKS)
    for rank in range(MAX_RANKS):
        assert shared.segment.offers() is None
        shared.segment.offer(rank, (rank, 1, 2, 3, 4, 5, 6))
    offers = shared.segment.offers()
    assert offers is not None
    assert [pages for pages, *_ in offers] == list(range(MAX_RANKS))
    shared.close()
