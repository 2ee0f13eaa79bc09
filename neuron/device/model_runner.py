"""Runs the steps of one model: chunks in, sampled tokens out.

Only the thread that owns the device calls it, and no tensor leaves that thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from neuron.device.acceptance import kept_rows
from neuron.device.attention import AttentionBackend, use_backend
from neuron.device.batch import Batch
from neuron.device.cuda_graphs import Capture, DecodeGraphs
from neuron.device.decode_programs import DecodePrograms, find_programs
from neuron.device.host_pool import HostPool
from neuron.device.image_embedder import ImageEmbedder
from neuron.device.image_positions import ImagePositions
from neuron.device.kv_cache import KVCache, KVShape, PageTable
from neuron.device.logits_rows import LogitsRows, StepLogits, rows_alone
from neuron.device.model import DecoderModel, hidden_states
from neuron.device.page_pool import Coding
from neuron.device.row_steps import largest
from neuron.device.sampler import Sampler
from neuron.device.sdpa import SdpaAttention
from neuron.device.selection import use_index_keys
from neuron.device.sequences import StepSequences, use_sequences
from neuron.device.state_pool import StateName, StatePool, StateShape, group_states, use_state_groups
from neuron.device.varlen import Kernel, varlen_attention
from neuron.pipe import Logprob
from neuron.step import CacheShape, NotNumbersError, PoisonedError, StepPlan, StepResult

log = logging.getLogger("neuron.device")


class ModelRunner:
    """A model with its KV cache, page table and sampler, and the pool of its `states` if its layers keep any.

    Pages hold codes where there is a `coding`. With a `kernel`, attention reads pages in place. With
    `capture` as well, decode steps of a model that `is_capturable` are captured and replayed. Plans of a
    model with states have drafts only with `drafts`. Another runner's `table` is used in place of one of its
    own, if given.
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
        drafts: bool = False,
        table: PageTable | None = None,
    ) -> None:
        self.shape = shape
        self.cache = KVCache(layers, shape, dtype=model.dtype, device=model.device, coding=coding)
        self._host: HostPool | None = None
        if shape.num_host_pages:
            self._host = HostPool(self.cache.tensors, shape.num_host_pages)
        self._states = StatePool(states, shape, model.device, drafts=drafts) if states else None
        self._model = model
        self._kernel = kernel
        self.table = self._table = table or PageTable(shape, model.device)
        self._images: ImageEmbedder | None = None
        self._positions: ImagePositions | None = None
        if encoder := model.vision_encoder:
            self._images = ImageEmbedder(encoder, model.device)
            self._positions = ImagePositions(encoder, shape.num_slots, model.device)
        self._sampler = Sampler(shape.num_slots, model.vocab_size, model.device)
        self._adapted: list[int | None] = [None] * shape.num_slots  # the number of each slot's adapter
        # Of the step that ran last, and whose they are; of a model with a head that reads them.
        self.hidden: tuple[LogitsRows, Tensor] | None = None
        self._graphs: DecodeGraphs | DecodePrograms | None = None
        if kernel is None:
            self._graphs = find_programs(model, layers, self.cache, self._table, self._states)
        if kernel and capture and model.is_capturable:
            self._graphs = self._capture_decode(kernel, capture)

    @property
    def state_bytes(self) -> int:
        """Bytes of what layers keep of sequences beside keys and values."""
        return self._states.num_bytes if self._states else 0

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that is kept of sequences on the device."""
        kept = self.cache.num_bytes + self.state_bytes
        return kept + (self._host.device_bytes if self._host else 0)

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

    @torch.inference_mode()
    def follow(self, plan: StepPlan) -> None:
        """Compute this rank's part of a plan whose tokens another rank samples. Raises like `run`."""
        try:
            self._forward(plan)
        except torch.AcceleratorError as error:
            raise PoisonedError(f"the device failed: {error}") from error

    def _run(self, plan: StepPlan) -> StepResult:
        for joined in plan.joined:
            self._sampler.join(joined)
            if self._positions:
                self._positions.join(joined)
            if self._images:
                self._images.join(joined)
        encoded = self._images.encode(plan.encoding) if self._images else None
        logits = self._forward(plan)
        result = self._result(plan, *logits) if logits else StepResult(())
        return replace(result, encoded=encoded) if encoded else result

    def _forward(self, plan: StepPlan) -> tuple[LogitsRows, StepLogits] | None:
        """Return the logits of a plan, and whose they are; None where it has no chunks."""
        for joined in plan.joined:
            self._adapted[joined.slot] = joined.adapter
        if self._host:
            self._host.move(plan.leaving, plan.returning)
        self._table.update(plan)
        if self._states:
            self._states.leave(plan)
            self._states.restore(plan)
            self._states.hold(plan)
        logits = self._logits(plan) if plan.chunks else None
        self.hidden = (logits[0], logits[1].hidden) if logits and logits[1].hidden is not None else None
        if self._states:
            self._states.keep(plan)
        return logits

    def _logits(self, plan: StepPlan) -> tuple[LogitsRows, StepLogits]:
        whole = plan
        plan, owners = rows_alone(plan) if self._model.runs_rows_alone else (plan, None)
        is_adapted = any(self._adapted[chunk.slot] is not None for chunk in plan.chunks)
        if self._graphs and not (is_adapted or self.shifts(plan)) and self._graphs.fit(plan.chunks):
            count = len(plan.chunks)
            rows = LogitsRows(whole, plan, owners, range(count), range(1, count + 1))
            return rows, self._graphs.run(plan.chunks)
        batch = Batch(plan, self._table, self.shape, in_turn=owners is None)
        rows = LogitsRows(whole, plan, owners, batch.order, batch.ends)
        logits_indices = torch.tensor(rows.indices, dtype=torch.int64, device=batch.tokens.device)
        image_embeddings = self._images.embed(plan, batch) if self._images else ()
        positions = self.positions(plan, batch)
        groups = group_states(self._states, plan, batch) if self._states else ()
        with (
            use_backend(self.attention(plan, batch)),
            use_sequences(StepSequences(self.cache, batch)),
            use_index_keys(self.cache, batch),
            use_state_groups(groups),
            self._adapters(plan, batch) if is_adapted else nullcontext(),
        ):
            logits = self._model(batch.tokens, positions, logits_indices, image_embeddings)
        return rows, StepLogits(logits, hidden=hidden_states(self._model))

    def _adapters(self, plan: StepPlan, batch: Batch) -> AbstractContextManager[None]:
        assert self._model.adapters
        chunks = [plan.chunks[index] for index in batch.order]
        return self._model.adapters.applied(
            [adapter for chunk in chunks for adapter in [self._adapted[chunk.slot]] * len(chunk.tokens)]
        )

    def shifts(self, plan: StepPlan) -> bool:
        """Return whether some tokens of a step have other positions than their places."""
        return self._positions is not None and self._positions.shifts_any(plan)

    def positions(self, plan: StepPlan, batch: Batch) -> Tensor:
        """Return the positions of a step's tokens, (n,), or (axes, n) where those of images have several."""
        return self._positions.of(plan, batch) if self._positions else batch.positions

    def attention(self, plan: StepPlan, batch: Batch) -> AttentionBackend:
        """Return what attends to the pages of a step's slots."""
        if self._kernel is None:
            return SdpaAttention(self.cache, batch)
        return varlen_attention(self.cache, self._table, plan, batch, self._kernel)

    def _result(self, plan: StepPlan, rows: LogitsRows, found: StepLogits) -> StepResult:
        tokens: list[tuple[int, ...]] = [()] * len(plan.chunks)
        if not rows.indices:
            return StepResult(tuple(tokens))
        logits = found.values
        places = found.largest or largest(logits)
        if -1 in places:
            raise NotNumbersError("the model's logits are not numbers")
        scores = self._scores(plan, rows, logits) if rows.scored else {}
        if not rows.drawn:
            return StepResult(tuple(tokens), scores=scores)
        slots = [plan.chunks[index].slot for index in rows.drawn]
        if rows.are_all_drawn:
            sampled, reported = self._sampler.sample(logits, slots, rows.draws, rows.drafts, places)
        else:
            drawn = logits[rows.drawn_at]
            sampled, reported = self._sampler.sample(drawn, slots, rows.draws, rows.drafts)
        logprobs: dict[int, list[Logprob]] = {}
        for row, is_kept in enumerate(kept_rows(sampled, rows.drafts)):
            if is_kept:
                index = rows.drawn[row]
                tokens[index] += (sampled[row],)
                if row in reported:
                    logprobs.setdefault(index, []).append(reported[row])
        return StepResult(tuple(tokens), logprobs, scores)

    def _scores(self, plan: StepPlan, rows: LogitsRows, logits: Tensor) -> dict[int, list[Logprob]]:
        slots = [plan.chunks[index].slot for index in rows.scored]
        scores: dict[int, list[Logprob]] = {index: [] for index in rows.scored}
        tokens = [token for index in scores for token in plan.chunks[index].scored]
        logprobs = self._sampler.score(logits[rows.scored_at], slots, tokens)
        for index, logprob in zip(rows.scored, logprobs, strict=True):
            scores[index].append(logprob)
        return scores
