"""Texts of different lengths as one row without padding, each of which attends to itself alone.

transformers' layers see one long text. What tells them apart is the attention function, which cuts queries,
keys and values where a text ends. So no step computes anything for padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FLAT_NAME = "neuron_flat"

_lengths: ContextVar[Sequence[int]] = ContextVar("lengths")


@contextmanager
def use_lengths(lengths: Sequence[int]) -> Iterator[None]:
    """Let the layers of models with `FLAT_NAME` attend within texts of these lengths."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


def flat_attention(  # noqa: PLR0913 - transformers' own signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return (1, tokens, heads, dim) for query, key and value of (1, heads, tokens, dim) each.

    The signature is that of transformers' attention functions.
    """
    assert attention_mask is None
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    is_grouped = query.shape[1] != key.shape[1]
    lengths = list(_lengths.get())
    texts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    found = [
        scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scaling, enable_gqa=is_grouped)
        for q, k, v in texts
    ]
    return torch.cat(found, dim=2).transpose(1, 2), None


AttentionInterface.register(FLAT_NAME, flat_attention)
