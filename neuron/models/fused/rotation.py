"""Rotary position embeddings (Su et al. 2021), with queries and keys rotated together."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuron.device import row_steps

_KEPT_AT_ONCE, _MOST_KEPT = 512, 1 << 18  # positions whose angles are kept on a CPU

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

    def __init__(self, module: Any, dtype: torch.dtype, device: torch.device, context: int) -> None:
        self._module = module
        self._like = torch.empty(0, dtype=dtype, device=device)  # tells the module dtype and device
        dim = self._angles(torch.zeros(1, dtype=torch.int64, device=device))[1].shape[-1]
        self._sign = torch.ones(dim, dtype=dtype, device=device)
        self._sign[: dim // 2] = -1
        self._num_kept = 0
        self._most_kept = min(context, _MOST_KEPT) if row_steps.runs_in_c(self._like) else 0
        # Of all positions from the first: memory that is not taken before it is written.
        self._kept = Rotation(*(self._like.new_empty(self._most_kept, 1, dim) for _ in range(2)))

    def __call__(self, positions: Tensor) -> Rotation:
        """Return the angles of the tokens at `positions`, (tokens,) or (axes, tokens).

        Where steps run in C those of the first positions are kept: to compute them takes longer than to look
        them up. Steps of torch's operations may be traced, and then nothing can look at a position.
        """
        if not self._most_kept or positions.ndim > 1 or not self.keeps(int(positions.max())):
            return self._computed(positions)
        return self.kept(positions)

    def keeps(self, last: int) -> bool:
        """Return whether the angles of positions up to the last are kept, from now on if they were not."""
        if last >= self._most_kept:
            return False
        if last >= self._num_kept:
            count = min(max(last + 1, self._num_kept + _KEPT_AT_ONCE), self._most_kept)
            positions = torch.arange(self._num_kept, count)
            for kept, angles in zip(self._kept, self._computed(positions), strict=True):
                kept[self._num_kept : count] = angles
            self._num_kept = count
        return True

    def kept(self, positions: Tensor) -> Rotation:
        """Return the angles of positions, (tokens,), that are kept."""
        return Rotation(*(row_steps.gather(kept, positions).unsqueeze(1) for kept in self._kept))

    def _computed(self, positions: Tensor) -> Rotation:
        cos, sin = self._angles(positions)
        return Rotation(cos.unsqueeze(1), (sin * self._sign).unsqueeze(1))

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = self._module(self._like, positions.unsqueeze(-2))
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
