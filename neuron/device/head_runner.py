"""A model's own multi-token head, which guesses how its answers go on.

Where the model has read a token, the head reads the model's hidden state there with the token that follows
(Gloeckle et al. 2024; DeepSeek-AI 2024, DeepSeek-V3, section 2.2), and predicts the one after that. For more
guesses it reads its own hidden state with its last guess.

Its keys and values lie beside the model's, in the same pages, so a cached prefix, a preemption and a rejected
guess need nothing here. It reads all that the model reads: when a guess is wanted, when much is late, and
before the pages may be another's. Of a cached page the last token was followed by another one at times, which
changes a guess, and no text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from neuron.device.attention import use_backend
from neuron.device.batch import Batch
from neuron.device.guessing import GuessingRunner
from neuron.device.head_steps import find_head_steps
from neuron.device.model import DraftHead
from neuron.device.model_runner import ModelRunner
from neuron.step import Chunk, Draw, StepPlan, StepResult

_MOST_LATE = 256  # tokens of all slots that wait to be read
_GREEDY = Draw(0.0)


class _Reading(NamedTuple):
    """Tokens that the head reads, and the hidden states that they follow, (tokens, hidden)."""

    chunk: Chunk
    states: Tensor


@dataclass(slots=True)
class _Late:
    """What the model has read of a slot's text and the head has not."""

    start: int  # position of the first state
    follow: list[int] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.follow)

    def add(self, start: int, follow: Sequence[int], states: Tensor) -> None:
        """Take in tokens and the states before them, of which the first ones may be known."""
        known = self.end - start
        self.follow += follow[known:]
        self.states.append(states[known : len(follow)].clone())  # which the next step overwrites


