"""Layers of transformers that do not go on from their states as they begin, put right.

RecurrentGemma's blocks (Griffin, arXiv 2402.19427) remember one batch from call to call, in attributes: the
tail of a convolution and the state of a recurrence. Zamba2's layers (arXiv 2411.15242) bound their time steps
from below when they read a prompt, and not when they read a single token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def mend_layers(model: Any, text_config: Any) -> None:
    """Change the layers of a model in place, if they are of these kinds."""
    if text_config.model_type == "recurrent_gemma":
        for index, layer in enumerate(model.model.layers):
            if text_config.layer_types[index] == "linear_attention":
                layer.temporal_block.forward = _CachedBlock(layer.temporal_block, index)
    if text_config.model_type == "zamba2":
        for module in model.modules():
            if hasattr(module, "time_step_limit"):
                module.in_proj.register_forward_hook(_LeastTimeStep(module))


class _CachedBlock:
    """The forward of a block of RecurrentGemma, with its states in the cache that it is called with."""

    def __init__(self, block: Any, layer: int) -> None:
        self._block = block
        self._layer = layer
        self._forward: Callable[..., tuple[Tensor, None]] = block.forward

    def __call__(self, *args: Any, past_key_values: Any = None, **options: Any) -> tuple[Tensor, None]:
        block, layer, cache = self._block, self._layer, past_key_values
        block.conv1d_state = cache.get_conv_state(layer)
        block.rg_lru.recurrent_states = cache.get_recurrent_state(layer)
        out = self._forward(*args, **options | {"use_cache": True})
        cache.update_conv_state(block.conv1d_state, layer, conv_kernel_size=block.conv1d_width - 1)
        cache.update_recurrent_state(block.rg_lru.recurrent_states, layer)
        block.conv1d_state = block.rg_lru.recurrent_states = None
        return out


class _LeastTimeStep:
    """Bounds the time steps that a layer projects, before their bias is added and softplus taken."""

    def __init__(self, layer: Any) -> None:
        self._heads: int = layer.num_heads
        self._bias: Tensor = layer.dt_bias
        self._least = math.log(math.expm1(layer.time_step_limit[0]))  # softplus of it is the limit

    def __call__(self, _: object, __: object, projected: Tensor) -> Tensor:
        others, steps = projected[..., : -self._heads], projected[..., -self._heads :]
        least = (self._least - self._bias).to(steps.dtype)
        return torch.cat([others, torch.maximum(steps, least)], dim=-1)
