"""What encoders compute, vision towers among them, by C on a CPU where that is quicker than torch.

torch takes twice as long for both: its GELU as long as for one of the products around it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ext import matmul
from neuron.device.row_steps import bits

_native: Any = matmul.load()
_STORED = {torch.float32: 0, torch.bfloat16: 1}
_MOST_DIM = 256
_LEAST_TOKENS = 128  # fewer fill no tile


def attends_whole(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether `attend_whole` takes the tensors of sequences, (sequences, heads, tokens, dim).

    They are of bfloat16, for which torch takes as long as for float32.
    """
    tensors = query, key, value
    return (
        _native is not None
        and all(tensor.ndim == 4 and _is_taken(tensor) for tensor in tensors)
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and query.shape[3] == key.shape[3]
        and query.shape[2] > 0
        and key.shape[2] == value.shape[2] >= _LEAST_TOKENS
    )


def _is_taken(tensor: Tensor) -> bool:
    dim = tensor.shape[-1]
    is_plain = tensor.device.type == "cpu" and tensor.dtype is torch.bfloat16 and tensor.stride(-1) == 1
    return is_plain and 0 < dim <= _MOST_DIM and not dim % 2


def attend_whole(query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor) -> None:
    """Write the attention of one sequence without a mask to `out`, (rows, heads, value_dim), contiguous.

    `query` is (heads, rows, dim), key and value are (heads, tokens, dim).
    """
    heads, rows, key_dim = query.shape
    tokens, value_dim = value.shape[1:]
    places = [number for part in (query, key, value) for number in (part.data_ptr(), *part.stride()[:2])]
    _native.attend_whole(
        *(matmul.instruction_set(), heads, rows, tokens, key_dim, value_dim, *places, bits(scale)),
        *(out.data_ptr(), torch.get_num_threads()),
    )


def has_gelu(x: Tensor) -> bool:
    """Return whether `gelu` takes a tensor."""
    return _native is not None and x.device.type == "cpu" and x.dtype in _STORED and x.is_contiguous()


def gelu(x: Tensor) -> Tensor:
    """Return GELU by its approximation with the hyperbolic tangent."""
    out = torch.empty_like(x)
    _native.gelu(
        *(matmul.instruction_set(), _STORED[x.dtype], x.numel(), x.data_ptr(), out.data_ptr()),
        torch.get_num_threads(),
    )
    return out
