"""How tensors of a GGUF file become those of Hugging Face's modules.

Everything here moves whole rows, so that it does with stored blocks what it does with numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

Arrange = Callable[[Sequence[Tensor]], Tensor]


def as_stored(parts: Sequence[Tensor]) -> Tensor:
    (tensor,) = parts
    return tensor


def unpermuted(heads: int, parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of queries or keys in the order of halves that Hugging Face rotates.

    GGUF's neighbours (2i, 2i + 1) of a head are its (i, i + d/2).
    """
    tensor = as_stored(parts)
    rows = torch.arange(len(tensor)).view(heads, -1, 2).transpose(1, 2).flatten()
    return tensor[rows]


def less_one(parts: Sequence[Tensor]) -> Tensor:
    """Return a norm's weight as modules have it that add one to it."""
    return as_stored(parts).float() - 1.0


def rows_between(start: int, end: int, then: Arrange, parts: Sequence[Tensor]) -> Tensor:
    """Return some rows of a tensor that several are joined in, arranged."""
    return then([as_stored(parts)[start:end]])


def gate_and_up(parts: Sequence[Tensor]) -> Tensor:
    """Return the experts' gates, and below them what they gate."""
    return torch.cat(list(parts), dim=1)


def interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of two tensors of experts in turns: a gate's, and one that it gates."""
    joined = parts[0] if len(parts) == 1 else gate_and_up(parts)
    half = joined.shape[1] // 2
    rows = torch.stack([torch.arange(half), torch.arange(half) + half], 1).flatten()
    return joined.index_select(1, rows)


def interleaved_transposed(parts: Sequence[Tensor]) -> Tensor:
    return interleaved(parts).transpose(1, 2)


def transposed(parts: Sequence[Tensor]) -> Tensor:
    return as_stored(parts).transpose(1, 2)


def as_row(parts: Sequence[Tensor]) -> Tensor:
    """Return a weight of one output with its dimension."""
    tensor = as_stored(parts)
    return tensor[None] if tensor.ndim == 1 else tensor


def as_filters(parts: Sequence[Tensor]) -> Tensor:
    """Return a convolution's filters, each of one channel."""
    return as_stored(parts).unsqueeze(1)


def unpermuted_heads(heads: int) -> Arrange:
    return partial(unpermuted, heads)
