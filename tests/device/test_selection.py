"""Attention over chosen positions is attention with all others hidden, gathered or not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuron.device.attention import AttentionParams
from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.sdpa import SdpaAttention
from neuron.device.selection import Compressed, Selection, index_groups, use_index_keys
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Joined, StepPlan

CPU = torch.device("cpu")
SHAPE = CacheShape(num_pages=12, page_size=4, num_slots=3, context=16)
PAGES = ((7, 2, 11, 4), (0, 9, 3, 8), (1, 5, 6, 10))
LAYER = KVShape(kv_heads=2, key_dim=4, value_dim=4, index_dim=3)
HEADS = 4


class Step:
    """Sequences of some lengths, of each of which the last `width` tokens are new."""

    def __init__(self, lengths: list[int], width: int) -> None:
        self.lengths, self.width = lengths, width
        self.cache = KVCache({0: LAYER}, SHAPE, dtype=torch.float32, device=CPU)
        self.table = PageTable(SHAPE, CPU)
        joined = tuple(Joined(slot, Sampling(), (), (), pages) for slot, pages in enumerate(PAGES))
        self.table.update(StepPlan((), joined))
        self.keys = [torch.randn(length, LAYER.kv_heads, LAYER.key_dim) for length in lengths]
        self.values = [torch.randn(length, LAYER.kv_heads, LAYER.value_dim) for length in lengths]
        for slot, length in enumerate(lengths):
            if length > width:
                chunk = Chunk(slot, (0,) * (length - width), 0)
                batch = Batch(StepPlan((chunk,), ()), self.table, SHAPE)
                self.cache.write(0, batch.locations, self.keys[slot][:-width], self.values[slot][:-width])
        chunks = [Chunk(slot, (0,) * width, length - width) for slot, length in enumerate(lengths)]
        self.batch = Batch(StepPlan(tuple(chunks), ()), self.table, SHAPE)
        self.query = torch.randn(len(lengths), width, HEADS, LAYER.key_dim)

    def attend(self, params: AttentionParams) -> Tensor:
        """The attention of all new tokens, (rows, width, heads, dim)."""
        new = [torch.cat([part[-self.width :] for part in parts]) for parts in (self.keys, self.values)]
        out = SdpaAttention(self.cache, self.batch)(0, self.query.flatten(0, 1), *new, params=params)
        return out.view(len(self.lengths), self.width, HEADS, -1)


def plain(step: Step, row: int, column: int, head: int, positions: set[int]) -> Tensor:
    """The attention of one query head over some positions, by its definition."""
    at, kv_head = sorted(positions), head // (HEADS // LAYER.kv_heads)
    scores = step.keys[row][at, kv_head] @ step.query[row, column, head]
    return scores.softmax(0) @ step.values[row][at, kv_head]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_queries_attend_to_what_is_chosen_and_seen(data: st.DataObject):
    lengths = data.draw(st.lists(st.integers(2, 16), min_size=1, max_size=3), "lengths")
    width = data.draw(st.integers(1, min(3, *lengths, 16)), "width")
    heads = data.draw(st.sampled_from([1, LAYER.kv_heads, HEADS]), "heads")
    count = data.draw(st.integers(1, 9), "count")
    torch.manual_seed(len(lengths) + width + count)
    step = Step(lengths, width)
    chosen = torch.stack([torch.randperm(max(lengths))[:count] for _ in range(len(lengths) * heads * width)])
    chosen = chosen.view(len(lengths), heads, width, -1)
    chosen[torch.rand(chosen.shape) < 0.2] = -1
    starts = torch.tensor(lengths) - width
    own = starts[:, None, None] + torch.arange(width)  # at least that
    chosen[chosen == own[..., None]] = -1
    chosen[..., 0] = own
    found = step.attend(AttentionParams(scale=1.0, selection=Selection((chosen,))))
    for row, length in enumerate(lengths):
        for column in range(width):
            for head in range(HEADS):
                listed = chosen[row, head // (HEADS // heads), column].tolist()
                seen = {position for position in listed if 0 <= position <= length - width + column}
                wanted = plain(step, row, column, head, seen)
                assert torch.allclose(found[row, column, head], wanted, atol=1e-5)


@pytest.mark.parametrize("sinks", [None, torch.randn(HEADS)], ids=["softmax", "sinks"])
def test_compressed_keys_are_attended_to_besides(sinks: Tensor | None):
    step = Step([9, 14], 2)
    entries = torch.randn(2, 1, 3, LAYER.key_dim).expand(2, LAYER.kv_heads, 3, LAYER.key_dim)
    mask = torch.zeros(2, 1, 2, 3).masked_fill(torch.tensor([False, False, True]), float("-inf"))
    found = step.attend(AttentionParams(1.0, sinks=sinks, compressed=Compressed(((entries, mask),))))
    for row, length in enumerate(step.lengths):
        keys = torch.cat([step.keys[row][: length - 1, 1], entries[row, 1, :2]])
        values = torch.cat([step.values[row][: length - 1, 1], entries[row, 1, :2]])
        scores = keys @ step.query[row, 0, 3]
        if sinks is not None:
            scores = torch.cat([scores, sinks[3:]])
        wanted = scores.softmax(0)[: len(values)] @ values
        assert torch.allclose(found[row, 0, 3], wanted, atol=1e-5)


def test_index_keys_are_those_of_the_sequences():
    step = Step([5, 9, 14], 2)
    keys = torch.randn(3, 14, LAYER.index_dim)
    for start in range(0, 14, 2):  # written in steps, as sequences grow
        rows = [row for row, length in enumerate((6, 10, 14)) if start < length]
        chunks = tuple(Chunk(row, (0, 0), start) for row in rows)
        with use_index_keys(step.cache, Batch(StepPlan(chunks, ()), step.table, SHAPE)):
            (group,) = index_groups() or ()
            found = group.update(0, keys[rows, start : start + 2])
            assert torch.equal(found, keys[rows, : start + 2])
            alone = [
                each.update(0, keys[[row], start : start + 2])
                for each, row in zip(group.one_by_one(), rows, strict=True)
            ]
            assert torch.equal(torch.cat(alone), found)
    assert index_groups() is None
