"""One request inside the engine: its tokens, how many of them are in the cache, and in which pages."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from neuron.engine.drafter import Drafter
from neuron.engine.page_allocator import ROOT, PageHash, page_hash
from neuron.pipe import Logprob, Sampling, Submit
from neuron.step import Chunk, Draw, PromptImage, PromptRule

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

    def masks_after(self, tokens: Sequence[int]) -> list[bytes]:
        """Return what `allowed` would be after each of `tokens`, up to the first that may not follow or that
        ends the answer."""
        ...

    def accept_token(self, token: int) -> GrammarFailure | None:
        """Take in a sampled token and find which may follow it. Return the failure if none can be found."""
        ...


class Drafts(NamedTuple):
    """Guesses of the next tokens, and how to sample in place of each and after the last."""

    tokens: tuple[int, ...]
    draws: tuple[Draw, ...]  # one more than tokens
    asked: int = 0  # how many more the device is to guess for the step after

    def cut(self, length: int) -> Drafts:
        """Return the first `length` of them."""
        return Drafts(self.tokens[:length], self.draws[: length + 1])


class LoadedAdapter(NamedTuple):
    """An adapter over the model, as requests name it."""

    number: int  # the device's
    key: PageHash  # stands before its pages: their KV is another than the model's own


class EngineRequest:
    """A request's state. Mutable, and for the scheduler alone.

    `tokens` is prompt and answer; the KV of `tokens[:num_computed]` is in `pages`. A request runs while it
    has a slot.
    """

    def __init__(  # noqa: PLR0913
        self,
        submit: Submit,
        *,
        max_tokens: int,
        now: float,
        matcher: GrammarMatcher | None = None,
        images: Sequence[PromptImage] = (),
        prompt_rule: PromptRule | None = None,
        whole_images: bool = False,
        drafter: Drafter | None = None,
        adapter: LoadedAdapter | None = None,
    ) -> None:
        self.id = submit.id
        self.adapter = adapter
        self.matcher = matcher
        self.drafter = drafter
        self.images = tuple(images)
        self.encoded_end = 0  # images up to there have been encoded since it was admitted
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
        self.queue_s = 0.0  # until it first ran
        self.slot: int | None = None
        self.pages: list[int] = []
        self.num_computed = 0
        self.num_again = 0  # tokens after these that ran, and run again since states went back behind them
        self.num_sent_pages = 0  # of `pages`, those the device has been told of
        self.num_drafted = 0
        self.num_accepted = 0  # of these
        self.num_cached: int | None = None  # prompt tokens found in the cache at the first admission
        # Prompt tokens whose logprobs have been sent or are not wanted; the first has none.
        self.num_scored = 1 if submit.score_prompt else self.num_prompt
        self.snapshot: int | None = None  # of states, that it began with when it was admitted
        self.snapshot_in_answer: PageHash | None = None  # the last that was taken of it while it decoded
        self._rule = prompt_rule
        self._whole_blocks = [block for image in images for block in image.blocks] if whole_images else []
        self._page_hashes: list[PageHash] = []

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens whose KV is still to be computed; while decoding 1 and those that run again."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        return self.num_pending == 1 + self.num_again and self.num_output > 0

    @property
    def adapter_number(self) -> int:
        """-1 of a request without one."""
        return self.adapter.number if self.adapter else -1

    @property
    def is_scoring(self) -> bool:
        """Whether logprobs of its prompt are still to be sent, so that nothing may come from the cache."""
        return self.num_scored < self.num_prompt

    def scored(self, start: int, end: int) -> tuple[int, ...]:
        """Return the prompt tokens that follow tokens `start:end`, if they are to be scored."""
        return tuple(self.tokens[start + 1 : min(end + 1, self.num_prompt)]) if self.is_scoring else ()

    def draw(self) -> Draw:
        """Return how to sample the next token."""
        return self._draw(0, self.matcher.allowed if self.matcher else None)

    def draft(self, most: int) -> Drafts:
        """Return up to `most` guesses of what follows, none that the grammar forbids."""
        tokens = self.drafter.draft(self.tokens, most) if self.drafter and most > 0 else []
        masks: list[bytes | None] = [None] * len(tokens)
        if self.matcher:
            masks = list(self.matcher.masks_after(tokens))
        draws = [self._draw(index, mask) for index, mask in enumerate(masks, 1)]
        return Drafts(tuple(tokens[: len(masks)]), (self.draw(), *draws))

    def take(self, guesses: Sequence[int] | None) -> None:
        """Take in what the device guesses of its next tokens, if it does."""
        if self.drafter and guesses is not None:
            self.drafter.take(len(self.tokens), guesses)

    def _draw(self, ahead: int, mask: bytes | None) -> Draw:
        """Return how to sample the token that is `ahead` of the next one."""
        index = self.num_output + ahead
        banned = tuple(self.stop_ids) if index < self.min_tokens else ()
        random = uniform(self.seed, index) if self.sampling.temperature > 0 else 0.0
        return Draw(random, banned, mask)

    def chunk(self, start: int, end: int, drafts: Drafts | None, snapshot: int | None) -> Chunk:
        """Return tokens `start:end` and then `drafts` as they run in the next step. Its slot's device is told
        of new pages by that."""
        assert self.slot is not None
        tokens = tuple(self.tokens[start:end])
        checks: tuple[Draw, ...] = ()
        draw = None
        if drafts:
            checks, draw = drafts.draws[:-1], drafts.draws[-1]
            tokens += drafts.tokens
        elif end == len(self.tokens):
            draw = self.draw()
        new_pages = tuple(self.pages[self.num_sent_pages :])
        self.num_sent_pages = len(self.pages)
        images, scored = self.images_in(start, end), self.scored(start, end)
        return Chunk(
            *(self.slot, tokens, start, new_pages, draw, images, scored, snapshot, checks),
            rewinds=self.num_again > 0,
            num_guesses=drafts.asked if drafts else 0,
            is_followed=self.drafter is not None and self.drafter.is_on_device,
        )

    def leave(self) -> None:
        """Note that slot and pages are another's now."""
        self.slot = None
        self.pages = []
        self.encoded_end = 0
        self.num_sent_pages = 0

    def advance(self, chunk: Chunk, end: int, *, goes_back: bool) -> None:
        """Take in that a chunk has run and holds up to `end`. States that have seen wrong drafts go back to
        before it, and all of it that was right runs again."""
        self.num_computed = chunk.start if goes_back else end
        self.num_again = end - chunk.start if goes_back else 0

    def news(self, start: int, scores: Sequence[Logprob]) -> list[Logprob]:
        """Return the prompt's logprobs from token `start` on, without those sent before a preemption."""
        news = list(scores[max(0, self.num_scored - start) :])
        if scores:
            self.num_scored = max(self.num_scored, start + len(scores))
        return news

    def page_hashes(self, count: int, page_size: int) -> list[PageHash]:
        """Return the hashes of the first `count` pages, all of which are full."""
        while len(self._page_hashes) < count:
            start = len(self._page_hashes) * page_size
            end = start + page_size
            parent = self._page_hashes[-1] if self._page_hashes else self._root()
            self._page_hashes.append(page_hash(parent, self.tokens[start:end], self._image_key(start, end)))
        return self._page_hashes[:count]

    def count_next(self, budget: int, last: int) -> int:
        """Return how many of the pending tokens run in the next step, for a budget.

        More do if all must run as one chunk, or if no more than `last` would be left of them. No chunk ends
        in an image that must run as one.
        """
        start = self.num_computed
        together = self.num_prompt - start if self._rule is PromptRule.WHOLE else 0
        count = max(self.num_pending if self.num_pending <= budget + last else budget, together)
        for first, end in self._whole_blocks:
            if first < start + count < end:
                return (first if first > start else end) - start
        return count

    def _root(self) -> PageHash:
        """Return the parent of the first page, which names the adapter if there is one, and the whole prompt
        if what its pages hold depends on that."""
        root = self.adapter.key if self.adapter else ROOT
        if not self._rule:
            return root
        return page_hash(root, self.tokens[: self.num_prompt], self._image_key(0, self.num_prompt))

    def images_in(self, start: int, end: int) -> tuple[PromptImage, ...]:
        """Return the images that overlap tokens `start:end`."""
        if not self.images or start >= self.images[-1].end:
            return ()
        return tuple(image for image in self.images if image.start < end and image.end > start)

    def images_to_encode(self, end: int) -> tuple[PromptImage, ...]:
        """Return the images that must be encoded before tokens up to `end` run."""
        return tuple(i for i in self.images_in(self.num_computed, end) if i.end > self.encoded_end)

    def _image_key(self, start: int, end: int) -> bytes:
        """Return what tells apart equal tokens `start:end` that stand for other images."""
        images = self.images_in(start, end)
        return b"".join(image.digest + image.start.to_bytes(8, "little") for image in images)
