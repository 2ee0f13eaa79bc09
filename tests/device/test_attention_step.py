"""Attention by C of the last tokens of sequences is torch's over the tokens that the pages hold."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ext import matmul
from neuron.device import sdpa
from neuron.device.attention import AttentionParams
from neuron.device.attention_step import attend_in_place, attends_in_place
from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.sdpa import SdpaAttention
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Joined, StepPlan

NATIVE = matmul.load()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="ext.matmul is not built")
SETS = NATIVE.instruction_sets() if NATIVE else []
PAGES, SIZE = 20, 16
ENDS = [1, 3, 64, 65, 130]  # tokens; 64 are looked at at once


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matmul, "instruction_set", lambda: SETS.index(request.param))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(4, 2, None), (3, 1, 70), (2, 2, 1)])
def test_it_is_torchs(dtype: torch.dtype, heads: int, kv_heads: int, window: int | None):
    torch.manual_seed(0)
    keys = torch.randn(PAGES, SIZE, kv_heads, 32).to(dtype)
    values = torch.randn(PAGES, SIZE, kv_heads, 48).to(dtype)
    query = (5 * torch.randn(len(ENDS), heads + 1, 32)).to(dtype)[:, :heads]
    pages = torch.stack([torch.randperm(PAGES)[: -(-max(ENDS) // SIZE)] for _ in ENDS])
    params = AttentionParams(scale=0.3, window=window)
    assert attends_in_place(heads, keys, values, params)
    found = attend_in_place(query, keys, values, pages, torch.tensor(ENDS), params)
    for row, end in enumerate(ENDS):
        seen = slice(max(0, end - window) if window else 0, end)
        key, value = (pool[pages[row]].flatten(0, 1)[seen].transpose(0, 1).float() for pool in (keys, values))
        wanted = scaled_dot_product_attention(
            query[row].unsqueeze(1).float(), key, value, scale=0.3, enable_gqa=True
        )
        rounding = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found[row].float(), wanted[:, 0], rtol=rounding, atol=rounding)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dims", "width", "window"),
    [
        (4, 2, (32, 48), 16, None),
        (3, 1, (64, 64), 37, None),  # tiles that are no whole number of tokens
        (8, 8, (16, 16), 2, None),
        (5, 1, (256, 128), 3, 70),
        (2, 2, (128, 256), 70, 1),
        (4, 1, (48, 32), 65, 40),
    ],
)
@pytest.mark.parametrize("has_sinks", [False, True])
def test_several_tokens_of_a_sequence_see_none_that_come_later(
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    dims: tuple[int, int],
    width: int,
    window: int | None,
    has_sinks: bool,
):
    torch.manual_seed(1)
    ends = [width, width + 1, 127 + width, 190]
    keys = torch.randn(PAGES, SIZE, kv_heads, dims[0]).to(dtype)
    values = torch.randn(PAGES, SIZE, kv_heads, dims[1]).to(dtype)
    query = (3 * torch.randn(len(ends) * width, heads, dims[0])).to(dtype)
    pages = torch.stack([torch.randperm(PAGES)[: -(-max(ends) // SIZE)] for _ in ends])
    sinks = torch.randn(heads) if has_sinks else None
    params = AttentionParams(scale=0.1, window=window, sinks=sinks)
    assert attends_in_place(heads, keys, values, params, width=width)
    found = attend_in_place(query, keys, values, pages, torch.tensor(ends), params)
    for row, (end, queries) in enumerate(zip(ends, query.split(width), strict=True)):
        key, value = (pool[pages[row]].flatten(0, 1)[:end].float() for pool in (keys, values))
        wanted = _attention(queries.float(), key, value, params)
        rounding = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(
            found[row * width : (row + 1) * width].float(), wanted, rtol=rounding, atol=rounding
        )


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, params: AttentionParams
) -> torch.Tensor:
    """Attention of the last tokens of a sequence, (tokens, heads, value_dim), in the plainest way."""
    width, heads, _ = query.shape
    key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * params.scale
    distance = torch.arange(len(key) - width, len(key))[:, None] - torch.arange(len(key))
    scores[:, (distance < 0) | (distance >= (params.window or len(key)))] = float("-inf")
    if params.sinks is not None:
        scores = torch.cat([scores, params.sinks[:, None, None].expand(heads, width, 1)], dim=2)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=2)[:, :, : len(key)], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("params", [AttentionParams(scale=0.2), AttentionParams(scale=0.2, window=20)])
def test_a_step_of_prompts_and_answers_is_torchs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, params: AttentionParams
):
    """Two answers, and three pieces of prompts that are of two lengths."""
    torch.manual_seed(2)
    shape = CacheShape(num_pages=PAGES, page_size=SIZE, num_slots=5, context=4 * SIZE)
    lengths = [(40, 1), (33, 1), (0, 24), (16, 24), (30, 9)]  # before, and of the step
    chunks = [Chunk(slot, (0,) * count, before) for slot, (before, count) in enumerate(lengths)]
    joined = [Joined(slot, Sampling(), (), (), tuple(range(4 * slot, 4 * slot + 4))) for slot in range(5)]
    plan = StepPlan(tuple(chunks), tuple(joined))
    table = PageTable(shape, torch.device("cpu"))
    table.update(plan)
    batch = Batch(plan, table, shape)
    stored = torch.randn(2, PAGES + 1, SIZE, 2, 32)
    query, key, value = (torch.randn(plan.num_tokens, heads, 32).to(dtype).float() for heads in (4, 2, 2))

    def step() -> torch.Tensor:
        layers = {0: KVShape(kv_heads=2, key_dim=32, value_dim=32)}
        cache = KVCache(layers, shape, dtype=dtype, device=torch.device("cpu"))
        for pool, vectors in zip(cache.pools(0), stored, strict=True):
            pool.copy_(vectors)
        backend = SdpaAttention(cache, batch)
        assert backend.takes_floats
        return backend(0, query, key, value, params=params).float()

    found = step()
    monkeypatch.setattr(sdpa, "attends_in_place", lambda *_, **__: False)
    rounding = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(found, step(), rtol=rounding, atol=rounding)


@pytest.mark.usefixtures("instruction_set")
def test_what_is_no_number_stays_none():
    pool = torch.zeros(1, SIZE, 1, 16)
    pool[0, 3] = float("nan")
    query, pages = torch.ones(8, 1, 16), torch.zeros(1, 1, dtype=torch.int64)
    found = attend_in_place(query, pool, pool, pages, torch.tensor([8]), AttentionParams(scale=1.0))
    assert found[3:].isnan().all()


def test_what_it_does_not_compute_is_left_to_others():
    pool = torch.zeros(2, 4, 1, 16)
    plain = AttentionParams(scale=1.0)
    assert attends_in_place(2, pool, pool, plain) is (NATIVE is not None)
    assert not attends_in_place(2, pool, pool, AttentionParams(scale=1.0, softcap=2.0))
    assert not attends_in_place(2, pool.to(torch.int8), pool.to(torch.int8), plain)
    assert not attends_in_place(2, pool[..., :8], pool[..., :8], plain)
    assert not attends_in_place(257, pool, pool, plain)
    wide = torch.zeros(2, 4, 1, 512)
    assert attends_in_place(2, wide, wide, plain) is (NATIVE is not None)
    assert not attends_in_place(2, wide, wide, plain, width=2)
