"""Recurrences and convolutions over the states of a step's slots, against their definitions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuron.device.batch import Batch
from neuron.device.convolution import convolve, tail_shape
from neuron.device.delta_rule import gated_delta_rule
from neuron.device.kv_cache import PageTable
from neuron.device.state_pool import StateName, StatePool, StateShape, group_states, use_state_groups
from neuron.device.state_space import state_space
from neuron.step import CacheShape, Chunk, StepPlan

CPU = torch.device("cpu")
NAME = StateName(0, "recurrent", 0)
SHAPE = CacheShape(num_pages=1, page_size=8, num_slots=9, context=128)
SLOTS = range(SHAPE.num_slots)


class World:
    """A pool with one kind of state, and steps that read and change it."""

    def __init__(self, state: StateShape) -> None:
        self.pool = StatePool({NAME: state}, SHAPE, CPU)
        self._table = PageTable(SHAPE, CPU)

    def states(self) -> torch.Tensor:
        return self.pool.view(NAME, slice(0, SHAPE.num_slots)).clone()

    def run(self, lengths: dict[int, int], function, *inputs: dict[int, torch.Tensor], **options) -> dict:
        """What `function` returns for the next `lengths[slot]` tokens of each slot."""
        chunks = tuple(Chunk(slot, (0,) * length, start=1) for slot, length in lengths.items())
        plan = StepPlan(chunks)
        batch = Batch(plan, self._table, SHAPE)
        order = [chunks[at].slot for at in batch.order]
        flat = [torch.cat([of_slot[slot] for slot in order]) for of_slot in inputs]
        with use_state_groups(group_states(self.pool, plan, batch)):
            out = function(NAME, *flat, **options)
        return dict(zip(order, out.split([lengths[slot] for slot in order]), strict=True))


def random(lengths: dict[int, int], *dims: int) -> dict[int, torch.Tensor]:
    return {slot: torch.randn(length, *dims) for slot, length in lengths.items()}


def delta_inputs(lengths: dict[int, int]) -> list[dict[int, torch.Tensor]]:
    unit = torch.nn.functional.normalize
    query, key = ({slot: unit(x, dim=-1) for slot, x in random(lengths, 2, 4).items()} for _ in range(2))
    log_decay = {slot: -x.exp() for slot, x in random(lengths, 4).items()}
    strength = {slot: x.sigmoid() for slot, x in random(lengths, 4).items()}
    return [query, key, random(lengths, 4, 3), log_decay, strength]


def by_definition(state: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Read (tokens, …) of one sequence token by token."""
    out = []
    queries, keys, *others = inputs
    queries, keys = (x.repeat_interleave(2, 1) for x in (queries, keys))
    for query, key, value, log_decay, strength in zip(queries, keys, *others, strict=True):
        state = state * log_decay.exp()[:, None, None]
        missing = value - torch.einsum("hk,hkv->hv", key, state)
        state = state + torch.einsum("hk,hv->hkv", key, strength[:, None] * missing)
        out.append(torch.einsum("hk,hkv->hv", query, state))
    return torch.stack(out), state


some_lengths = st.dictionaries(
    st.sampled_from(SLOTS), st.sampled_from([1, 1, 1, 2, 5, 31, 32, 33, 70]), min_size=1
)


@given(some_lengths, st.integers(0, 99))
def test_the_gated_delta_rule_is_its_definition(lengths: dict[int, int], seed: int):
    torch.manual_seed(seed)
    world = World(StateShape((4, 4, 3), torch.float32))
    world.pool.write(NAME, torch.tensor(SLOTS), torch.randn(len(SLOTS), 4, 4, 3))
    before = world.states()
    inputs = delta_inputs(lengths)
    out = world.run(lengths, gated_delta_rule, *inputs)
    after = world.states()
    for slot in SLOTS:
        if slot not in lengths:
            assert torch.equal(after[slot], before[slot])
            continue
        wanted, state = by_definition(before[slot], *(of_slot[slot] for of_slot in inputs))
        torch.testing.assert_close(out[slot], wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after[slot], state, atol=1e-4, rtol=1e-4)


@given(some_lengths, st.integers(0, 99))
def test_a_state_space_is_its_definition(lengths: dict[int, int], seed: int):
    torch.manual_seed(seed)
    world = World(StateShape((4, 4, 3), torch.float32))
    world.pool.write(NAME, torch.tensor(SLOTS), torch.randn(len(SLOTS), 4, 4, 3))
    before = world.states()
    query, key, value, log_decay, _ = delta_inputs(lengths)
    out = world.run(lengths, state_space, query, key, value, log_decay)
    after = world.states()
    for slot in SLOTS:
        state, wanted = before[slot], []
        for at in range(lengths.get(slot, 0)):
            state = state * log_decay[slot][at].exp()[:, None, None]
            state = state + torch.einsum("hk,hv->hkv", key[slot][at].repeat_interleave(2, 0), value[slot][at])
            wanted.append(torch.einsum("hk,hkv->hv", query[slot][at].repeat_interleave(2, 0), state))
        torch.testing.assert_close(after[slot], state, atol=1e-4, rtol=1e-4)
        if wanted:
            torch.testing.assert_close(out[slot], torch.stack(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("slots", [[0, 1, 2], [2, 1, 0], [4, 2, 3], [1, 3], [0, 8], [5]])
def test_states_beside_those_of_a_step_stay_as_they_are(slots: Sequence[int]):
    """Also where the others are changed in place, and hold what is no number."""
    world = World(StateShape((4, 4, 3), torch.float32))
    world.pool.write(NAME, torch.tensor(SLOTS), torch.full((len(SLOTS), 4, 4, 3), float("nan")))
    world.pool.write(NAME, torch.tensor(slots), torch.randn(len(slots), 4, 4, 3))
    out = world.run(lengths := dict.fromkeys(slots, 1), gated_delta_rule, *delta_inputs(lengths))
    assert not any(row.isnan().any() for row in out.values())
    assert {slot for slot in SLOTS if not world.states()[slot].isnan().any()} == set(slots)


@given(some_lengths, st.booleans(), st.integers(0, 99))
def test_a_convolution_goes_on_where_it_stopped(lengths: dict[int, int], has_bias: bool, seed: int):
    torch.manual_seed(seed)
    weight, bias = torch.randn(4, 6), torch.randn(6) if has_bias else None
    world = World(tail_shape(weight, torch.float32))
    read = [random(lengths, 6) for _ in range(3)]
    parts = [world.run(lengths, convolve, part, weight=weight, bias=bias) for part in read]
    for slot in lengths:
        whole = torch.cat([part[slot] for part in read]).t()[None]
        wanted = torch.nn.functional.conv1d(whole, weight.t()[:, None], bias, padding=3, groups=6)
        found = torch.cat([part[slot] for part in parts])
        torch.testing.assert_close(found, wanted[0, :, : len(found)].t(), atol=1e-5, rtol=1e-5)
