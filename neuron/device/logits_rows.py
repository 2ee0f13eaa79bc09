"""The rows of a step whose logits are wanted, and what for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from neuron.step import Chunk, Draw, StepPlan


def rows_alone(plan: StepPlan) -> tuple[StepPlan, Sequence[int] | None]:
    """Return the plan with each token of chunks that have drafts as a chunk of its own, and whose those are.

    In each layer a step writes all keys and values before it reads any, so such a token sees those before it.
    It then runs as a decode step does: with those of other lengths, and captured where decode steps are.
    Without drafts that is the plan itself, and None.
    """
    if not any(chunk.checks for chunk in plan.chunks):
        return plan, None
    chunks: list[Chunk] = []
    owners: list[int] = []
    for index, chunk in enumerate(plan.chunks):
        parts = [chunk]
        if chunk.checks and chunk.draw and len(chunk.tokens) == len(chunk.checks) + 1:
            rows = zip(chunk.tokens, (*chunk.checks, chunk.draw), strict=True)
            parts = [
                Chunk(chunk.slot, (token,), at, draw=draw)
                for at, (token, draw) in enumerate(rows, chunk.start)
            ]
        chunks += parts
        owners += [index] * len(parts)
    return StepPlan(tuple(chunks), plan.joined), owners


def is_decode_step(chunks: Sequence[Chunk]) -> bool:
    """Return whether each of `chunks` is a token that another one follows."""
    return all(len(c.tokens) == 1 and c.draw is not None and not c.images for c in chunks)


class StepLogits(NamedTuple):
    """The logits of a step, (rows, vocab), and what was found of them on the way."""

    values: Tensor
    largest: list[int] | None = None  # the place of each row's largest, -1 for one with NaN
    hidden: Tensor | None = None  # states of the whole flat batch, of a model with a head that reads them


class LogitsRows:
    """The rows of the flat batch whose logits are wanted. Rows of one chunk stand together, in their order.

    indices     rows of the flat batch, ascending: row i of the logits belongs to `indices[i]`
    drawn       indices of the plan's chunks, once per token that is sampled; its logits are row `drawn_at`
                of the logits, `draws` says how it is sampled, and `drafts` which token is guessed there
    scored      indices of the plan's chunks, once per scored token; its logits are row `scored_at`
    """

    def __init__(
        self,
        plan: StepPlan,
        parts: StepPlan,
        owners: Sequence[int] | None,
        order: Sequence[int],
        ends: Sequence[int],
    ) -> None:
        self.indices: list[int] = []
        self._parts, self._owners, self._order, self._ends = parts, owners, order, ends
        self.scored: list[int] = []
        self.scored_at: list[int] = []
        places: dict[int, list[int]] = {}  # of rows that are sampled, by chunk
        for part, end in zip(order, ends, strict=True):
            chunk, index = parts.chunks[part], owners[part] if owners else part
            if chunk.scored:
                start = end - len(chunk.tokens)
                count = len(chunk.scored)
                self.scored += [index] * count
                self.scored_at += range(len(self.indices), len(self.indices) + count)
                self.indices += range(start, start + count)
            if chunk.draw is not None:
                count = len(chunk.checks) + 1
                places.setdefault(index, []).extend(range(len(self.indices), len(self.indices) + count))
                self.indices += range(end - count, end)
        self.drawn: list[int] = []
        self.drawn_at: list[int] = []
        self.draws: list[Draw] = []
        self.drafts: list[int | None] = []
        for index, rows in places.items():
            chunk = plan.chunks[index]
            assert chunk.draw
            self.drawn += [index] * len(rows)
            self.drawn_at += rows
            self.draws += [*chunk.checks, chunk.draw]
            self.drafts += [*chunk.drafts, None]

    @property
    def of_chunks(self) -> dict[int, list[int]]:
        """The rows of the flat batch that are each chunk's, by its index in the plan."""
        found: dict[int, list[int]] = {}
        for part, end in zip(self._order, self._ends, strict=True):
            rows = range(end - len(self._parts.chunks[part].tokens), end)
            found.setdefault(self._owners[part] if self._owners else part, []).extend(rows)
        return found

    @property
    def are_all_drawn(self) -> bool:
        """Whether a token is sampled from each row of the logits, in their order."""
        return len(self.drawn_at) == len(self.indices) and self.drawn_at == [*range(len(self.indices))]
