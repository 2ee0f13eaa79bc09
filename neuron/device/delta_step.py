"""What the gated delta rule's layer does between its two products, on a CPU by `ext.matmul`.

torch's operations pass over states and activations some thirty times; this is one call for each group of a
step's chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.device.row_steps import STORED, bits, runs_in_c
from neuron.device.state_pool import StateName, state_groups

_native: Any = matmul.load()
_MOST_CHANNELS = 4096  # of a key head: what a thread's stack has room for


@dataclass(frozen=True, slots=True)
class DeltaLayer:
    """A layer's shape, weights in float32, and the names of its states.

    The norm's weight is (value_dim,), and the convolution's (kernel, channels), of queries, keys and values.
    """

    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    tail: StateName
    tail_dtype: torch.dtype
    memory: StateName
    convolution: Tensor
    rate: Tensor  # (heads,), negative
    rate_bias: Tensor
    most: float  # of a strength
    norm: Tensor
    eps: float

    @property
    def runs_in_c(self) -> bool:
        channels = 2 * self.key_dim + self.heads // self.key_heads * self.value_dim
        return _native is not None and self.tail_dtype in STORED and channels <= _MOST_CHANNELS

    def runs_in_place(self, inputs: Tensor) -> bool:
        """Return whether `__call__` can take these inputs."""
        return self.runs_in_c and runs_in_c(inputs) and inputs.is_contiguous()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (tokens, heads * value_dim), and change the states of the step's sequences.

        `inputs` has for each token what is convolved, a gate for each value, and the strength and rate of
        each head.
        """
        out = inputs.new_empty(len(inputs), self.heads * self.value_dim)
        shape = self.key_heads, self.heads, self.key_dim, self.value_dim, len(self.convolution)
        weights = (
            self.convolution.data_ptr(),
            self.rate.data_ptr(),
            self.rate_bias.data_ptr(),
            bits(self.most),
        )
        for group in state_groups():
            states, tails = group.places(self.memory), group.places(self.tail)
            _native.step_delta_rule(
                *(matmul.instruction_set(), group.rows, group.width, *shape, group.slots.data_ptr()),
                *(states.data_ptr(), tails.data_ptr(), STORED[tails.dtype]),
                *(inputs[group.start :].data_ptr(), *weights, self.norm.data_ptr(), bits(self.eps)),
                *(out[group.start :].data_ptr(), torch.get_num_threads()),
            )
            group.keep(self.memory)
            group.keep(self.tail)
        return out