class HeadRunner(GuessingRunner):
    """Runs a model's plans like its own runner, and then lets the model's `head` guess.

    Guesses stay below `vocab_size`.
    """

    drafter = "the multi-token head"

    def __init__(self, runner: ModelRunner, head: DraftHead, *, vocab_size: int) -> None:
        super().__init__(runner)
        self._head = head
        self._steps = find_head_steps(head, runner.cache, runner.table, self.shape.num_slots)
        self._vocab_size = vocab_size
        self._texts: list[tuple[int, ...]] = [()] * self.shape.num_slots  # when a request took the slot
        self._late: dict[int, _Late] = {}  # by slot

    def run(self, plan: StepPlan) -> StepResult:
        """Return what `plan` came to, with guesses. Raises PoisonedError like `ModelRunner.run`.

        What is late of requests that have left is read before: the plan may give their pages to others.
        """
        for joined in plan.joined:
            self._texts[joined.slot] = (*joined.prompt, *joined.output)
        if self._is_idle(plan):
            return self._runner.run(plan)
        self._trying(lambda: self._read_leaving(plan))
        return super().run(plan)

    def _is_idle(self, plan: StepPlan) -> bool:
        """Whether the head has nothing to do with a plan."""
        return not (self._late or any(chunk.is_followed for chunk in plan.chunks))

    def _read_leaving(self, plan: StepPlan) -> None:
        """Read all that is late if some of it is of requests that do not go on."""
        going_on = {chunk.slot for chunk in plan.chunks} - {joined.slot for joined in plan.joined}
        if not going_on.issuperset(self._late):
            self._read(self._catch_up(()))

    def _guess(self, plan: StepPlan, result: StepResult) -> Mapping[int, tuple[int, ...]]:
        return self._guess_after(plan, self._ends(plan, result))

    def _ends(self, plan: StepPlan, result: StepResult) -> list[tuple[int, ...]]:
        """Return what follows the tokens of each chunk but for its drafts: what was sampled, or of a prompt
        its next token."""
        return [
            sampled or self._texts[chunk.slot][chunk.end : chunk.end + 1]
            for chunk, sampled in zip(plan.chunks, result.tokens, strict=True)
        ]

    def _guess_after(self, plan: StepPlan, ends: Sequence[tuple[int, ...]]) -> Mapping[int, tuple[int, ...]]:
        """Return the guesses that a plan asks for, given what follows its chunks."""
        self._follow(plan, ends)
        wanted = {
            chunk.slot: index
            for index, chunk in enumerate(plan.chunks)
            if chunk.num_guesses and chunk.draw is not None
        }
        guesses: dict[int, tuple[int, ...]] = {}
        if not wanted and sum(len(late.follow) for late in self._late.values()) <= _MOST_LATE:
            return guesses
        reading = self._catch_up(wanted)
        while reading:
            found = self._read(reading)
            for slot, (token, _) in found.items():
                guesses[wanted[slot]] = (*guesses.get(wanted[slot], ()), token)
            reading = {
                slot: _Reading(Chunk(slot, (token,), reading[slot].chunk.end, draw=_GREEDY), state)
                for slot, (token, state) in found.items()
                if len(guesses[wanted[slot]]) < plan.chunks[wanted[slot]].num_guesses
            }
        return guesses

    def _follow(self, plan: StepPlan, ends: Sequence[tuple[int, ...]]) -> None:
        """Take in what the model has read, without drafts that were wrong."""
        if self._runner.hidden is None:
            return
        rows, hidden = self._runner.hidden
        of_chunks = rows.of_chunks
        for index, (chunk, end) in enumerate(zip(plan.chunks, ends, strict=True)):
            if not chunk.is_followed:
                self._late.pop(chunk.slot, None)
                continue
            follow = (*chunk.tokens[1 : len(chunk.tokens) - len(chunk.checks)], *end)
            late = self._late.setdefault(chunk.slot, _Late(chunk.start))
            late.add(chunk.start, follow, _rows(hidden, of_chunks[index]))

    def _catch_up(self, wanted: Iterable[int]) -> dict[int, _Reading]:
        """Return all that is late, by slot, with a draw for those of which guesses are wanted."""
        slots = set(wanted)
        reading = {
            slot: _Reading(
                Chunk(slot, tuple(late.follow), late.start, draw=_GREEDY if slot in slots else None),
                torch.cat(late.states),
            )
            for slot, late in self._late.items()
        }
        self._late = {}
        return reading

    def _read(self, reading: Mapping[int, _Reading]) -> dict[int, tuple[int, Tensor]]:
        """Return the guess for each slot with a draw, and the head's own state before it, (1, hidden)."""
        slots, plan = list(reading), StepPlan(tuple(part.chunk for part in reading.values()))
        if self._steps and self._steps.fit(plan.chunks) and not self._runner.shifts(plan):
            found = self._steps.run(plan.chunks, [part.states for part in reading.values()])
            assert found.hidden is not None
            return dict(zip(slots, self._best(found.values, found.hidden), strict=True))
        batch = Batch(plan, self._runner.table, self.shape, in_turn=False)
        before = torch.cat([reading[slots[at]].states for at in batch.order])
        positions = self._runner.positions(plan, batch)
        with use_backend(self._runner.attention(plan, batch)):
            states = self._head(before, batch.tokens, positions)
        ends = zip(batch.order, batch.ends, strict=True)
        drawn = {slots[at]: end - 1 for at, end in ends if plan.chunks[at].draw}
        if not drawn:
            return {}
        last = _rows(states, [*drawn.values()])
        return dict(zip(drawn, self._best(self._head.logits(last), last), strict=True))

    def _best(self, logits: Tensor, states: Tensor) -> list[tuple[int, Tensor]]:
        """Return the likeliest token of each row, and its state, (1, hidden)."""
        tokens = self._head.largest(logits, self._vocab_size)
        return list(zip(tokens, torch.split(states, 1), strict=True))


def _rows(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows of a tensor, as a view if they stand together."""
    first, end = rows[0], rows[0] + len(rows)
    if rows == [*range(first, end)]:
        return x[first:end]
    return x.index_select(0, torch.tensor(rows, device=x.device))
