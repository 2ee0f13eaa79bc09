"""Attention over cached keys and values, with one product for queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.device.attention import AttentionParams, attend, takes_floats
from neuron.device.attention_step import steps_in_place
from neuron.device.kv_cache import KVShape
from neuron.models.fused.layer_kind import LayerKind, ModelFacts, Step
from neuron.models.fused.norm import Norm, RmsNorm
from neuron.models.fused.rotation import Rotation
from neuron.models.linear import PackedLinear, pack_linear, pack_matrices, take_matrix
from neuron.models.matrix import split_heads


@dataclass(frozen=True, slots=True)
class JointNorm:
    """The norms of queries and keys over all heads at once."""

    query: RmsNorm
    key: RmsNorm
    heads: int

    def norm_in_place(self, qk: Tensor) -> None:
        """Norm heads of float32, which are `row_steps.runs_in_c`'s."""
        for norm, part in ((self.query, qk[:, : self.heads]), (self.key, qk[:, self.heads :])):
            row_steps.norm_in_place(part.flatten(1), norm.weight, norm.eps)

    def __call__(self, qk: Tensor) -> Tensor:
        query, key = qk[:, : self.heads].flatten(1), qk[:, self.heads :].flatten(1)
        return torch.cat([self.query(query), self.key(key)], -1).view(qk.shape)


@dataclass(frozen=True, slots=True)
class Attention(LayerKind):
    """Grouped-query attention (Ainslie et al. 2023), rotated if its model has rotary embeddings.

    Where `is_gated`, `qkv` also returns a gate for each value that the queries' heads read.
    """

    layer: int
    heads: int
    shape: KVShape
    params: AttentionParams
    dtype: torch.dtype  # of what is stored
    qkv: PackedLinear
    qk_norm: Norm | None  # of queries and keys, (tokens, heads + kv_heads, head_dim)
    out: PackedLinear
    is_gated: bool = False

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        # (tokens, heads of query, key, value and gate in this order, head_dim)
        qkv = self.qkv(x).view(x.shape[0], -1, self.shape.key_dim)
        num_rotated = self.heads + self.shape.kv_heads
        num_stored = num_rotated + self.shape.kv_heads
        qk, value = qkv[:, :num_rotated], qkv[:, num_rotated:num_stored]
        if self._rotates_in_c(qkv):
            self._rotate(qk, step.rotation)
        else:
            qk = self.qk_norm(qk) if self.qk_norm else qk
            qk = step.rotation(qk) if step.rotation else qk
        if qk.dtype is not self.dtype and not takes_floats():
            qk, value = qk.to(self.dtype), value.to(self.dtype)
        out = attend(self.layer, qk[:, : self.heads], qk[:, self.heads :], value, params=self.params)
        out = out.to(x.dtype).reshape(x.shape[0], -1)
        if self.is_gated:
            out = _gated(out, qkv[:, num_stored:].flatten(1))
        return self.out(out)

    def _rotates_in_c(self, qkv: Tensor) -> bool:
        is_known = self.qk_norm is None or isinstance(self.qk_norm, RmsNorm | JointNorm)
        return is_known and row_steps.runs_in_c(qkv) and self.dtype in row_steps.STORED

    def _rotate(self, qk: Tensor, rotation: Rotation | None) -> None:
        norm = self.qk_norm
        if isinstance(norm, JointNorm):
            norm.norm_in_place(qk)
        weight, eps = (norm.weight, norm.eps) if isinstance(norm, RmsNorm) else (None, None)
        row_steps.rotate(qk, weight, eps, rotation, self.dtype)

    @property
    def linears(self) -> Sequence[PackedLinear]:
        return self.qkv, self.out

    @property
    def kv_shapes(self) -> Mapping[int, KVShape]:
        return {self.layer: self.shape}

    @property
    def is_capturable(self) -> bool:
        return self.params.is_plain

    @property
    def is_recordable(self) -> bool:
        return self.dtype in row_steps.STORED and steps_in_place(self.heads, self.shape, self.params)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    if row_steps.runs_in_c(x) and x.is_contiguous() and gate.stride(-1) == 1:
        return row_steps.sigmoid_gate(x, gate)
    return x * gate.sigmoid()


def attention(module: Any, facts: ModelFacts) -> Attention:
    """Return the attention of a module with `q_proj`, `k_proj`, `v_proj` and `o_proj`."""
    heads = module.q_proj.out_features // facts.probe.attention.layers[module.layer_idx].key_dim
    qkv = pack_linear([module.q_proj, module.k_proj, module.v_proj])
    return _attention(module, heads, qkv, facts)


def gated_attention(module: Any, facts: ModelFacts) -> Attention:
    """Return the attention of a module like Qwen3-Next's, whose `q_proj` gives the gates as well."""
    dim = facts.probe.attention.layers[module.layer_idx].key_dim
    heads = module.q_proj.out_features // (2 * dim)
    query, gate = split_heads(take_matrix(module.q_proj), heads, (dim, dim))
    qkv = pack_matrices([query, take_matrix(module.k_proj), take_matrix(module.v_proj), gate])
    return replace(_attention(module, heads, qkv, facts), is_gated=True)


def _attention(module: Any, heads: int, qkv: PackedLinear, facts: ModelFacts) -> Attention:
    layer = module.layer_idx
    shape, params = facts.probe.attention.layers[layer], facts.probe.attention.params[layer]
    if params.sinks is not None:
        params = replace(params, sinks=params.sinks.float())
    return Attention(
        layer=layer,
        heads=heads,
        shape=shape,
        params=params,
        dtype=facts.dtype,
        qkv=qkv,
        qk_norm=_qk_norm(module, heads, shape, facts),
        out=pack_linear([_named(module, "o_proj", "out_proj")]),
    )


def _qk_norm(module: Any, heads: int, shape: KVShape, facts: ModelFacts) -> Norm | None:
    """Return the norms of queries and keys as one, be they of each head or of all."""
    norms = _named(module, "q_norm", "q_layernorm"), _named(module, "k_norm", "k_layernorm")
    if None in norms:
        return None
    query, key = (facts.norm(norm, facts.activations) for norm in norms)
    if len(query.weight) != shape.key_dim:
        return JointNorm(query, key, heads)
    weight = torch.cat([query.weight.expand(heads, -1), key.weight.expand(shape.kv_heads, -1)])
    return RmsNorm(weight, query.eps, query.dtype)


def _named(module: Any, *names: str) -> Any:
    """Return a module's part by whichever name it has there; None if it has none."""
    return next((part for name in names if (part := getattr(module, name, None)) is not None), None)
