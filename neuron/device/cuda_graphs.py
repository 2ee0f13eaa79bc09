"""Decode steps captured once for each size of batch, and replayed.

Launching a decode step's small kernels takes longer than running them on a GPU. A captured step reads what
changes between steps from `_inputs`, and everything else (page table, cache, weights) from where it always
is. A batch runs in the capture of the next larger size; the rows left over belong to the padding slot of page
table and states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.logits_rows import StepLogits, is_decode_step
from neuron.device.model import DecoderModel, HeadedModel, hidden_states
from neuron.device.state_pool import StateGroup, StatePool, use_state_groups
from neuron.device.varlen import Kernel, VarlenAttention, VarlenMetadata, cumulative_lengths
from neuron.step import Chunk

Computation = Callable[[], Tensor]  # reads and writes the same tensors at every call
Capture = Callable[[Computation], Computation]  # returns the replay


def capture_sizes(most: int) -> list[int]:
    """Return the batch sizes to capture: 1, 2, 4, every multiple of eight, and `most` itself."""
    return [size for size in (1, 2, 4, *range(8, most, 8)) if size < most] + [most]


class DecodeGraphs:
    """Computes logits of decode steps by replaying captures. Made and run by the device's thread."""

    def __init__(
        self,
        model: DecoderModel,
        cache: KVCache,
        table: PageTable,
        *,
        kernel: Kernel,
        capture: Capture,
        states: StatePool | None = None,
    ) -> None:
        self._model = model
        self._cache = cache
        self._table = table
        self._shape = cache.shape
        self._kernel = kernel
        self._states = states
        self._sizes = capture_sizes(cache.shape.num_slots)
        # Rows: token, position, slot. Columns: the batch.
        self._inputs = torch.zeros(3, self._sizes[-1], dtype=torch.int64, device=model.device)
        self._inputs[2] = table.padding_slot
        head = model.head if isinstance(model, HeadedModel) else None
        self._hidden = head.new_states(self._sizes[-1]) if head else None
        # Largest first: the smaller ones fit in the memory it took.
        self._replays = {size: capture(partial(self._decode, size)) for size in reversed(self._sizes)}

    def fit(self, chunks: Sequence[Chunk]) -> bool:
        """Return whether these are a decode step that has been captured."""
        return len(chunks) <= self._sizes[-1] and is_decode_step(chunks)

    def run(self, chunks: Sequence[Chunk]) -> StepLogits:
        """Return the logits after each of `chunks`, which have one token each. Valid until the next call."""
        size = next(size for size in self._sizes if size >= len(chunks))
        rows = [(chunk.tokens[0], chunk.start, chunk.slot) for chunk in chunks]
        rows += [(0, 0, self._table.padding_slot)] * (size - len(chunks))
        self._inputs[:, :size].copy_(torch.tensor(rows).t())
        return StepLogits(self._replays[size]()[: len(chunks)], hidden=self._hidden)

    def _decode(self, size: int) -> Tensor:
        tokens, positions, slots = self._inputs[:, :size]
        block_table = self._table.pages[slots]
        page_size = self._shape.page_size
        page = block_table.gather(1, (positions // page_size)[:, None])[:, 0]
        seq_lens = (positions + 1).int()
        rows = torch.arange(size, device=positions.device)
        metadata = VarlenMetadata(
            cu_seqlens_q=torch.arange(size + 1, dtype=torch.int32, device=positions.device),
            cu_seqlens_k=cumulative_lengths(seq_lens),
            seq_lens=seq_lens,
            block_table=block_table.int(),
            max_seqlen_q=1,
            max_seqlen_k=self._shape.context,
        )
        locations = page * page_size + positions % page_size
        groups = [StateGroup(self._states, slots, start=0, width=1, is_fresh=False)] if self._states else []
        attention = VarlenAttention(self._cache, locations, metadata, self._kernel)
        with use_backend(attention), use_state_groups(groups):
            logits = self._model(tokens, positions, rows)
        if self._hidden is not None and (hidden := hidden_states(self._model)) is not None:
            self._hidden[:size].copy_(hidden)
        return logits


class CudaGraphCapture:
    """A `Capture` by CUDA graphs that share one memory pool: only the last replay's result is valid."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Computation) -> Computation:
        self._warm_up(compute)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def _warm_up(self, compute: Computation) -> None:
        """Run once outside the graph: libraries pick kernels and take memory on first use, which cannot be
        captured."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
