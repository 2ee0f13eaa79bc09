"""Our attention under the name by which transformers' layers call it, and what a model asks of it.

transformers lets a configuration name the attention function of its layers. Ours is registered without a mask
function: for such a name transformers makes no masks. The paged cache needs none, because positions alone say
which token sees which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from neuron.device.attention import AttentionParams, attend
from neuron.device.kv_cache import KVShape

ATTENTION_NAME = "neuron_paged"

# Tensors among the options that do not change what is computed. Any other would.
_IGNORED = {"position_ids", "cache_position"}


class UnsupportedAttentionError(Exception):
    """A model asks of its attention what the paged cache does not do; the message says what."""


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Return (1, tokens, heads, dim) for query, key and value of (1, heads, tokens, dim) each.

    The signature is that of transformers' attention functions. Raises UnsupportedAttentionError.
    """
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
        if isinstance(option, Tensor) and name != "s_aux" and name not in _IGNORED:
            raise UnsupportedAttentionError(f"its attention needs {name}")
    layer: Any = module.layer_idx
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(layer, query, key, value, params=params).unsqueeze(0), None


class AttentionProbe:
    """An `AttentionBackend` for one short sequence, without a cache: records what layers store and ask."""

    def __init__(self) -> None:
        self.layers: dict[int, KVShape] = {}
        self.params: dict[int, AttentionParams] = {}

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, params: AttentionParams
    ) -> Tensor:
        if layer in self.layers:
            raise UnsupportedAttentionError(f"layer {layer} attends more than once")
        self.layers[layer] = KVShape(key.shape[1], key.shape[2], value.shape[2])
        self.params[layer] = params
        is_grouped = query.shape[1] != key.shape[1]
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=params.scale, enable_gqa=is_grouped
        )
        return out[0].transpose(0, 1)


AttentionInterface.register(ATTENTION_NAME, paged_attention)
