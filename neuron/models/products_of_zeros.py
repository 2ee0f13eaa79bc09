"""Products that give zeros of the right shape and read no weights.

What a model does besides is done: masks are made, experts chosen, states written. So the way of tokens
through it takes milliseconds however large it is, and none of a mapped file is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, grouped_mm, linear
from torch.overrides import TorchFunctionMode


class ProductsOfZeros(TorchFunctionMode):
    """A context in which linear layers, embeddings and products of matrices return zeros."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        zeros = _ZEROS.get(func)
        return zeros(*args, **kwargs) if zeros else func(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    del bias
    return x.new_zeros(*x.shape[:-1], weight.shape[0])


def _embedding(tokens: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.zeros(*tokens.shape, weight.shape[1], dtype=weight.dtype, device=weight.device)


def _matmul(a: Tensor, b: Tensor, **_: Any) -> Tensor:
    left, right = (torch.empty(part.shape, dtype=a.dtype, device="meta") for part in (a, b))
    return a.new_zeros(torch.matmul(left, right).shape)


def _grouped_mm(a: Tensor, b: Tensor, **_: Any) -> Tensor:
    return a.new_zeros(a.shape[0], b.shape[-1])


_ZEROS: dict[Any, Callable[..., Tensor]] = {
    linear: _linear,
    embedding: _embedding,
    torch.bmm: _matmul,
    torch.matmul: _matmul,
    Tensor.bmm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    grouped_mm: _grouped_mm,
}
