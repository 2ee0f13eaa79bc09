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
from neuron.pipe import Logprob
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
        """`tokens` and `positions` (n,), `last` (rows,) the indices wanted, ascending; float32 logits (rows,
        vocab). `shown`: places among the tokens, (k,), and what is read there instead, (k, hidden)."""


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
        rows = _Rows(plan, batch)
        last = torch.tensor(rows.places, dtype=torch.int64, device=batch.tokens.device)
        shown = self._images.shown(plan, batch) if self._images else ()
        with active(PagedAttention(self.cache, batch)):
            logits = self._forward(batch.tokens, batch.positions, last, shown)
        return self._result(plan, rows, logits)

    def _result(self, plan: StepPlan, rows: _Rows, logits: torch.Tensor) -> StepResult:
        tokens: list[int | None] = [None] * len(plan.chunks)
        if not rows.places:
            return StepResult(tuple(tokens))
        if bool(logits.isnan().any()):
            raise PoisonedError("the model's logits are not numbers")
        scores = self._scores(plan, rows, logits) if rows.scored else {}
        if not rows.drawn:
            return StepResult(tuple(tokens), scores=scores)
        chunks = [plan.chunks[index] for index in rows.drawn]
        draws = [chunk.draw for chunk in chunks if chunk.draw is not None]
        drawn = logits[rows.drawn_at] if rows.scored else logits
        sampled, logprobs = self._sampler.sample(drawn, [chunk.slot for chunk in chunks], draws)
        for index, token in zip(rows.drawn, sampled, strict=True):
            tokens[index] = token
        return StepResult(
            tuple(tokens), {rows.drawn[row]: logprob for row, logprob in logprobs.items()}, scores
        )

    def _scores(self, plan: StepPlan, rows: _Rows, logits: torch.Tensor) -> dict[int, list[Logprob]]:
        slots = [plan.chunks[index].slot for index in rows.scored]
        scores: dict[int, list[Logprob]] = {index: [] for index in rows.scored}
        tokens = [token for index in scores for token in plan.chunks[index].scored]
        told = self._sampler.score(logits[rows.scored_at], slots, tokens)
        for index, score in zip(rows.scored, told, strict=True):
            scores[index].append(score)
        return scores


class _Rows:
    """At which places of the flat row logits are wanted, ascending, and for what: `drawn` and `scored` name a
    chunk for each row of logits at `drawn_at` and `scored_at`."""

    def __init__(self, plan: StepPlan, batch: Batch) -> None:
        self.places: list[int] = []
        self.drawn: list[int] = []
        self.drawn_at: list[int] = []
        self.scored: list[int] = []
        self.scored_at: list[int] = []
        for index, end in zip(batch.order, batch.ends, strict=True):
            chunk = plan.chunks[index]
            if chunk.scored:
                start, count = end - len(chunk.tokens), len(chunk.scored)
                self.scored += [index] * count
                self.scored_at += range(len(self.places), len(self.places) + count)
                self.places += range(start, start + count)
            if chunk.draw is not None:
                self.drawn.append(index)
                self.drawn_at.append(len(self.places))
                self.places.append(end - 1)
