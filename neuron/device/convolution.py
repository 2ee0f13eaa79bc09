"""Causal convolutions of each channel over a step's sequences, which keep the tail of what they have read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.device import row_steps
from neuron.device.state_pool import StateName, StateShape, state_groups

_native: Any = matmul.load()


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


def gates_in_place(inputs: Tensor, dtype: torch.dtype) -> bool:
    """Return whether `convolve_gated` can take these inputs, and change tails of a dtype, in this step."""
    is_known = row_steps.runs_in_c(inputs) and inputs.is_contiguous() and dtype in row_steps.STORED
    return is_known and all(group.width == 1 for group in state_groups())


def convolve_gated(name: StateName, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution of what is gated, times the other gate, (tokens, channels), by one operation.

    `inputs` has for each token the gate before, the gate after, and what they gate, (tokens, 3 * channels).
    """
    out = torch.empty(len(inputs), inputs.shape[1] // 3)
    for group in state_groups():
        tails = group.places(name)
        _native.convolve(
            *(matmul.instruction_set(), group.rows, out.shape[1], len(weight), group.slots.data_ptr()),
            *(tails.data_ptr(), row_steps.STORED[tails.dtype], inputs[group.start :].data_ptr()),
            *(weight.data_ptr(), row_steps.address(bias), out[group.start :].data_ptr()),
            torch.get_num_threads(),
        )
        group.keep(name)
    return out


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
