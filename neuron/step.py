"""What the engine asks of the device for one step, and what comes back.

`neuron.engine` decides and knows no torch; `neuron.device` computes and knows no request. They meet in these
frozen values only: the engine builds a `StepPlan`, the device runs it and returns a `StepResult`. A request
on the device is a *slot*: a row of the page table and of the sampler's state, from `Joined` until another
request joins in it. What the device was told once is not told again, so a decode step of a request is one
`Chunk` with one token and, every page, one page number. That and its `Draw` are made for each request in each
step, so they are msgspec structs: a frozen dataclass sets each field by a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from neuron.pipe import Logprob, Sampling


@dataclass(frozen=True, slots=True)
class PromptImage:
    """What a prompt shows: its placeholders stand for `pixels`, in order."""

    positions: tuple[int, ...]  # of its placeholders in the prompt, ascending, at least one
    digest: bytes  # of its content
    pixels: Any = None  # the device's own, of no meaning to the engine

    @property
    def start(self) -> int:
        return self.positions[0]

    @property
    def end(self) -> int:
        return self.positions[-1] + 1


@dataclass(frozen=True, slots=True)
class Joined:
    """A request takes a slot: for the first time, or again after it was preempted."""

    slot: int
    sampling: Sampling
    prompt: tuple[int, ...]
    output: tuple[int, ...]  # sampled before a preemption; the penalties count them
    pages: tuple[int, ...]  # of positions 0, 1, ... in order


class Draw(msgspec.Struct, frozen=True):
    """Sample the token that follows a chunk."""

    uniform: float  # in [0, 1): all the randomness this token gets
    banned: tuple[int, ...] = ()  # ids that may not be drawn
    allowed: bytes | None = None  # one bit per id, the lowest first; beyond its end nothing is; None: all


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive tokens of one request to run in this step."""

    slot: int
    tokens: tuple[int, ...]
    start: int  # position of tokens[0]; the KV of all positions before it is in the slot's pages
    new_pages: tuple[int, ...] = ()  # appended to the slot's pages before the step runs
    draw: Draw | None = None  # None while the prompt goes on after this chunk
    images: tuple[PromptImage, ...] = ()  # those of which it has a part, in order
    scored: tuple[int, ...] = ()  # what follows each of the first tokens in the prompt: its logprob is wanted

    @property
    def end(self) -> int:
        """Tokens the request has in the cache once the step has run."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step; `chunks` is never empty and names each slot at most once."""

    chunks: tuple[Chunk, ...]
    joined: tuple[Joined, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tokens[i]` was drawn after `chunks[i]`; None where no draw was asked for. `logprobs` has the same
    index, for requests that want them; so has `scores`, one for each of a chunk's `scored`."""

    tokens: tuple[int | None, ...]
    logprobs: Mapping[int, Logprob] = field(default_factory=dict)
    scores: Mapping[int, Sequence[Logprob]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """One step of an embedding model: whole inputs, run as one batch. Its result is a vector for each."""

    inputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The page table's dimensions, agreed on when a model is loaded."""

    num_pages: int
    page_size: int  # tokens
    num_slots: int
    context: int  # tokens a request may have, prompt and answer together

    @property
    def pages_per_slot(self) -> int:
        return -(-self.context // self.page_size)


class PoisonedError(Exception):
    """The device's context cannot be trusted any more: only a new process helps."""
