"""What `ext` does between the linear layers of the gated delta rule is what torch's operations do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ext import matmul
from neuron.device.batch import Batch
from neuron.device.kv_cache import PageTable
from neuron.device.state_pool import StatePool, group_states, use_state_groups
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.fused.delta_rule import DeltaRule
from neuron.step import CacheShape, Chunk, StepPlan
from tests.device.serving import decoder
from tests.device.zoo import save

pytestmark = pytest.mark.skipif(matmul.load() is None, reason="ext.matmul is not built")

SHAPE = CacheShape(num_pages=1, page_size=8, num_slots=6, context=128, num_snapshots=3)
# Chunks of several lengths, slots in no order, and a snapshot within what a slot runs.
PLAN = StepPlan(
    (
        Chunk(4, (0,), 3),
        Chunk(1, (0,), 9),
        Chunk(3, (0,) * 16, 0, snapshot=2),
        Chunk(3, (0,) * 5, 16),
        Chunk(0, (0,) * 37, 8),
        Chunk(2, (0,) * 2, 1),
    )
)


def rule(path: Path, dtype: str, **shape: int) -> DeltaRule:
    loaded = decoder(save(path, "qwen3_next", **shape), dtype)
    assert isinstance(loaded, FusedDecoder)
    return next(part.kind for part in loaded._parts if isinstance(part.kind, DeltaRule))


@pytest.mark.parametrize(
    ("dtype", "key_dim", "value_dim", "heads"),
    [("float32", 8, 8, 2), ("float32", 24, 100, 4), ("bfloat16", 32, 64, 4), ("bfloat16", 5, 37, 2)],
)
def test_a_layer_in_c_is_torchs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, key_dim: int, value_dim: int, heads: int
):
    kind = rule(
        tmp_path,
        dtype,
        linear_key_head_dim=key_dim,
        linear_value_head_dim=value_dim,
        linear_num_key_heads=2,
        linear_num_value_heads=heads,
    )
    torch.manual_seed(key_dim)
    pool = StatePool(kind.states, SHAPE, torch.device("cpu"))
    before = {name: torch.randn_like(pool.view(name, slice(None)).float()) for name in kind.states}
    batch = Batch(PLAN, PageTable(SHAPE, torch.device("cpu")), SHAPE)
    inputs = torch.randn(len(batch.tokens), sum(kind.shape.widths))

    def run(way) -> list[torch.Tensor]:
        for name, states in before.items():
            pool.view(name, slice(None)).copy_(states)
        with use_state_groups(group_states(pool, PLAN, batch)):
            out = way(inputs.clone())
        return [out, *(pool.view(name, slice(None)).float() for name in before)]

    assert kind.in_place.runs_in_place(inputs)
    wanted = [tensor.clone() for tensor in run(kind._between)]
    native = matmul.load()
    assert native is not None
    for number in range(len(native.instruction_sets())):
        monkeypatch.setattr(matmul, "instruction_set", lambda number=number: number)
        for found, expected in zip(run(kind.in_place), wanted, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_torchs(tmp_path: Path):
    kind = rule(tmp_path, "float32")
    inputs = torch.zeros(2, 4)
    assert not kind.in_place.runs_in_place(inputs.bfloat16())
    assert not kind.in_place.runs_in_place(inputs.t())
