"""Attention over cached latents (MLA), by one product of all that its input is multiplied with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape
from neuron.device.latent import LatentProjection
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.fused.norm import RmsNorm
from neuron.models.linear import PackedLinear, pack_linear, pack_matrices, take_matrix
from neuron.models.matrix import Matrix


@dataclass(frozen=True, slots=True)
class PositionScale:
    """Factors of queries, which grow with their positions (Llama 4)."""

    beta: float
    context: int  # tokens up to which the factor is 1

    def __call__(self, positions: Tensor) -> Tensor:
        """Return (tokens, 1, 1)."""
        factors = 1 + self.beta * torch.log(1 + torch.floor(positions / self.context))
        return factors[:, None, None]


@dataclass(frozen=True, slots=True)
class LatentAttention(LayerKind):
    """Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1)."""

    layer: int
    heads: int
    shape: KVShape
    params: AttentionParams
    latent: LatentProjection  # also in `params`
    dtype: torch.dtype  # of what is stored
    first: PackedLinear  # to queries or what they are made of, latents, and the part of keys that heads share
    query_norm: RmsNorm | None
    query: PackedLinear | None
    query_scale: PositionScale | None
    latent_norm: RmsNorm
    out: PackedLinear

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        first = self.first(x)
        query, cached = first[:, : -self.shape.key_dim], first[:, -self.shape.key_dim :]
        if self.query_norm and self.query:
            query = self.query(self.query_norm(query))
        query = query.view(len(x), self.heads, -1)
        latent, shared = cached[:, : self.latent.rank], cached[:, self.latent.rank :]
        if step.rotation:
            query, shared = self._rotate(query, shared, step)
        if self.query_scale:
            query = (query * self.query_scale(step.positions)).to(query.dtype)
        cached = torch.cat([self.latent_norm(latent), shared], dim=-1).to(self.dtype).unsqueeze(1)
        out = attend(self.layer, query.to(self.dtype), cached, cached, params=self.params)
        return self.out(out.reshape(len(x), -1).to(x.dtype))

    def _rotate(self, query: Tensor, shared: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Return `query`, (tokens, heads, dim), with the end of each head rotated, and rotated `shared`."""
        assert step.rotation
        ends = query[..., self.latent.key_dim :]
        rotated = step.rotation(torch.cat([ends, shared.unsqueeze(1)], dim=1))
        ends.copy_(rotated[:, :-1])
        return query, rotated[:, -1]

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return (self.first, self.query, self.out) if self.query else (self.first, self.out)

    @property
    def kv_shapes(self) -> Mapping[int, KVShape]:
        return {self.layer: self.shape}

    @property
    def is_capturable(self) -> bool:
        return self.params.is_plain


def latent_attention(module: Any, facts: ModelFacts) -> LatentAttention:
    """Return the attention of a module like DeepSeek-V3's, which rotates as its configuration says."""
    return _latent_attention(module, facts, is_interleaved=facts.config.rope_interleave)


def interleaved_latent_attention(module: Any, facts: ModelFacts) -> LatentAttention:
    """Return the attention of a module like DeepSeek-V2's, which rotates neighbours with each other."""
    return _latent_attention(module, facts, is_interleaved=True)


def _latent_attention(module: Any, facts: ModelFacts, *, is_interleaved: bool) -> LatentAttention:
    layer = module.layer_idx
    params = facts.probe.attention.params[layer]
    assert params.latent, "`keep_latents` has replaced what expands them"
    latent = replace(params.latent, weight=params.latent.weight.to(facts.activations))
    module.kv_b_proj.weight = None
    cached = take_matrix(module.kv_a_proj_with_mqa)
    is_direct = module.q_lora_rank is None
    query = take_matrix(module.q_proj if is_direct else module.q_b_proj)
    if is_interleaved:
        rotated = module.qk_rope_head_dim
        query = _parted(query, module.num_heads, rotated)
        cached = _parted(cached, 1, rotated)
    return LatentAttention(
        layer=layer,
        heads=module.num_heads,
        shape=facts.probe.attention.layers[layer],
        params=replace(params, latent=latent),
        latent=latent,
        dtype=facts.dtype,
        first=pack_matrices([query if is_direct else take_matrix(module.q_a_proj), cached]),
        query_norm=None if is_direct else facts.norm(module.q_a_layernorm, facts.activations),
        query=None if is_direct else pack_matrices([query]),
        query_scale=_query_scale(facts.config),
        latent_norm=facts.norm(module.kv_a_layernorm, facts.activations),
        out=pack_linear([module.o_proj]),
    )


def _parted(matrix: Matrix, heads: int, rotated: int) -> Matrix:
    """Return the matrix with the last `rotated` outputs of each head reordered: the even ones, then the odd.

    So neighbours come to lie half of them apart, as `Rotation` has it. The order is the same in queries and
    keys, whose products it does not change.
    """
    order = torch.arange(len(matrix.blocks[0]), device=matrix.blocks[0].device).view(heads, -1)
    ends = order[:, -rotated:].clone()
    order[:, -rotated:] = torch.cat([ends[:, 0::2], ends[:, 1::2]], dim=1)
    return matrix[order.flatten()]


def _query_scale(config: Any) -> PositionScale | None:
    rope = config.rope_parameters or {}
    beta = rope.get("llama_4_scaling_beta")
    return PositionScale(beta, rope["original_max_position_embeddings"]) if beta else None
