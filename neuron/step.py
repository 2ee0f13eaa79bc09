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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from operator import eq
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

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Bounds of the runs of placeholders without other tokens between them."""
        cuts = [at for at, (a, b) in enumerate(pairwise(self.positions), 1) if b != a + 1]
        bounds = pairwise([0, *cuts, len(self.positions)])
        return [(self.positions[first], self.positions[end - 1] + 1) for first, end in bounds]


@dataclass(frozen=True, slots=True)
class Joined:
    """A request takes a slot: when it is admitted first, and again after a preemption."""

    slot: int
    sampling: Sampling
    prompt: tuple[int, ...]
    output: tuple[int, ...]  # sampled before a preemption; the penalties count it
    pages: tuple[int, ...]  # pages[i] holds the positions from i * page_size on
    # Whose states the slot takes on, wherever they are; None when it begins with the first token.
    snapshot: int | None = None
    images: tuple[PromptImage, ...] = ()  # of the prompt, in order
    adapter: int | None = None  # the number of the adapter it wants


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
    snapshot: int | None = None  # which takes on the slot's states after these tokens
    checks: tuple[Draw, ...] = ()  # how to sample in place of its last tokens, which are drafts
    rewinds: bool = False  # the slot's states first become what they were before its last drafts
    num_guesses: int = 0  # tokens to guess after what is sampled, by what drafts on the device
    is_followed: bool = True  # whether that may be asked to guess how the text goes on, later

    @property
    def drafts(self) -> tuple[int, ...]:
        """The tokens that are guesses: each counts if the same is sampled in its place, and all before it."""
        return self.tokens[len(self.tokens) - len(self.checks) :]

    @property
    def end(self) -> int:
        """Tokens of the request in the cache once the step has run, its drafts included."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Encoding:
    """Images that are encoded one after the other, for chunks of the slot in steps that follow.

    It stops after about so many `seconds`, wherever it is. A plan with the same images goes on with it, and
    one without ends it.
    """

    slot: int
    images: tuple[PromptImage, ...]
    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class EncodingResult:
    """What became of an `Encoding`."""

    count: int  # of its images, the first ones, that chunks may show from now on
    seconds: float  # of this step
    failure: str = ""  # why the next one cannot be encoded at all


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of one model. `chunks` has each slot once, and is empty only where images are encoded.

    Only where a snapshot is taken within what a slot runs, two chunks of it follow each other. Images that a
    chunk shows have been encoded.
    """

    chunks: tuple[Chunk, ...]
    joined: tuple[Joined, ...] = ()
    leaving: tuple[tuple[int, int], ...] = ()  # pages, each to a row of host memory, before all else
    returning: tuple[tuple[int, int], ...] = ()  # rows of host memory, each to a page, after that
    leaving_states: tuple[tuple[int, int], ...] = ()  # snapshots, each to one in host memory, before all else
    encoding: Encoding | None = None

    def continuations(self) -> list[bool]:
        """Return of each chunk whether it continues the one before it."""
        slots = [chunk.slot for chunk in self.chunks]
        return [False, *map(eq, slots, slots[1:])]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def slots(self) -> list[int]:
        """Those of whose requests something runs, each once."""
        encoding = [self.encoding.slot] if self.encoding else []
        return list(dict.fromkeys([*(chunk.slot for chunk in self.chunks), *encoding]))


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a plan, by index of its chunks."""

    # Sampled for each chunk: the drafts that were right and one token more; none without a `draw`.
    tokens: tuple[tuple[int, ...], ...]
    logprobs: Mapping[int, Sequence[Logprob]] = field(default_factory=dict)  # of each, if they are wanted
    scores: Mapping[int, Sequence[Logprob]] = field(default_factory=dict)  # one per token of `scored`
    encoded: EncodingResult | None = None  # of a plan with an `encoding`
    guesses: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # of what follows; up to as many


@dataclass(frozen=True, slots=True)
class EncodedText:
    """A text for an embedding model, or a pair of texts for one that ranks."""

    tokens: tuple[int, ...]
    num_prompt: int = 0  # tokens at its beginning that are an instruction
    second: int | None = None  # where the second text begins, as a class tells the two apart

    @property
    def types(self) -> list[int]:
        """The number of the text that each token belongs to."""
        second = len(self.tokens) if self.second is None else self.second
        return [0] * second + [1] * (len(self.tokens) - second)


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """One step of a model that embeds or ranks: whole inputs, run as one batch.

    Its result is a vector for each; of one that ranks, a vector of one number. There is none yet after about
    so many `seconds`: a plan with the same tuple goes on, and one with another ends it.
    """

    inputs: tuple[EncodedText, ...]
    seconds: float | None = None  # None: until it is done


@dataclass(frozen=True, slots=True)
class CacheShape:
    """The dimensions of KV cache and page table, fixed when a model is loaded."""

    num_pages: int
    page_size: int  # tokens
    num_slots: int
    context: int  # tokens that a request may have, prompt and answer together
    num_snapshots: int = 0  # of a slot's states, of models that keep some
    num_host_pages: int = 0  # that host memory has room for
    num_host_snapshots: int = 0  # the same; their numbers follow those of the device's

    @property
    def pages_per_slot(self) -> int:
        return -(-self.context // self.page_size)


class PoisonedError(Exception):
    """The device's context is unusable; only a new process helps."""


class NotNumbersError(PoisonedError):
    """A model comes to logits that are not numbers. Unless its weights never gave any, its device fails."""
