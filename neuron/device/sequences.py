"""The sequences of a step one after another, for models that attend themselves over all that is cached.

Such a model wants the keys and values of a whole sequence in one piece, and knows nothing of pages or of the
flat batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from neuron.device.batch import Batch
from neuron.device.kv_cache import KVCache


class CachedSequence:
    """One chunk of a step: `rows` of the flat batch, which follow `start` cached tokens of its sequence."""

    def __init__(self, cache: KVCache, batch: Batch, rows: slice, pages: Tensor, start: int) -> None:
        self.rows = rows
        self.start = start
        self.end = start + rows.stop - rows.start
        self._cache = cache
        self._locations = batch.locations[rows]
        self._pages = pages[: -(-self.end // cache.shape.page_size)]

    def chosen(self, indices: Sequence[int]) -> list[int]:
        """Return those of some rows of the flat batch that are the chunk's, counted from its first."""
        return [index - self.rows.start for index in indices if self.rows.start <= index < self.rows.stop]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the chunk's keys and values and return the sequence's, each (1, kv_heads, tokens, dim)."""
        self._cache.write(layer, self._locations, key[0].transpose(0, 1), value[0].transpose(0, 1))
        keys, values = self._cache.gather(layer, self._pages, 1)
        return keys[:, :, : self.end], values[:, :, : self.end]


class StepSequences:
    """The sequences of one step, in the order of the flat batch."""

    def __init__(self, cache: KVCache, batch: Batch) -> None:
        self._cache = cache
        self._batch = batch

    def __iter__(self) -> Iterator[CachedSequence]:
        for group in self._batch.groups:
            for rows, start, pages in group.chunks():
                yield CachedSequence(self._cache, self._batch, rows, pages, start)


_sequences: ContextVar[StepSequences] = ContextVar("sequences")


@contextmanager
def use_sequences(sequences: StepSequences) -> Iterator[None]:
    """Let `step_sequences` return `sequences` inside the block."""
    token = _sequences.set(sequences)
    try:
        yield
    finally:
        _sequences.reset(token)


def step_sequences() -> StepSequences:
    """Return the sequences of the step that runs."""
    return _sequences.get()
