"""Steps of a multi-token head that are recorded and replayed, as decode steps are (`decode_programs`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neuron.device.decode_programs import DecodePrograms
from neuron.device.kv_cache import KVCache, PageTable
from neuron.device.logits_rows import StepLogits
from neuron.device.model import DraftHead, RecordableHead
from neuron.device.row_steps import runs_in_c
from neuron.step import Chunk


class _Step:
    """A `RecordableModel`: one token of each sequence behind hidden states that lie where they stay."""

    def __init__(self, head: RecordableHead, rows: int) -> None:
        self.head = head
        self.hidden: Tensor | None = None
        self.states = head.new_states(rows)
        self.embeds, self.embed, self.reaches = head.embeds, head.embed, head.reaches
        self.is_recordable = head.is_recordable

    def compute(self, tokens: Tensor, positions: Tensor, embedded: Tensor | None) -> Tensor:
        self.hidden = self.head.compute(self.states[: len(tokens)], tokens, positions, embedded)
        return self.head.logits(self.hidden)

    def finish(self, logits: Tensor) -> Tensor:
        return logits


class HeadSteps:
    """Runs a head on one token of each of some sequences."""

    def __init__(self, head: RecordableHead, cache: KVCache, table: PageTable, rows: int) -> None:
        self._step = _Step(head, rows)
        self._programs = DecodePrograms(self._step, cache, table, None)

    def fit(self, chunks: Sequence[Chunk]) -> bool:
        return self._programs.fit(chunks)

    def run(self, chunks: Sequence[Chunk], before: Sequence[Tensor]) -> StepLogits:
        """Return the logits after each of `chunks`, given the states before them, (1, hidden) each, with the
        head's own states. Valid until the next call."""
        torch.cat(list(before), out=self._step.states[: len(before)])
        return self._programs.run(chunks)


def find_head_steps(head: DraftHead, cache: KVCache, table: PageTable, rows: int) -> HeadSteps | None:
    """Return the steps of a head that run in C alone; None for others."""
    if not (isinstance(head, RecordableHead) and head.is_recordable and runs_in_c(head.new_states(1))):
        return None
    return HeadSteps(head, cache, table, rows) if all(map(cache.stores_plainly, head.layers)) else None
