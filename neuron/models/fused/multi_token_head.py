"""The multi-token head of a model, made of one more layer of its own kind.

DeepSeek-AI 2024, DeepSeek-V3, section 2.2: the norms of the next token's embedding and of the model's hidden
state are projected to one state, which goes through a layer. Embedding and output head are the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neuron.device import row_steps
from neuron.device.collective import largest_of_ranks, sums_are_recorded
from neuron.models.fused.layer_kind import ModelFacts, Residual, Step
from neuron.models.fused.norm import NormBuilder, RmsNorm
from neuron.models.fused.rotation import Rotary
from neuron.models.linear import PackedLinear, matrix_of, pack_matrices


class HeadWeights(NamedTuple):
    """What a head has beside its layer; the projection is (hidden, embedding's hidden + state's hidden)."""

    embedding_norm: Tensor
    hidden_norm: Tensor
    projection: Tensor
    last_norm: Tensor


class MultiTokenHead:
    """A `neuron.device.model.DraftHead` of a `FusedDecoder`."""

    def __init__(  # noqa: PLR0913
        self,
        weights: HeadWeights,
        norm: NormBuilder,
        facts: ModelFacts,
        parts: Sequence[Residual],
        embed: Callable[[Tensor], Tensor],
        look_up: Callable[[Tensor], Tensor] | None,
        rotary: Rotary | None,
        lm_head: PackedLinear,
    ) -> None:
        def built(weight: Tensor) -> RmsNorm:
            module: Any = SimpleNamespace(weight=weight, eps=facts.config.rms_norm_eps)
            return norm(module, facts.activations)

        self._embedding_norm = built(weights.embedding_norm)
        self._hidden_norm = built(weights.hidden_norm)
        self._projection = pack_matrices([matrix_of(weights.projection, None)])
        self._parts = parts
        self._last_norm = built(weights.last_norm)
        self.embed = embed
        self._look_up = look_up  # the same in C alone
        self._rotary = rotary
        self._lm_head = lm_head
        self.first_token = 0  # of those that logits are of; of a rank, its part's

    def new_states(self, count: int) -> Tensor:
        """Return room for hidden states, (count, hidden)."""
        norm = self._hidden_norm
        return norm.weight.new_empty(count, len(norm.weight), dtype=norm.dtype)

    def __call__(self, states: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the states after `tokens`, which follow `states`."""
        embedding = self._embedding_norm(self.embed(tokens))
        x = torch.cat([embedding, self._hidden_norm(states)], -1)
        return self._run(x, Step(positions, self._rotary(positions) if self._rotary else None))

    @property
    def is_recordable(self) -> bool:
        norms = self._embedding_norm, self._hidden_norm, self._last_norm
        in_floats = all(norm.dtype is torch.float32 and norm.weight.ndim == 1 for norm in norms)
        adds_up = any(part.is_split for part in self._parts)
        is_summed = sums_are_recorded() or not adds_up
        return in_floats and is_summed and all(part.is_recordable for part in self._parts)

    @property
    def embeds(self) -> bool:
        return self._look_up is not None

    @property
    def layers(self) -> list[int]:
        """Those whose keys and values are its own."""
        return [layer for part in self._parts for layer in part.kind.kv_shapes]

    def reaches(self, last: int) -> bool:
        """Return whether `compute` can go up to a position."""
        return self._rotary is None or self._rotary.keeps(last)

    def compute(self, states: Tensor, tokens: Tensor, positions: Tensor, embedded: Tensor | None) -> Tensor:
        """Return what a call does, by operations of C alone, of a token of each sequence."""
        if embedded is None:
            assert self._look_up
            embedded = self._look_up(tokens)
        x = torch.empty(len(tokens), 2 * embedded.shape[1])
        sides = x.chunk(2, 1)
        pairs = (embedded, self._embedding_norm), (states, self._hidden_norm)
        for (side, norm), out in zip(pairs, sides, strict=True):
            row_steps.norm_to(side, norm.weight, norm.eps, out)
        return self._run(x, Step(positions, self._rotary.kept(positions) if self._rotary else None))

    def _run(self, x: Tensor, step: Step) -> Tensor:
        x = self._projection(x)
        for part in self._parts:
            x = part(x, step)
        return self._last_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits after states of its own."""
        return self._lm_head(states).float()

    def largest(self, logits: Tensor, vocab_size: int) -> list[int]:
        """Return the likeliest token of each row, of all ranks' together."""
        return largest_of_ranks(logits[:, : vocab_size - self.first_token], self.first_token)
