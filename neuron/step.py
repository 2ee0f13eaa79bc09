"""The values that pass between engine and device in one step.

`neuron.engine` decides and imports no torch; `neuron.device` computes and knows no requests. They meet in
these frozen values only: the engine builds a `StepPlan`, the device runs it and returns a `StepResult`.

On the device a request is a *slot*: a row of the page table and of the sampler's state, from the request's
`Joined` until another request joins in the same slot. The device keeps what it was told, so a decode step
needs one `Chunk` of one token a request, and a page number whenever a page is full. A `Chunk` and its `Draw`
are made for each request in each step; they are msgspec structs because a frozen dataclass sets each field by
a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from neuron.pipe import Logprob, Sampling


class PromptRule(StrEnum):
    """What is special about the prompts of a model: the KV of one depends on where it ends."""

    WHOLE = "whole"  # its tokens see each other, later ones too, so it runs as one chunk
    KEPT = "kept"  # its tokens are seen from all later ones, whatever the window


@dataclass(frozen=True, slots=True)
class PromptImage:
    """An image in a prompt: its pixels, and the positions of the placeholders that stand for them."""

    positions: tuple[int, ...]  # in the prompt, ascending, never empty
    digest: bytes  # of the image file
    pixels: Any = None  # the device's; opaque to the engine

    @property
    def start(self) -> int:
        return self.positions[0]

    @property
    def end(self) -> int:
        return self.positions[-1] + 1


@dataclass(frozen=True, slots=True)
class Joined:
    """A request takes a slot: when it is admitted first, and again after a preemption."""

    slot: int
    sampling: Sampling
    prompt: tuple[int, ...]
    output: tuple[int, ...]  # sampled before a preemption; the penalties count it
    pages: tuple[int, ...]  # pages[i] holds the positions from i * page_size on
    snapshot: int | None = None  # whose states the slot takes on; None when it begins with the first token


class Draw(msgspec.Struct, frozen=True):
    """How to sample the token that follows a chunk."""

    uniform: float  # in [0, 1): all the randomness this token gets
    banned: tuple[int, ...] = ()  # token ids that must not be sampled
    allowed: bytes | None = None  # a bit per token id, lowest first; ids past its end are banned; None: all


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive tokens of one request that run in this step."""

    slot: int
    tokens: tuple[int, ...]
    start: int  # position of tokens[0]; the slot's pages hold the KV of all positions before it
    new_pages: tuple[int, ...] = ()  # appended to the slot's pages before the step runs
    draw: Draw | None = None  # None while more of the prompt follows
    images: tuple[PromptImage, ...] = ()  # those that overlap this chunk, in order
    scored: tuple[int, ...] = ()  # scored[i] follows tokens[i] in the prompt, and its logprob is wanted
    snapshot: int | None = None  # which takes on the slot's states once the step has run

    @property
    def end(self) -> int:
        """Tokens of the request in the cache once the step has run."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of one model. `chunks` is never empty and has each slot at most once."""

    chunks: tuple[Chunk, ...]
    joined: tuple[Joined, ...] = ()

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a plan, by index of its chunks."""

    tokens: tuple[int | None, ...]  # sampled after each chunk; None without a `draw`
    logprobs: Mapping[int, Logprob] = field(default_factory=dict)  # of requests that want them
    scores: Mapping[int, Sequence[Logprob]] = field(default_factory=dict)  # one per token of `scored`


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """One step of an embedding model: whole inputs, run as one batch. Its result is a vector for each."""

    inputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The dimensions of KV cache and page table, fixed when a model is loaded."""

    num_pages: int
    page_size: int  # tokens
    num_slots: int
    context: int  # tokens that a request may have, prompt and answer together
    num_snapshots: int = 0  # of a slot's states, of models that keep some

    @property
    def pages_per_slot(self) -> int:
        return -(-self.context // self.page_size)


class PoisonedError(Exception):
    """The device's context is unusable; only a new process helps."""
