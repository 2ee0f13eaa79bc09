"""Runs one step of one model: tensors in, tensors through, tokens out.

Called by the thread that owns the device, and by no other. No tensor leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from neuron.device.attention import PagedAttention, active
from neuron.device.batch import Batch
from neuron.device.cache import KVCache, LayerShape, PageTable
from neuron.device.images import Images
from neuron.device.sampler import Sampler
from neuron.step import CacheShape, PoisonedError, StepPlan, StepResult


class Forward(Protocol):
    """A decoder whose layers call `neuron.device.attention.attend`."""

    vocab_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def eyes(self) -> Eyes | None: ...

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        last: torch.Tensor,
        shown: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
        /,
    ) -> torch.Tensor:
        """`tokens` and `positions` (n,), `last` (rows,) the indices wanted; float32 logits (rows, vocab).
        `shown`: places among the tokens, (k,), and what is read there instead, (k, hidden)."""


class Eyes(Protocol):
    """Of a model that sees."""

    def embed(self, pixels: Any) -> torch.Tensor:
        """What is read at an image's placeholders, (tokens, hidden)."""


class Runner:
    """A model with its cache and its sampler."""

    def __init__(self, forward: Forward, layers: Mapping[int, LayerShape], shape: CacheShape) -> None:
        self.shape = shape
        self.cache = KVCache(layers, shape, dtype=forward.dtype, device=forward.device)
        self._forward = forward
        self._table = PageTable(shape, forward.device)
        self._images = Images(forward.eyes) if forward.eyes else None
        self._sampler = Sampler(shape.num_slots, forward.vocab_size, forward.device)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Run `plan`. A PoisonedError means that the device cannot be trusted any more, anything else that
        this step alone failed."""
        try:
            return self._run(plan)
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error

    def _run(self, plan: StepPlan) -> StepResult:
        for joined in plan.joined:
            self._sampler.join(joined)
        self._table.update(plan)
        batch = Batch(plan, self._table, self.shape)
        ends = zip(batch.order, batch.ends, strict=True)
        drawn = [(index, end - 1) for index, end in ends if plan.chunks[index].draw is not None]
        last = torch.tensor([place for _, place in drawn], dtype=torch.int64, device=batch.tokens.device)
        shown = self._images.shown(plan, batch) if self._images else ()
        with active(PagedAttention(self.cache, batch)):
            logits = self._forward(batch.tokens, batch.positions, last, shown)
        tokens: list[int | None] = [None] * len(plan.chunks)
        if not drawn:
            return StepResult(tuple(tokens))
        if bool(logits.isnan().any()):
            raise PoisonedError("the model's logits are not numbers")
        chunks = [plan.chunks[index] for index, _ in drawn]
        draws = [chunk.draw for chunk in chunks if chunk.draw is not None]
        sampled, logprobs = self._sampler.sample(logits, [chunk.slot for chunk in chunks], draws)
        for (index, _), token in zip(drawn, sampled, strict=True):
            tokens[index] = token
        return StepResult(tuple(tokens), {drawn[row][0]: logprob for row, logprob in logprobs.items()})
