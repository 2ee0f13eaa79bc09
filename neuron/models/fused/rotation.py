"""Rotary position embeddings (Su et al. 2021), with queries and keys rotated together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# The same for sequences of every length.
_STATIC = frozenset({"default", "linear", "llama3", "yarn"})


class Rotation(NamedTuple):
    """The angles of a step's tokens.

    The sines of the first half are negated, so that a rotation needs one roll and no negation.
    """

    cos: Tensor  # (tokens, 1, rotated dims)
    sin: Tensor

    def __call__(self, heads: Tensor) -> Tensor:
        """Return (tokens, heads, head_dim) with the first dimensions of each head rotated."""
        dim = self.cos.shape[-1]
        if dim == heads.shape[-1]:
            return self._rotate(heads)
        return torch.cat([self._rotate(heads[..., :dim]), heads[..., dim:]], -1)

    def _rotate(self, heads: Tensor) -> Tensor:
        return torch.addcmul(heads * self.cos, heads.roll(heads.shape[-1] // 2, -1), self.sin)


class Rotary:
    """Angles by a module of transformers whose halves of a head are rotated with each other."""

    def __init__(self, module: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._module = module
        self._like = torch.empty(0, dtype=dtype, device=device)  # tells the module dtype and device
        dim = self._angles(torch.zeros(1, dtype=torch.int64, device=device))[1].shape[-1]
        self._sign = torch.ones(dim, dtype=dtype, device=device)
        self._sign[: dim // 2] = -1

    def __call__(self, positions: Tensor) -> Rotation:
        """Return the angles of the tokens at `positions`, (tokens,)."""
        cos, sin = self._angles(positions)
        return Rotation(cos.unsqueeze(1), (sin * self._sign).unsqueeze(1))

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self._module(self._like, positions[None])
        if isinstance(angles, Tensor):  # DeepSeek-V2's are complex numbers
            angles = angles.real.to(self._like), angles.imag.to(self._like)
        cos, sin = angles
        if cos.shape[-1] == self._module.inv_freq.numel():  # of one half of a head, as gpt-oss has them
            cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
        return cos[0], sin[0]


def has_static_rope(text_config: Any) -> bool:
    """Return whether a configuration's angles depend on positions alone, and not on a sequence's length."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    return rope.get("rope_type", "default") in _STATIC
