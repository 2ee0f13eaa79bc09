"""States that modules keep as attributes of their own, kept in the cache instead.

RecurrentGemma's blocks remember one batch from call to call: the tail of their convolution and the state of
their recurrence (Griffin, arXiv 2402.19427). Here each takes them from the cache before it runs, and gives
them back after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def keep_states_in_cache(model: Any, layers: list[str]) -> None:
    """Have the modules of a model that keep their states themselves use the cache that they are called with.

    `layers` are transformers' names of the kinds of its layers.
    """
    blocks = [module for module in model.modules() if hasattr(module, "conv1d_state")]
    indices = [index for index, kind in enumerate(layers) if kind == "linear_attention"]
    for block, layer in zip(blocks, indices, strict=bool(blocks)):
        block.forward = _Block(block, layer)


class _Block:
    """The forward of a block of RecurrentGemma."""

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
