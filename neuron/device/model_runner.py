"""Runs one step of one model: tensors in, tensors through, tokens out.

Called by the thread that owns the device, and by no other. No tensor leaves it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from neuron.device.attention import Attention, PagedAttention, active
from neuron.device.batch import Batch
from neuron.device.cuda_graphs import DecodeGraphs, Record
from neuron.device.image_embedder import Images
from neuron.device.kv_cache import KVCache, LayerShape, PageTable
from neuron.device.sampler import Sampler
from neuron.device.varlen import Kernel, varlen_attention
from neuron.pipe import Logprob
from neuron.step import CacheShape, Chunk, PoisonedError, StepPlan, StepResult

log = logging.getLogger("neuron.device")


class Forward(Protocol):
    """A decoder whose layers call `neuron.device.attention.attend`."""

    vocab_size: int
    dtype: torch.dtype
    device: torch.device
    is_recordable: bool  # runs the same operations on the same tensors for a batch of the same size

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
    """A model with its cache and its sampler. With a `kernel` pages are read in place; with `record` besides,
    decode steps of a model that can be recorded are."""

    def __init__(
        self,
        forward: Forward,
        layers: Mapping[int, LayerShape],
        shape: CacheShape,
        *,
        kernel: Kernel | None = None,
        record: Record | None = None,
    ) -> None:
        self.shape = shape
        self.cache = KVCache(layers, shape, dtype=forward.dtype, device=forward.device)
        self._forward = forward
        self._kernel = kernel
        self._table = PageTable(shape, forward.device)
        self._images = Images(forward.eyes) if forward.eyes else None
        self._sampler = Sampler(shape.num_slots, forward.vocab_size, forward.device)
        self._graphs = self._recorded(kernel, record) if kernel and record and forward.is_recordable else None

    @torch.inference_mode()
    def _recorded(self, kernel: Kernel, record: Record) -> DecodeGraphs | None:
        try:
            return DecodeGraphs(
                self._forward, self.cache, self._table, self.shape, kernel=kernel, record=record
            )
        except torch.AcceleratorError:
            raise
        except RuntimeError as error:  # the steps run all the same
            log.warning("decode steps cannot be recorded", extra={"cause": str(error)})
            return None

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
        if self._graphs and all(_is_decode(chunk) for chunk in plan.chunks):
            count = len(plan.chunks)
            rows = _Rows(plan, range(count), range(1, count + 1))
            return self._result(plan, rows, self._graphs.run(plan.chunks))
        batch = Batch(plan, self._table, self.shape)
        rows = _Rows(plan, batch.order, batch.ends)
        last = torch.tensor(rows.places, dtype=torch.int64, device=batch.tokens.device)
        shown = self._images.shown(plan, batch) if self._images else ()
        with active(self._attention(plan, batch)):
            logits = self._forward(batch.tokens, batch.positions, last, shown)
        return self._result(plan, rows, logits)

    def _attention(self, plan: StepPlan, batch: Batch) -> Attention:
        if self._kernel is None:
            return PagedAttention(self.cache, batch)
        return varlen_attention(self.cache, self._table, plan, batch, self._kernel)

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


def _is_decode(chunk: Chunk) -> bool:
    return len(chunk.tokens) == 1 and chunk.draw is not None and not chunk.images


class _Rows:
    """At which places of the flat row logits are wanted, ascending, and for what: `drawn` and `scored` name a
    chunk for each row of logits at `drawn_at` and `scored_at`."""

    def __init__(self, plan: StepPlan, order: Sequence[int], ends: Sequence[int]) -> None:
        self.places: list[int] = []
        self.drawn: list[int] = []
        self.drawn_at: list[int] = []
        self.scored: list[int] = []
        self.scored_at: list[int] = []
        for index, end in zip(order, ends, strict=True):
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
