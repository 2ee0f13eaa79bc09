"""Causal convolutions of each channel over a step's sequences, which keep the tail of what they have read."""

from __future__ import annotations

import torch
from torch import Tensor

from neuron.device.state_pool import StateName, StateShape, state_groups


def tail_shape(weight: Tensor, dtype: torch.dtype) -> StateShape:
    """Return the shape of the state that a convolution with `weight`, (kernel, channels), keeps."""
    kernel, channels = weight.shape
    return StateShape((kernel - 1, channels), dtype)


def convolve(name: StateName, flat: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution of `flat`, (tokens, channels), in float32.

    `weight` is (kernel, channels) in float32, its last row for the token itself. The state `name` has what
    went before each sequence's part.
    """
    parts = []
    for group in state_groups():
        window = torch.cat([group.read(name), group.cut(flat)], 1)
        group.write(name, window[:, group.width :])
        parts.append(_convolve(window, weight).flatten(0, 1))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out if bias is None else out.add_(bias)


def _convolve(window: Tensor, weight: Tensor) -> Tensor:
    """Return (rows, width, channels) for a window of (rows, kernel - 1 + width, channels)."""
    width = window.shape[1] - len(weight) + 1
    window = window.float()
    if width == 1:
        return window.mul(weight).sum(1, keepdim=True)
    out = window[:, :width] * weight[0]
    for offset in range(1, len(weight)):
        out.addcmul_(window[:, offset : offset + width], weight[offset])
    return out
