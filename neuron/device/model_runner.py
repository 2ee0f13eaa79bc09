"""Runs one step of one model: tensors in, tensors through, tokens out.

Called by the thread that owns the device, and by no other. No tensor leaves it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from neuron.device.attention import AttentionBackend, SdpaAttention, use_backend
from neuron.device.batch import Batch
from neuron.device.cuda_graphs import Capture, DecodeGraphs
from neuron.device.image_embedder import ImageEmbedder
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.sampler import Sampler
from neuron.device.varlen import Kernel, varlen_attention
from neuron.pipe import Logprob
from neuron.step import CacheShape, Chunk, PoisonedError, StepPlan, StepResult

log = logging.getLogger("neuron.device")


class Model(Protocol):
    """A decoder whose layers call `neuron.device.attention.attend`."""

    vocab_size: int
    dtype: torch.dtype
    device: torch.device
    is_capturable: bool  # runs the same operations on the same tensors for a batch of the same size

    @property
    def vision_encoder(self) -> VisionEncoder | None: ...

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        logits_indices: torch.Tensor,
        image_embeddings: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
        /,
    ) -> torch.Tensor:
        """`tokens` and `positions` (n,), `last` (rows,) the indices wanted, ascending; float32 logits (rows,
        vocab). `shown`: places among the tokens, (k,), and what is read there instead, (k, hidden)."""


class VisionEncoder(Protocol):
    """Of a model that sees."""

    def embed(self, pixels: Any) -> torch.Tensor:
        """What is read at an image's placeholders, (tokens, hidden)."""


class ModelRunner:
    """A model with its cache and its sampler. With a `kernel` pages are read in place; with `record` besides,
    decode steps of a model that can be recorded are."""

    def __init__(
        self,
        model: Model,
        layers: Mapping[int, KVShape],
        shape: CacheShape,
        *,
        kernel: Kernel | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.shape = shape
        self.cache = KVCache(layers, shape, dtype=model.dtype, device=model.device)
        self._model = model
        self._kernel = kernel
        self._table = PageTable(shape, model.device)
        self._images = ImageEmbedder(model.vision_encoder) if model.vision_encoder else None
        self._sampler = Sampler(shape.num_slots, model.vocab_size, model.device)
        self._graphs = (
            self._capture_decode(kernel, capture) if kernel and capture and model.is_capturable else None
        )

    @torch.inference_mode()
    def _capture_decode(self, kernel: Kernel, capture: Capture) -> DecodeGraphs | None:
        try:
            return DecodeGraphs(
                self._model, self.cache, self._table, self.shape, kernel=kernel, capture=capture
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
            rows = _LogitsRows(plan, range(count), range(1, count + 1))
            return self._result(plan, rows, self._graphs.run(plan.chunks))
        batch = Batch(plan, self._table, self.shape)
        rows = _LogitsRows(plan, batch.order, batch.ends)
        logits_indices = torch.tensor(rows.indices, dtype=torch.int64, device=batch.tokens.device)
        image_embeddings = self._images.embed(plan, batch) if self._images else ()
        with use_backend(self._attention(plan, batch)):
            logits = self._model(batch.tokens, batch.positions, logits_indices, image_embeddings)
        return self._result(plan, rows, logits)

    def _attention(self, plan: StepPlan, batch: Batch) -> AttentionBackend:
        if self._kernel is None:
            return SdpaAttention(self.cache, batch)
        return varlen_attention(self.cache, self._table, plan, batch, self._kernel)

    def _result(self, plan: StepPlan, rows: _LogitsRows, logits: torch.Tensor) -> StepResult:
        tokens: list[int | None] = [None] * len(plan.chunks)
        if not rows.indices:
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

    def _scores(self, plan: StepPlan, rows: _LogitsRows, logits: torch.Tensor) -> dict[int, list[Logprob]]:
        slots = [plan.chunks[index].slot for index in rows.scored]
        scores: dict[int, list[Logprob]] = {index: [] for index in rows.scored}
        tokens = [token for index in scores for token in plan.chunks[index].scored]
        told = self._sampler.score(logits[rows.scored_at], slots, tokens)
        for index, score in zip(rows.scored, told, strict=True):
            scores[index].append(score)
        return scores


def _is_decode(chunk: Chunk) -> bool:
    return len(chunk.tokens) == 1 and chunk.draw is not None and not chunk.images


class _LogitsRows:
    """At which places of the flat row logits are wanted, ascending, and for what: `drawn` and `scored` name a
    chunk for each row of logits at `drawn_at` and `scored_at`."""

    def __init__(self, plan: StepPlan, order: Sequence[int], ends: Sequence[int]) -> None:
        self.indices: list[int] = []
        self.drawn: list[int] = []
        self.drawn_at: list[int] = []
        self.scored: list[int] = []
        self.scored_at: list[int] = []
        for index, end in zip(order, ends, strict=True):
            chunk = plan.chunks[index]
            if chunk.scored:
                start, count = end - len(chunk.tokens), len(chunk.scored)
                self.scored += [index] * count
                self.scored_at += range(len(self.indices), len(self.indices) + count)
                self.indices += range(start, start + count)
            if chunk.draw is not None:
                self.drawn.append(index)
                self.drawn_at.append(len(self.indices))
                self.indices.append(end - 1)
