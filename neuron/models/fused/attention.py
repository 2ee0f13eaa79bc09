"""Attention over cached keys and values, with one product for queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.fused.norm import Norm, RmsNorm
from neuron.models.linear import PackedLinear, pack_linear


@dataclass(frozen=True, slots=True)
class JointNorm:
    """The norms of queries and keys over all heads at once."""

    query: RmsNorm
    key: RmsNorm
    heads: int

    def __call__(self, qk: Tensor) -> Tensor:
        query, key = qk[:, : self.heads].flatten(1), qk[:, self.heads :].flatten(1)
        return torch.cat([self.query(query), self.key(key)], -1).view(qk.shape)


@dataclass(frozen=True, slots=True)
class Attention(LayerKind):
    """Grouped-query attention (Ainslie et al. 2023), rotated if its model has rotary embeddings."""

    layer: int
    heads: int
    shape: KVShape
    params: AttentionParams
    dtype: torch.dtype  # of what is stored
    qkv: PackedLinear
    qk_norm: Norm | None  # of queries and keys, (tokens, heads + kv_heads, head_dim)
    out: PackedLinear

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        # (tokens, heads of query, key and value in this order, head_dim)
        qkv = self.qkv(x).view(len(x), -1, self.shape.key_dim)
        num_rotated = self.heads + self.shape.kv_heads
        qk, value = qkv[:, :num_rotated], qkv[:, num_rotated:].to(self.dtype)
        if self.qk_norm:
            qk = self.qk_norm(qk)
        if step.rotation:
            qk = step.rotation(qk)
        qk = qk.to(self.dtype)
        out = attend(self.layer, qk[:, : self.heads], qk[:, self.heads :], value, params=self.params)
        return self.out(out.reshape(len(x), -1).to(x.dtype))

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.qkv, self.out

    @property
    def kv_shapes(self) -> Mapping[int, KVShape]:
        return {self.layer: self.shape}

    @property
    def is_capturable(self) -> bool:
        return self.params.is_plain


def attention(module: Any, facts: ModelFacts) -> Attention:
    """Return the attention of a module with `q_proj`, `k_proj`, `v_proj` and `o_proj`."""
    layer = module.layer_idx
    shape = facts.probe.attention.layers[layer]
    heads = module.q_proj.out_features // shape.key_dim
    return Attention(
        layer=layer,
        heads=heads,
        shape=shape,
        params=facts.probe.attention.params[layer],
        dtype=facts.dtype,
        qkv=pack_linear([module.q_proj, module.k_proj, module.v_proj]),
        qk_norm=_qk_norm(module, heads, shape.kv_heads, facts),
        out=pack_linear([module.o_proj]),
    )


def _qk_norm(module: Any, heads: int, kv_heads: int, facts: ModelFacts) -> Norm | None:
    """Return the norms of queries and keys as one, be they of each head or of all."""
    if not hasattr(module, "q_norm"):
        return None
    query, key = (facts.norm(norm, facts.activations) for norm in (module.q_norm, module.k_norm))
    if len(query.weight) * heads != module.q_proj.out_features:
        return JointNorm(query, key, heads)
    weight = torch.cat([query.weight.expand(heads, -1), key.weight.expand(kv_heads, -1)])
    return RmsNorm(weight, query.eps, query.dtype)
