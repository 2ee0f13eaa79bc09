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

from neuron.device.attention import active
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.varlen import Kernel, Spans, VarlenAttention, ends_of
from neuron.step import CacheShape, Chunk

if TYPE_CHECKING:
    from neuron.device.model_runner import Forward

log = logging.getLogger("neuron.device")

Run = Callable[[], torch.Tensor]
Record = Callable[[Run], Run]  # of something that reads and writes the same tensors whenever it is called


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, then every eighth, and `most` itself."""
    return [size for size in (1, 2, 4, *range(8, most, 8)) if size < most] + [most]


class DecodeGraphs:
    """Logits of decode steps. Made and run by the device's thread."""

    def __init__(
        self,
        forward: Forward,
        cache: KVCache,
        table: PageTable,
        shape: CacheShape,
        *,
        kernel: Kernel,
        record: Record,
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._table = table
        self._shape = shape
        self._kernel = kernel
        self._sizes = batch_sizes(shape.num_slots)
        # Token, position and slot of each row.
        self._inputs = torch.zeros(3, self._sizes[-1], dtype=torch.int64, device=forward.device)
        self._inputs[2] = table.spare_slot
        # The largest first: the others fit in the memory it took.
        self._replays = {size: record(partial(self._decode, size)) for size in reversed(self._sizes)}

    def run(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Logits after each of `chunks`, which have one token each; good until the next call."""
        size = next(size for size in self._sizes if size >= len(chunks))
        rows = [(chunk.tokens[0], chunk.start, chunk.slot) for chunk in chunks]
        rows += [(0, 0, self._table.spare_slot)] * (size - len(chunks))
        self._inputs[:, :size].copy_(torch.tensor(rows).t())
        return self._replays[size]()[: len(chunks)]

    def _decode(self, size: int) -> torch.Tensor:
        tokens, positions, slots = self._inputs[:, :size]
        pages, page_size = self._table.pages[slots], self._shape.page_size
        page = pages.gather(1, (positions // page_size)[:, None])[:, 0]
        lengths = (positions + 1).int()
        rows = torch.arange(size, device=positions.device)
        spans = Spans(
            queries=torch.arange(size + 1, dtype=torch.int32, device=positions.device),
            keys=ends_of(lengths),
            lengths=lengths,
            pages=pages.int(),
            max_queries=1,
            max_keys=self._shape.context,
        )
        places = page * page_size + positions % page_size
        with active(VarlenAttention(self._cache, places, spans, self._kernel)):
            return self._forward(tokens, positions, rows)


class CudaRecorder:
    """A `Record` by CUDA graphs, which share their memory: only the last replay's result is good."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        self._warm_up(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _warm_up(self, run: Run) -> None:
        """Libraries choose kernels and take memory when they are first used, which cannot be recorded."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
