"""Attention over latents, from which each head makes keys and values of its own (MLA).

A token caches one vector that all heads share: a latent of `rank` values, and after it the part of the key
that has a position. A head's key is a projection of the latent and that part; its value is another projection
of the latent. Both projections can change sides: instead of keys, queries are projected, and instead of
values, what comes out (DeepSeek-AI 2024, DeepSeek-V2, section 2.1.2). Then all heads attend to what is cached
as to one key head whose values are its keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

_MAX_EXPANDED = 1 << 24  # keys' values held at once: 64 MiB of float32


@dataclass(frozen=True, slots=True)
class LatentProjection:
    """How a layer's keys and values follow from its latents."""

    weight: Tensor  # (heads, key_dim + value_dim, rank): a head's key without position, then its value
    key_dim: int

    @property
    def rank(self) -> int:
        return self.weight.shape[2]

    @property
    def value_dim(self) -> int:
        return self.weight.shape[1] - self.key_dim

    def absorb(self, query: Tensor) -> Tensor:
        """Return queries of latents, (tokens, heads, rank + rotated), for queries of heads, (tokens, heads,
        key_dim + rotated)."""
        plain, rotated = query[..., : self.key_dim], query[..., self.key_dim :]
        latent = self._multiply(plain, self.weight[:, : self.key_dim])
        return torch.cat([latent, rotated], dim=-1)

    def project(self, out: Tensor) -> Tensor:
        """Return heads' values, (tokens, heads, value_dim), for sums of latents, (tokens, heads, ≥ rank)."""
        return self._multiply(out[..., : self.rank], self.weight[:, self.key_dim :].transpose(1, 2))

    def _multiply(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Return each head's product, (tokens, heads, out), of `x`, (tokens, heads, in)."""
        product = torch.bmm(x.transpose(0, 1).to(matrices.dtype), matrices)
        return product.transpose(0, 1).to(x.dtype)

    def is_worth_expanding(self, width: int) -> bool:
        """Return whether `width` queries of a sequence cost more absorbed than making keys and values costs.

        Absorbed, a query and a key are longer by rank - key_dim, and so are a value and what comes out.
        """
        return width * 2 * (self.rank - self.key_dim) >= self.rank * self.weight.shape[1]

    def head_slices(self, num_tokens: int) -> Iterator[slice]:
        """Yield the heads whose keys and values of `num_tokens` are held at once."""
        step = max(1, _MAX_EXPANDED // (num_tokens * self.weight.shape[1]))
        for start in range(0, len(self.weight), step):
            yield slice(start, start + step)

    def expand(self, cached: Tensor, heads: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return some heads' keys and values, (rows, heads, tokens, dim), for (rows, 1, tokens, dim).

        Values are padded with zeros to the keys' size, since fast kernels take no other.
        """
        weight = self.weight[heads]
        latent, rotated = cached[:, 0, :, : self.rank], cached[..., self.rank :]
        both = linear(latent.to(weight.dtype), weight.flatten(0, 1)).to(cached.dtype)
        both = both.view(*both.shape[:2], *weight.shape[:2]).transpose(1, 2)
        rotated = rotated.expand(-1, len(weight), -1, -1)
        key = torch.cat([both[..., : self.key_dim], rotated], dim=-1)
        return key, pad(both[..., self.key_dim :], (0, max(0, key.shape[-1] - self.value_dim)))
