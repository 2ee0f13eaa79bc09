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
        self._embed = embed
        self._rotary = rotary
        self._lm_head = lm_head

    def new_states(self, count: int) -> Tensor:
        """Return room for hidden states, (count, hidden)."""
        norm = self._hidden_norm
        return norm.weight.new_empty(count, len(norm.weight), dtype=norm.dtype)

    def __call__(self, states: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return the states after `tokens`, which follow `states`."""
        embedding = self._embedding_norm(self._embed(tokens))
        x = self._projection(torch.cat([embedding, self._hidden_norm(states)], -1))
        step = Step(positions, self._rotary(positions) if self._rotary else None)
        for part in self._parts:
            x = part(x, step)
        return self._last_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits after states of its own."""
        return self._lm_head(states).float()
