"""What a model will take, from its configuration and the headers of its files, before weights are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from neuron.device.kv_cache import KVShape
from neuron.device.page_pool import Coding
from neuron.models.checkpoint import BUFFER_TYPES, ITEM_BYTES, Checkpoint
from neuron.models.indexer_interface import INDEXED_LAYERS
from neuron.models.state_interface import SILENT_LAYERS

MIB = 1 << 20
_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}  # as GGUF has them
_LOGIT_COPIES = 3  # float32 logits, and what sampling makes of them
_HIDDEN_COPIES = 8  # of each token's state: residual, norm, query, key, value, attention, two projections
_HEAD_COPIES = (
    3  # of heads that share latents and are larger than the hidden state: query, its rotation, output
)
_GATE_COPIES = 3  # gate, up, and their product


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on the device."""

    weights: int
    cache: int  # the smallest with which the model is useful
    activations: int  # of the largest step

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations

    def __str__(self) -> str:
        parts = ("weights", self.weights), ("cache at least", self.cache), ("activations", self.activations)
        return f"{_mib(self.total)} MiB ({', '.join(f'{name} {_mib(size)}' for name, size in parts)})"


def estimate_memory(
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    *,
    context: int,
    step_tokens: int,
    rows: int,
    coding: Coding | None = None,
) -> MemoryEstimate:
    """Return the estimate for a cache of `context` tokens, and steps of `step_tokens` with `rows` logits.

    Sizes that a configuration keeps under other names count as 0. Then only the weights, which are exact, and
    what is measured after loading protect the device. States that layers keep beside the cache are counted
    after loading, too.
    """
    config = checkpoint.config.get("text_config") or checkpoint.config

    def size(name: str) -> int:
        value = config.get(name)
        return value if isinstance(value, int) else 0

    hidden, heads = size("hidden_size"), size("num_attention_heads")
    head_dim = size("head_dim") or (hidden // heads if heads else 0)
    kv_heads = size("num_key_value_heads") or heads
    context = min(context, size("max_position_embeddings") or context)
    kinds = config.get("layer_types")
    silent = [kind for kind in kinds if kind in SILENT_LAYERS] if isinstance(kinds, list) else []
    num_attending = max(0, size("num_hidden_layers") - len(silent))
    # Tied weights are stored once, but the head's plain numbers are packed for its linear layer and the
    # embedding's are not.
    tied = 0
    if config.get("tie_word_embeddings") and _is_plain(checkpoint, (size("vocab_size"), hidden)):
        tied = size("vocab_size") * hidden * dtype.itemsize
    cached = KVShape(kv_heads, head_dim, head_dim)
    per_token = _HIDDEN_COPIES * hidden + _GATE_COPIES * size("intermediate_size")
    if rank := size("kv_lora_rank"):
        rotated = size("qk_rope_head_dim")
        cached = KVShape(1, rank + rotated, 0, values_are_keys=True)
        per_token += _HEAD_COPIES * heads * (size("qk_nope_head_dim") + rotated)
    index = _index_values(config) * dtype.itemsize
    return MemoryEstimate(
        weights=weight_bytes(checkpoint, dtype) + tied,
        cache=context * (num_attending * cached.num_bytes(dtype, coding) + index),
        activations=step_tokens * per_token * dtype.itemsize + rows * _LOGIT_COPIES * 4 * size("vocab_size"),
    )


def _index_values(config: Mapping[str, Any]) -> int:
    """Return the values of a token's index keys, in all layers whose indexers choose for themselves."""
    dim, kinds, modes = config.get("index_head_dim"), config.get("layer_types"), config.get("indexer_types")
    if not isinstance(dim, int) or not isinstance(count := config.get("num_hidden_layers"), int):
        return 0
    kinds = kinds if isinstance(kinds, list) else ["indexed_attention"] * count
    modes = modes if isinstance(modes, list) else ["full"] * count
    pairs = zip(kinds, modes, strict=False)
    choosing = [kind for kind, mode in pairs if kind in INDEXED_LAYERS and mode != "shared"]
    return dim * len(choosing)


def _is_plain(checkpoint: Checkpoint, shape: tuple[int, int]) -> bool:
    """Return whether a matrix of that shape is loaded as plain numbers."""
    return any(entry.shape == shape and entry.dtype in ITEM_BYTES for entry in checkpoint.tensors.values())


def stored_format(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[str, float]:
    """Return the name of the format that most bytes are stored in once loaded, and bits per weight."""
    sizes, num_values = Counter[str](), 0
    for entry in checkpoint.tensors.values():
        if entry.dtype not in BUFFER_TYPES:
            name = _NAMES[dtype] if entry.dtype in ITEM_BYTES else entry.dtype
            sizes[name] += entry.loaded_bytes(dtype.itemsize)
            num_values += prod(entry.shape)
    ((name, _),) = sizes.most_common(1)
    return name, 8 * sizes.total() / num_values


def weight_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Return the bytes of all tensors once those of plain numbers are `dtype`."""
    return sum(entry.loaded_bytes(dtype.itemsize) for entry in checkpoint.tensors.values())


def _mib(size: int) -> int:
    return -(-size // MIB)
