"""Decode steps recorded once for each size of batch and replayed.

A GPU takes longer to be told of a decode step's small kernels than to run them. A recording reads what
changes from step to step in `_inputs`, and all else (page table, cache, weights) where it always lies. A
batch runs in the recording of the next size; rows it leaves over belong to the table's spare slot, whose page
is nobody's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from neuron.device.attention import use_backend
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.varlen import Kernel, VarlenAttention, VarlenMetadata, cumulative_lengths
from neuron.step import CacheShape, Chunk

if TYPE_CHECKING:
    from neuron.device.model_runner import Model

log = logging.getLogger("neuron.device")

Computation = Callable[[], torch.Tensor]  # reads and writes the same tensors whenever it is called
Capture = Callable[[Computation], Computation]


def capture_sizes(most: int) -> list[int]:
    """1, 2, 4, then every eighth, and `most` itself."""
    return [size for size in (1, 2, 4, *range(8, most, 8)) if size < most] + [most]


class DecodeGraphs:
    """Logits of decode steps. Made and run by the device's thread."""

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        table: PageTable,
        shape: CacheShape,
        *,
        kernel: Kernel,
        capture: Capture,
    ) -> None:
        self._model = model
        self._cache = cache
        self._table = table
        self._shape = shape
        self._kernel = kernel
        self._sizes = capture_sizes(shape.num_slots)
        # Token, position and slot of each row.
        self._inputs = torch.zeros(3, self._sizes[-1], dtype=torch.int64, device=model.device)
        self._inputs[2] = table.padding_slot
        # The largest first: the others fit in the memory it took.
        self._replays = {size: capture(partial(self._decode, size)) for size in reversed(self._sizes)}

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Logits after each of `chunks`, which have one token each; good until the next call."""
        size = next(size for size in self._sizes if size >= len(chunks))
        rows = [(chunk.tokens[0], chunk.start, chunk.slot) for chunk in chunks]
        rows += [(0, 0, self._table.padding_slot)] * (size - len(chunks))
        self._inputs[:, :size].copy_(torch.tensor(rows).t())
        return self._replays[size]()[: len(chunks)]

    def _decode(self, size: int) -> torch.Tensor:
        tokens, positions, slots = self._inputs[:, :size]
        pages, page_size = self._table.pages[slots], self._shape.page_size
        page = pages.gather(1, (positions // page_size)[:, None])[:, 0]
        seq_lens = (positions + 1).int()
        rows = torch.arange(size, device=positions.device)
        metadata = VarlenMetadata(
            cu_seqlens_q=torch.arange(size + 1, dtype=torch.int32, device=positions.device),
            cu_seqlens_k=cumulative_lengths(seq_lens),
            seq_lens=seq_lens,
            block_table=pages.int(),
            max_seqlen_q=1,
            max_seqlen_k=self._shape.context,
        )
        locations = page * page_size + positions % page_size
        with use_backend(VarlenAttention(self._cache, locations, metadata, self._kernel)):
            return self._model(tokens, positions, rows)


class CudaGraphCapture:
    """A `Record` by CUDA graphs, which share their memory: only the last replay's result is good."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Computation) -> Computation:
        self._warm_up(compute)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _warm_up(self, compute: Computation) -> None:
        """Libraries choose kernels and take memory when they are first used, which cannot be recorded."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            compute()
        torch.cuda.current_stream().wait_stream(stream)
