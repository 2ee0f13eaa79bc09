"""Latents in the cache: what they take, and what heads make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neuron.device import latent as latents
from neuron.device.attention import AttentionParams
from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache, KVShape, PageTable, bytes_per_token
from neuron.device.latent import LatentProjection
from neuron.device.sdpa import SdpaAttention
from neuron.pipe import Sampling
from neuron.step import CacheShape, Chunk, Joined, StepPlan
from tests.device.serving import decoder
from tests.device.zoo import save

HEADS, KEY, ROTATED, VALUE, RANK = 4, 16, 8, 12, 32
CPU = torch.device("cpu")


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("family", "num_attending"),
    [
        ("deepseek_v2", 3),
        ("deepseek_v3", 3),
        ("glm4_moe_lite", 3),
        ("kimi_linear", 1),
        ("longcat_flash", 4),
        ("minicpm3", 3),
    ],
)
def test_a_token_takes_the_bytes_of_its_latents(family: str, num_attending: int, fused: bool, tmp_path: Path):
    loaded = decoder(save(tmp_path, family), fused=fused)
    assert bytes_per_token(loaded.layers, loaded.dtype) == num_attending * (RANK + ROTATED) * 4
    shape = CacheShape(num_pages=10, page_size=8, num_slots=1, context=80)
    cache = KVCache(loaded.layers, shape, dtype=loaded.dtype, device=CPU)
    tensors = {id(pool): pool for layer in loaded.layers for pool in cache.pools(layer)}
    assert sum(pool.nbytes for pool in tensors.values()) == cache.num_bytes


def random_projection() -> LatentProjection:
    return LatentProjection(torch.randn(HEADS, KEY + VALUE, RANK), KEY)


def test_what_is_expanded_is_what_heads_make_of_a_latent():
    projection = random_projection()
    cached = torch.randn(2, 1, 5, RANK + ROTATED)
    key, value = projection.expand(cached)
    assert key.shape == value.shape == (2, HEADS, 5, KEY + ROTATED)
    for head in range(HEADS):
        both = cached[:, 0, :, :RANK] @ projection.weight[head].T
        torch.testing.assert_close(key[:, head, :, :KEY], both[..., :KEY])
        torch.testing.assert_close(value[:, head, :, :VALUE], both[..., KEY:])
    assert torch.equal(key[..., KEY:], cached[..., RANK:].expand(-1, HEADS, -1, -1))
    assert not value[..., VALUE:].any()


def attend(params: AttentionParams, width: int) -> torch.Tensor:
    """What `width` random tokens after 40 others come to, always the same."""
    generator = torch.Generator().manual_seed(3)
    shape = CacheShape(num_pages=16, page_size=8, num_slots=1, context=128)
    table = PageTable(shape, CPU)
    cache = KVCache(
        {0: KVShape(1, RANK + ROTATED, RANK + ROTATED, True)}, shape, dtype=torch.float32, device=CPU
    )
    out = torch.empty(0)
    for start, count in ((0, 40), (40, width)):
        joined = (Joined(0, Sampling(), (), (), tuple(range(16))),) if start == 0 else ()
        plan = StepPlan((Chunk(0, (0,) * count, start),), joined)
        table.update(plan)
        query = torch.randn(count, HEADS, KEY + ROTATED, generator=generator)
        cached = torch.randn(count, 1, RANK + ROTATED, generator=generator)
        out = SdpaAttention(cache, Batch(plan, table, shape))(0, query, cached, cached, params=params)
    return out


@pytest.mark.parametrize("width", [1, 7, 31, 32, 60])
def test_absorbed_and_expanded_attention_agree(width: int, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(5)
    projection = random_projection()
    params = AttentionParams(scale=0.2, window=50, latent=projection)
    found = []
    for choice in (True, False):
        monkeypatch.setattr(LatentProjection, "is_worth_expanding", lambda *_, choice=choice: choice)
        found.append(attend(params, width))
    assert found[0].shape == (width, HEADS, VALUE)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    chosen = attend(params, width)
    assert torch.equal(chosen, found[0] if projection.is_worth_expanding(width) else found[1])


def test_long_chunks_are_expanded_and_short_ones_absorbed():
    """DeepSeek-V3's sizes: what both take is equal at 171 tokens. Never if a latent is as short as a key."""
    projection = LatentProjection(torch.empty(128, 256, 512), 128)
    assert [projection.is_worth_expanding(width) for width in (1, 170, 171, 2048)] == [
        False,
        False,
        True,
        True,
    ]
    short = LatentProjection(torch.empty(4, 32, 16), 16)
    assert not short.is_worth_expanding(100_000)


def test_no_more_heads_are_expanded_at_once_than_fit(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(5)
    params = AttentionParams(scale=0.2, latent=random_projection())
    whole = attend(params, 60)
    monkeypatch.setattr(latents, "_MAX_EXPANDED", 2 * 104 * (KEY + VALUE))
    assert params.latent
    assert list(params.latent.head_slices(104)) == [slice(0, 2), slice(2, 4)]
    torch.testing.assert_close(attend(params, 60), whole)
    monkeypatch.setattr(latents, "_MAX_EXPANDED", 1)
    torch.testing.assert_close(attend(params, 60), whole)
