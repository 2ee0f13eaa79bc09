"""Runs the steps of one model: chunks in, sampled tokens out.

Only the thread that owns the device calls it, and no tensor leaves that thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuron.device.attention import AttentionBackend, use_backend
from neuron.device.batch import Batch
from neuron.device.cuda_graphs import Capture, DecodeGraphs
from neuron.device.image_embedder import ImageEmbedder
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.model import DecoderModel
from neuron.device.page_pool import Coding
from neuron.device.sampler import Sampler
from neuron.device.sdpa import SdpaAttention
from neuron.device.selection import use_index_keys
from neuron.device.sequences import StepSequences, use_sequences
from neuron.device.state_pool import StateName, StatePool, StateShape, group_states, use_state_groups
from neuron.device.varlen import Kernel, varlen_attention
from neuron.pipe import Logprob
from neuron.step import CacheShape, Chunk, PoisonedError, StepPlan, StepResult

log = logging.getLogger("neuron.device")


class ModelRunner:
    """A model with its KV cache, page table and sampler, and the pool of its `states` if its layers keep any.

    Pages hold codes where there is a `coding`. With a `kernel`, attention reads pages in place. With
    `capture` as well, decode steps of a model that `is_capturable` are captured and replayed.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: DecoderModel,
        layers: Mapping[int, KVShape],
        shape: CacheShape,
        *,
        kernel: Kernel | None = None,
        capture: Capture | None = None,
        states: Mapping[StateName, StateShape] | None = None,
        coding: Coding | None = None,
    ) -> None:
        self.shape = shape
        self.cache = KVCache(layers, shape, dtype=model.dtype, device=model.device, coding=coding)
        self._states = StatePool(states, shape, model.device) if states else None
        self._model = model
        self._kernel = kernel
        self._table = PageTable(shape, model.device)
        self._images = ImageEmbedder(model.vision_encoder) if model.vision_encoder else None
        self._sampler = Sampler(shape.num_slots, model.vocab_size, model.device)
        self._graphs: DecodeGraphs | None = None
        if kernel and capture and model.is_capturable:
            self._graphs = self._capture_decode(kernel, capture)

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that is kept of sequences."""
        return self.cache.num_bytes + (self._states.num_bytes if self._states else 0)

    @torch.inference_mode()
    def _capture_decode(self, kernel: Kernel, capture: Capture) -> DecodeGraphs | None:
        try:
            return DecodeGraphs(
                self._model,
                self.cache,
                self._table,
                kernel=kernel,
                capture=capture,
                states=self._states,
            )
        except torch.AcceleratorError:
            raise
        except RuntimeError as error:  # steps run without graphs
            log.warning("decode steps cannot be captured", extra={"cause": str(error)})
            return None

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Return what `plan`'s draws and scores came to.

        Raises PoisonedError when the device is unusable from now on; any other exception concerns this step
        only.
        """
        try:
            return self._run(plan)
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error

    def _run(self, plan: StepPlan) -> StepResult:
        for joined in plan.joined:
            self._sampler.join(joined)
        self._table.update(plan)
        if self._states is None:
            return self._step(plan)
        self._states.restore(plan)
        result = self._step(plan)
        self._states.keep(plan)
        return result

    def _step(self, plan: StepPlan) -> StepResult:
        if self._graphs and all(_is_decode(chunk) for chunk in plan.chunks):
            count = len(plan.chunks)
            rows = _LogitsRows(plan, range(count), range(1, count + 1))
            return self._result(plan, rows, self._graphs.run(plan.chunks))
        batch = Batch(plan, self._table, self.shape)
        rows = _LogitsRows(plan, batch.order, batch.ends)
        logits_indices = torch.tensor(rows.indices, dtype=torch.int64, device=batch.tokens.device)
        image_embeddings = self._images.embed(plan, batch) if self._images else ()
        groups = group_states(self._states, plan, batch) if self._states else ()
        with (
            use_backend(self._attention(plan, batch)),
            use_sequences(StepSequences(self.cache, batch)),
            use_index_keys(self.cache, batch),
            use_state_groups(groups),
        ):
            logits = self._model(batch.tokens, batch.positions, logits_indices, image_embeddings)
        return self._result(plan, rows, logits)

    def _attention(self, plan: StepPlan, batch: Batch) -> AttentionBackend:
        if self._kernel is None:
            return SdpaAttention(self.cache, batch)
        return varlen_attention(self.cache, self._table, plan, batch, self._kernel)

    def _result(self, plan: StepPlan, rows: _LogitsRows, logits: Tensor) -> StepResult:
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

    def _scores(self, plan: StepPlan, rows: _LogitsRows, logits: Tensor) -> dict[int, list[Logprob]]:
        slots = [plan.chunks[index].slot for index in rows.scored]
        scores: dict[int, list[Logprob]] = {index: [] for index in rows.scored}
        tokens = [token for index in scores for token in plan.chunks[index].scored]
        logprobs = self._sampler.score(logits[rows.scored_at], slots, tokens)
        for index, logprob in zip(rows.scored, logprobs, strict=True):
            scores[index].append(logprob)
        return scores


def _is_decode(chunk: Chunk) -> bool:
    return len(chunk.tokens) == 1 and chunk.draw is not None and not chunk.images


class _LogitsRows:
    """The rows of the flat batch whose logits are wanted, and what for.

    indices     rows of the flat batch, ascending: row i of the logits belongs to `indices[i]`
    drawn       indices of `plan.chunks` that draw a token; its logits are row `drawn_at` of the logits
    scored      indices of `plan.chunks`, once per scored token; its logits are row `scored_at`
    """

    def __init__(self, plan: StepPlan, order: Sequence[int], ends: Sequence[int]) -> None:
        self.indices: list[int] = []
        self.drawn: list[int] = []
        self.drawn_at: list[int] = []
        self.scored: list[int] = []
        self.scored_at: list[int] = []
        for index, end in zip(order, ends, strict=True):
            chunk = plan.chunks[index]
            if chunk.scored:
                start = end - len(chunk.tokens)
                count = len(chunk.scored)
                self.scored += [index] * count
                self.scored_at += range(len(self.indices), len(self.indices) + count)
                self.indices += range(start, start + count)
            if chunk.draw is not None:
                self.drawn.append(index)
                self.drawn_at.append(len(self.indices))
                self.indices.append(end - 1)
