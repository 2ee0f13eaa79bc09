"""A model whose weights stay as they are stored computes what they stand for, and holds them once."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import embedding, linear

from neuron.models.decoder import TransformersDecoder
from neuron.models.fused.decoder import FusedDecoder
from neuron.models.reading import read_checkpoint
from neuron.models.stored_weight import StoredWeight, dense
from tests.device.serving import prompt, texts
from tests.device.stored import int8, load, logits, multiply_plainly, q8_0, stored
from tests.device.zoo import save

PROMPTS = {number: prompt(number, length) for number, length in enumerate((1, 5, 30))}
ALL = dict.fromkeys(("proj", "embed_tokens", "lm_head"), q8_0)
MIXED = dict.fromkeys(("q_proj", "v_proj", "down_proj", "embed_tokens", "experts.1."), q8_0)


@pytest.fixture
def plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply_plainly(monkeypatch)


@pytest.mark.usefixtures("plain_products")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("stores", [ALL, MIXED], ids=["all", "mixed"])
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("qwen3", {}),
        ("qwen3", {"tie_word_embeddings": True}),
        ("qwen3_moe", {}),
        ("deepseek_v3", {"q_lora_rank": 32, "v_head_dim": 16}),
    ],
)
def test_stored_weights_compute_what_they_stand_for(
    family: str, changes: dict[str, Any], stores: dict[str, Any], fused: bool, tmp_path: Path
):
    ours, plain = stored(read_checkpoint(save(tmp_path, family, **changes)), stores)
    found, wanted = load(ours, fused=fused), load(plain, fused=fused)
    assert isinstance(found, FusedDecoder if fused else TransformersDecoder)
    torch.testing.assert_close(logits(found), logits(wanted), rtol=1e-4, atol=1e-4)
    assert texts(found, PROMPTS) == texts(wanted, PROMPTS)


@pytest.mark.usefixtures("plain_products")
@pytest.mark.parametrize("family", ["gemma2", "gptj", "lfm2", "openai-gpt", "qwen3_next", "zamba"])
def test_every_kind_of_decoder_runs_with_stored_weights(family: str, tmp_path: Path):
    ours, plain = stored(read_checkpoint(save(tmp_path, family)), {"proj": int8, "embed": int8, "head": int8})
    prompts = {0: prompt(1, 9)}
    assert texts(load(ours), prompts, max_tokens=4) == texts(load(plain), prompts, max_tokens=4)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe"])
def test_no_plain_copy_of_a_stored_weight_is_held(family: str, fused: bool, tmp_path: Path):
    ours, _ = stored(read_checkpoint(save(tmp_path, family)), ALL)
    shapes = {entry.shape for name, entry in ours.tensors.items() if any(part in name for part in ALL)}
    before = plain_matrices(shapes)
    loaded = load(ours, fused=fused)
    assert plain_matrices(shapes) == before
    assert logits(loaded).isfinite().all()
    assert plain_matrices(shapes) == before


def plain_matrices(shapes: set[tuple[int, ...]]) -> int:
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in {Tensor, torch.nn.Parameter}]
    floats = [each for each in tensors if each.is_floating_point() and each.device.type != "meta"]
    return sum(each.ndim > 1 and tuple(each.shape[-2:]) in shapes for each in floats)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stored_weights_are_multiplied_by_rounded_inputs(dtype: torch.dtype, fused: bool, tmp_path: Path):
    ours, plain = stored(read_checkpoint(save(tmp_path, "qwen3_moe")), ALL)
    found, wanted = (logits(load(each, dtype, fused=fused)) for each in (ours, plain))
    assert (found - wanted).abs().mean() < 0.05 * wanted.std()


@pytest.fixture
def weight() -> StoredWeight:
    return q8_0(torch.randn(6, 64, generator=torch.Generator().manual_seed(1)))


def test_rows_are_moved_as_they_are_stored(weight: StoredWeight):
    plain = dense(weight)
    moves = [
        lambda w: w[2:5],
        lambda w: torch.cat([w, w]),
        lambda w: torch.cat([torch.stack([w, w]), torch.stack([w, w])], dim=1),
        lambda w: torch.stack([w, w], dim=1).flatten(0, 1),
        lambda w: torch.stack([w, w])[1],
        lambda w: torch.chunk(w, 3)[1].contiguous(),
        lambda w: torch.split(w, [1, 2, 3])[2],
        lambda w: torch.unbind(torch.stack([w, w]))[0],
        lambda w: w[torch.tensor([5, 0, 0])],
        lambda w: w.index_select(0, torch.tensor([5, 1])),
        lambda w: w.T,
        lambda w: torch.chunk(w.T, 2, dim=1)[1],
        lambda w: torch.stack([w.T, w.T]).transpose(1, 2),
        lambda w: torch.stack([w, w]).transpose(1, 2)[:, :, 2:4],
        lambda w: w.view(2, 3, 64).transpose(-1, -2).detach().clone(),
        torch.nn.Parameter,
        lambda w: w.to(dtype=torch.bfloat16),
    ]
    for move in moves:
        moved = move(weight)
        assert isinstance(moved, StoredWeight)
        assert moved.shape == move(plain).shape
        assert torch.equal(dense(moved), move(plain))


@pytest.mark.usefixtures("plain_products")
def test_other_operations_are_done_with_plain_numbers(weight: StoredWeight):
    plain, x, tokens = dense(weight), torch.randn(2, 3, 64), torch.tensor([[0, 5], [2, 2]])
    for operation in (
        lambda w: w + 1,
        lambda w: w[:, 3:7],
        lambda w: torch.cat([w, w], dim=1),
        lambda w: torch.cat([w, plain]),
        lambda w: x @ w.T,
        lambda w: w.sum(),
        lambda w: w.to(torch.int32),
    ):
        found = operation(weight)
        assert type(found) is Tensor
        assert torch.equal(found, operation(plain))
    assert torch.equal(embedding(tokens, weight), embedding(tokens, plain))
    assert torch.equal(torch.ones(6, 64).add_(weight), plain + 1)
    assert linear(x[:, :0], weight).shape == (2, 0, 6)
    torch.testing.assert_close(linear(x, weight, x[0, 0, :6]), linear(x, plain, x[0, 0, :6]))
    with pytest.raises(TypeError, match="q8_0"):
        weight.add_(1)
