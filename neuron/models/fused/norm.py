"""Norms in float32 by few operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.device.collective import mean_of_ranks

OF_ALL_RANKS = "is_of_all_ranks"  # of a module of transformers whose norm is a `JoinedRmsNorm`
Norm = Callable[[Tensor], Tensor]  # over the last dimension, to the same shape


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """The root mean square norm (Zhang and Sennrich 2019), to `dtype`.

    Computed in float32, as `weight` is, by fewer operations than torch's own consists of.
    """

    weight: Tensor  # float32, (dim,), or any shape that ends with it
    eps: Tensor  # float32, a scalar
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        is_float = self.dtype is torch.float32 and self.weight.ndim == 1
        if is_float and row_steps.runs_in_c(x) and x.is_contiguous():
            return row_steps.norm(x, self.weight, self.eps)
        x = x.float()  # at once: operations on two types take several times as long
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self.eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(self.weight).to(self.dtype)


@dataclass(frozen=True, slots=True)
class JoinedRmsNorm:
    """The same over what all ranks of a group have, as much on each."""

    weight: Tensor
    eps: Tensor
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        x = x.float()
        mean = mean_of_ranks(x.square().mean(-1, keepdim=True))
        return (x * mean.add_(self.eps).rsqrt_()).mul_(self.weight).to(self.dtype)


NormBuilder = Callable[[Any, torch.dtype], RmsNorm]  # of transformers' module, and the dtype of results


def rms_norm(module: Any, dtype: torch.dtype) -> RmsNorm:
    """Return the norm of a module like Llama's."""
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    weight = module.weight.float()
    return RmsNorm(weight, torch.tensor(eps, device=weight.device), dtype)


def rms_norm_plus_one(module: Any, dtype: torch.dtype) -> RmsNorm:
    """Return the norm of a module like Gemma's, whose weight is stored as its distance from one."""
    norm = rms_norm(module, dtype)
    return RmsNorm(norm.weight + 1, norm.eps, dtype)


def l2_norm(x: Tensor) -> Tensor:
    """Return `x` divided by its length over the last dimension, in float32."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * norm.square_().add_(1e-6).rsqrt_()
