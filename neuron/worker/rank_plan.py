"""A step's plan as rank 0 tells it to the others: what they need to compute their part, and no more.

Rank 0 alone samples. To sample everywhere, each rank would need the settings, penalties and grammar of every
request, and all logits, of which it has a part only. The next step begins after the sampling anyway, and its
plan holds the tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from neuron.pipe import Sampling
from neuron.step import Chunk, Draw, Joined, StepPlan

MAX_CANDIDATES = 64  # of a row; with more, logits are gathered


class PlanReady(NamedTuple):
    """Rank 0 has written a plan for a model of which this worker has a part."""

    model: str


class _Chunk(msgspec.Struct, frozen=True, array_like=True):
    slot: int
    tokens: tuple[int, ...]
    start: int
    new_pages: tuple[int, ...]
    is_drawn: bool
    num_scored: int
    snapshot: int | None
    num_checks: int  # how many of the tokens are drafts
    rewinds: bool
    num_guesses: int
    is_followed: bool


class _Joined(msgspec.Struct, frozen=True, array_like=True):
    slot: int
    num_prompt: int
    pages: tuple[int, ...]
    snapshot: int | None
    adapter: int | None


class RankPlan(msgspec.Struct, frozen=True, array_like=True):
    """`num_candidates` of each row of logits are gathered on rank 0; 0: all."""

    num_candidates: int
    chunks: tuple[_Chunk, ...]
    joined: tuple[_Joined, ...]
    leaving: tuple[tuple[int, int], ...]
    returning: tuple[tuple[int, int], ...]
    leaving_states: tuple[tuple[int, int], ...]

    def step_plan(self) -> StepPlan:
        """The plan as other ranks run it. Zeros stand for tokens of which they need the number alone."""
        return StepPlan(
            tuple(
                Chunk(
                    chunk.slot,
                    chunk.tokens,
                    chunk.start,
                    chunk.new_pages,
                    _DRAW if chunk.is_drawn else None,
                    scored=(0,) * chunk.num_scored,
                    snapshot=chunk.snapshot,
                    checks=(_DRAW,) * chunk.num_checks,
                    rewinds=chunk.rewinds,
                    num_guesses=chunk.num_guesses,
                    is_followed=chunk.is_followed,
                )
                for chunk in self.chunks
            ),
            tuple(
                Joined(
                    joined.slot,
                    _SAMPLING,
                    (0,) * joined.num_prompt,
                    (),
                    joined.pages,
                    joined.snapshot,
                    adapter=joined.adapter,
                )
                for joined in self.joined
            ),
            self.leaving,
            self.returning,
            self.leaving_states,
        )


_DRAW, _SAMPLING = Draw(0.0), Sampling()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RankPlan)


def encode_plan(plan: StepPlan, num_candidates: int) -> bytes:
    """The bytes of a plan."""
    chunks = tuple(map(_told, plan.chunks))
    joined = tuple(_Joined(j.slot, len(j.prompt), j.pages, j.snapshot, j.adapter) for j in plan.joined)
    return _encoder.encode(
        RankPlan(num_candidates, chunks, joined, plan.leaving, plan.returning, plan.leaving_states)
    )


def _told(chunk: Chunk) -> _Chunk:
    return _Chunk(
        chunk.slot,
        chunk.tokens,
        chunk.start,
        chunk.new_pages,
        chunk.draw is not None,
        len(chunk.scored),
        chunk.snapshot,
        len(chunk.checks),
        chunk.rewinds,
        chunk.num_guesses,
        chunk.is_followed,
    )


def decode_plan(data: bytes) -> RankPlan:
    """The plan that rank 0 encoded."""
    return _decoder.decode(data)


class CandidateCount:
    """How many of the largest logits of each row a step's sampler may draw from."""

    def __init__(self, num_slots: int) -> None:
        self._samplings = [Sampling()] * num_slots

    def count(self, plan: StepPlan) -> int:
        """Return the count that is enough for all rows of a plan; 0 where some need every logit."""
        for joined in plan.joined:
            self._samplings[joined.slot] = joined.sampling
        counts = [0]
        for chunk in plan.chunks:
            if chunk.scored:
                return 0
            if chunk.draw is not None:
                sampling = self._samplings[chunk.slot]
                counts += [_of_row(sampling, draw) for draw in (*chunk.checks, chunk.draw)]
        least, most = min(counts[1:], default=0), max(counts)
        return most if least and most <= MAX_CANDIDATES else 0


def _of_row(sampling: Sampling, draw: Draw) -> int:
    """Return from how many logits a row's token is drawn; 0: from all, or others than the model's own."""
    is_changed = (
        sampling.logit_bias
        or sampling.repetition_penalty != 1.0
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or draw.allowed is not None
    )
    is_open = sampling.temperature > 0 and not sampling.top_k
    if is_changed or is_open or sampling.top_logprobs is not None:
        return 0
    return (sampling.top_k if sampling.temperature > 0 else 1) + len(draw.banned)
