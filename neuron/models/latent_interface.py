"""Latents in place of keys and values, where transformers' layers would cache them.

An attention module of transformers that has latents (MLA) makes keys and values of them by its `expand_kv`,
just before it attends. `keep_latents` replaces that by something that makes none: so the attention function
is given the latents, and knows by `latent_projection` what to make of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neuron.device.latent import LatentProjection
from neuron.models.stored_weight import dense

_TOLERANCE = 0.02  # of the largest value, in half precision


class _Unexpanded:
    """An `expand_kv` that returns what it is given."""

    def __init__(self, projection: LatentProjection) -> None:
        self.projection = projection

    def __call__(self, latent: Tensor, rotated: Tensor) -> tuple[Tensor, Tensor]:
        return latent, rotated


def keep_latents(model: torch.nn.Module, *, proven: bool = False) -> None:
    """Let the attention modules of `model` that have latents pass them on as they are.

    Whether one expands latents as `LatentProjection` does is tried, unless it is `proven`.
    """
    for module in model.modules():
        projection = _find_projection(module, proven=proven)
        if projection:
            module.expand_kv = _Unexpanded(projection)  # type: ignore[assignment]


def latent_projection(module: torch.nn.Module) -> LatentProjection | None:
    """Return how a module's latents become keys and values; None if it passes on keys and values."""
    expand = getattr(module, "expand_kv", None)
    return expand.projection if isinstance(expand, _Unexpanded) else None


@torch.inference_mode()
def _find_projection(module: Any, *, proven: bool) -> LatentProjection | None:
    """Return the projection of a module that expands latents as `LatentProjection` does."""
    if not hasattr(module, "expand_kv"):
        return None
    weight, key_dim = dense(module.kv_b_proj.weight), module.qk_nope_head_dim
    projection = LatentProjection(weight.view(-1, key_dim + module.v_head_dim, weight.shape[1]), key_dim)
    if proven:
        return projection
    rank = projection.rank
    width = rank + module.qk_rope_head_dim
    cached = torch.linspace(-1, 1, 2 * width).to(weight).view(1, 1, 2, width)
    wanted = module.expand_kv(cached[..., :rank], cached[..., rank:])
    key, value = projection.expand(cached)
    found = key, value[..., : projection.value_dim]
    return projection if all(map(_agree, found, wanted)) else None


def _agree(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(
        found, wanted, rtol=0.0, atol=_TOLERANCE * float(wanted.abs().max())
    )
