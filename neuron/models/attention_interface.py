"""Our attention under the name by which transformers' decoders call it, and what a model turns out to need.

transformers lets a configuration name the attention its layers use. Ours is registered as an attention
function only: for a name without a mask function transformers makes no masks, which is what the paged cache
wants, as it knows from positions alone who may see what.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape

ATTENTION_NAME = "neuron_paged"

# Tensors that attention functions are given and ours may ignore; any other would change what is computed.
_IGNORED = {"position_ids", "cache_position"}


class UnsupportedAttentionError(Exception):
    """A model asks of its attention what the paged cache does not do."""


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function: (1, heads, tokens, dim) each, to (1, tokens, heads, dim)."""
    scale = options.get("scaling")
    params = AttentionParams(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=options.get("sliding_window"),
        softcap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    if attention_mask is not None or options.get("is_causal") is False:
        raise UnsupportedAttentionError("it brings its own attention mask")
    for name, option in options.items():
        if isinstance(option, torch.Tensor) and name != "s_aux" and name not in _IGNORED:
            raise UnsupportedAttentionError(f"its attention wants {name}")
    layer: Any = module.layer_idx
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(layer, query, key, value, params=params).unsqueeze(0), None


class AttentionProbe:
    """An `Attention` for one short sequence without a cache: notes what each layer stores and sees."""

    def __init__(self) -> None:
        self.layers: dict[int, KVShape] = {}
        self.params: dict[int, AttentionParams] = {}

    def __call__(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        params: AttentionParams,
    ) -> torch.Tensor:
        if layer in self.layers:
            raise UnsupportedAttentionError(f"layer {layer} attends more than once")
        self.layers[layer] = KVShape(key.shape[1], key.shape[2], value.shape[2])
        self.params[layer] = params
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=params.scale, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out[0].transpose(0, 1)


AttentionInterface.register(ATTENTION_NAME, paged_attention)
