"""What a model will take, from its configuration and the headers of its files, before weights are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import torch

from neuron.device.kv_cache import KVShape
from neuron.device.page_pool import Coding
from neuron.models.checkpoint import BUFFER_TYPES, ITEM_BYTES, Checkpoint
from neuron.models.config_sizes import ConfigSizes

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
    sizes = ConfigSizes.of(checkpoint.config)
    size = sizes.size
    hidden, heads = size("hidden_size"), size("num_attention_heads")
    context = min(context, size("max_position_embeddings") or context)
    # Tied weights are stored once, but the head's plain numbers are packed for its linear layer and the
    # embedding's are not.
    tied = 0
    if sizes.text.get("tie_word_embeddings") and _is_plain(checkpoint, (size("vocab_size"), hidden)):
        tied = size("vocab_size") * hidden * dtype.itemsize
    cached = KVShape(sizes.kv_heads, sizes.head_dim, sizes.head_dim)
    per_token = _HIDDEN_COPIES * hidden + _GATE_COPIES * size("intermediate_size")
    if latent := sizes.latent_dim:
        cached = KVShape(1, latent, 0, values_are_keys=True)
        per_token += _HEAD_COPIES * heads * (size("qk_nope_head_dim") + size("qk_rope_head_dim"))
    index = sizes.index_values * dtype.itemsize
    return MemoryEstimate(
        weights=weight_bytes(checkpoint, dtype) + tied,
        cache=context * (sizes.num_attending * cached.num_bytes(dtype, coding) + index),
        activations=step_tokens * per_token * dtype.itemsize + rows * _LOGIT_COPIES * 4 * size("vocab_size"),
    )


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
    return sum(entry.loaded_bytes(dtype.itemsize) for entry in checkpoint.entries)


def head_bytes(checkpoint: Checkpoint, dtype: torch.dtype) -> int:
    """Return the bytes of the multi-token head that a checkpoint is read with, as `weight_bytes` counts."""
    if checkpoint.head is None:
        return 0
    layer = [entry for name, entry in checkpoint.tensors.items() if name.startswith(checkpoint.head.layer)]
    return sum(entry.loaded_bytes(dtype.itemsize) for entry in (*layer, *checkpoint.head.own))


def _mib(size: int) -> int:
    return -(-size // MIB)
