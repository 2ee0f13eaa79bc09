"""Attention of one token by C is torch's over the tokens that the pages hold."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ext import matmul
from neuron.device.attention import AttentionParams
from neuron.device.attention_step import attend_in_place, attends_in_place

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


def test_what_it_does_not_compute_is_left_to_others():
    pool = torch.zeros(2, 4, 1, 16)
    plain = AttentionParams(scale=1.0)
    assert attends_in_place(2, pool, pool, plain) is (NATIVE is not None)
    assert not attends_in_place(2, pool, pool, AttentionParams(scale=1.0, softcap=2.0))
    assert not attends_in_place(2, pool.to(torch.int8), pool.to(torch.int8), plain)
    assert not attends_in_place(2, pool[..., :8], pool[..., :8], plain)
    assert not attends_in_place(257, pool, pool, plain)
