"""One request inside the engine: its tokens, how many of them are in the cache, and in which pages."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from neuron.engine.page_allocator import ROOT, PageHash, page_hash
from neuron.pipe import Sampling, Submit
from neuron.step import Draw, PromptImage, PromptRule

_U64 = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """Return the random number in [0, 1) for token `index` under `seed`.

    It depends on nothing else, so neither the batch nor a preemption changes a text. Mixing after SplitMix64
    (Steele et al. 2014).
    """
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & _U64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & _U64
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


class GrammarFailure(NamedTuple):
    """Why an answer cannot be continued under its grammar, as its client is told."""

    status: int
    code: str
    message: str


class GrammarMatcher(Protocol):
    """Follows an answer token by token and says which tokens may come next."""

    @property
    def is_terminated(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""
        ...

    @property
    def allowed(self) -> bytes:
        """One bit per token id, the lowest first: which may be sampled next."""
        ...

    def accept_token(self, token: int) -> GrammarFailure | None:
        """Take in a sampled token and find which may follow it. Return the failure if none can be found."""
        ...


class EngineRequest:
    """A request's state. Mutable, and for the scheduler alone.

    `tokens` is prompt and answer; the KV of `tokens[:num_computed]` is in `pages`. A request runs while it
    has a slot.
    """

    def __init__(
        self,
        submit: Submit,
        *,
        max_tokens: int,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        prompt_rule: PromptRule | None = None,
    ) -> None:
        self.id = submit.id
        self.matcher = matcher
        self.images = tuple(images)
        self.tokens = list(submit.tokens)
        self.num_prompt = len(submit.tokens)
        self.principal = submit.principal
        self.priority = submit.priority
        self.has_run = False
        self.marks = submit.marks
        self.max_tokens = max_tokens
        self.min_tokens = submit.min_tokens
        self.stop_ids = frozenset(submit.stop_ids)
        self.sampling: Sampling = submit.sampling
        self.seed = secrets.randbits(63) if submit.sampling.seed is None else submit.sampling.seed
        self.submitted_at = now
        self.slot: int | None = None
        self.pages: list[int] = []
        self.num_computed = 0
        self.num_sent_pages = 0  # of `pages`, those the device has been told of
        self.num_cached: int | None = None  # prompt tokens found in the cache at the first admission
        # Prompt tokens whose logprobs have been sent or are not wanted; the first has none.
        self.num_scored = 1 if submit.score_prompt else self.num_prompt
        self.snapshot: int | None = None  # of states, that it began with when it was admitted
        self.snapshot_in_answer: PageHash | None = None  # the last that was taken of it while it decoded
        self._rule = prompt_rule
        self._page_hashes: list[PageHash] = []

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_computed == len(self.tokens) - 1 >= self.num_prompt

    @property
    def is_scoring(self) -> bool:
        """Whether logprobs of its prompt are still to be sent, so that nothing may come from the cache."""
        return self.num_scored < self.num_prompt

    def scored(self, start: int, end: int) -> tuple[int, ...]:
        """Return the prompt tokens that follow tokens `start:end`, if they are to be scored."""
        return tuple(self.tokens[start + 1 : min(end + 1, self.num_prompt)]) if self.is_scoring else ()

    def draw(self) -> Draw:
        """Return how to sample the next token."""
        banned = tuple(self.stop_ids) if self.num_output < self.min_tokens else ()
        random = uniform(self.seed, self.num_output) if self.sampling.temperature > 0 else 0.0
        return Draw(random, banned, self.matcher.allowed if self.matcher else None)

    def page_hashes(self, count: int, page_size: int) -> list[PageHash]:
        """Return the hashes of the first `count` pages, all of which are full."""
        while len(self._page_hashes) < count:
            start = len(self._page_hashes) * page_size
            end = start + page_size
            parent = self._page_hashes[-1] if self._page_hashes else self._root()
            self._page_hashes.append(page_hash(parent, self.tokens[start:end], self._image_key(start, end)))
        return self._page_hashes[:count]

    def chunk_size(self, most: int) -> int:
        """Return how many of the pending tokens run in the next step: `most` unless more run as one chunk."""
        together = self.num_prompt - self.num_computed if self._rule is PromptRule.WHOLE else 0
        return max(min(most, self.num_pending), together)

    def _root(self) -> PageHash:
        """Return the parent of the first page, which names the whole prompt if what its pages hold depends on
        that."""
        return page_hash(ROOT, self.tokens[: self.num_prompt]) if self._rule else ROOT

    def images_in(self, start: int, end: int) -> tuple[PromptImage, ...]:
        """Return the images that overlap tokens `start:end`."""
        if not self.images or start >= self.images[-1].end:
            return ()
        return tuple(image for image in self.images if image.start < end and image.end > start)

    def _image_key(self, start: int, end: int) -> bytes:
        """Return what tells apart equal tokens `start:end` that stand for other images."""
        images = self.images_in(start, end)
        return b"".join(image.digest + image.start.to_bytes(8, "little") for image in images)
