"""Drafts: guesses of an answer's next tokens, which the model checks in one step.

An answer often repeats its prompt: code that is edited, text that is quoted. Where its last `NGRAM` tokens
stood in the text before, what followed them is the draft ("prompt lookup", Saxena 2023; Yang et al. 2023,
"Inference with Reference"). It costs a look into a dictionary.

How many tokens to guess follows from how the last guesses did: a wrong one costs the time of a few rows of a
step. A draft is certain, not drawn, so to accept it where the model's own sample is the same token is the
acceptance rule of Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative Decoding"). So
drafts change no distribution, and no text under a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

MOST_DRAFT_TOKENS = 15  # of one answer in one step
NGRAM = 3  # tokens; shorter ones stand in most texts by chance
_FIRST_LENGTH = 2  # of a request's first draft, in tokens
_FIRST_ON_DEVICE = 1  # the same where a guess costs the device's time
_MAX_PAUSE = 64  # steps
_MOST_KNOWN = 1 << 16  # tokens of a long prompt, the last ones: a table of 11 MB
_MOST_LEARNED = 1 << 12  # tokens in one step, which takes a millisecond


class Drafter(Protocol):
    """Guesses how one request's text goes on."""

    is_on_device: bool = False  # whether it passes on what the device guesses

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return up to `most` guesses of what follows `tokens`, to which calls only ever append."""
        ...

    def learn(self, drafted: int, accepted: int) -> None:
        """Take in how many tokens of a draft were right, if there were any."""
        ...

    def ask(self, most: int) -> int:
        """Return how many tokens the device is to guess in the step that is planned."""
        return 0

    def take(self, num_tokens: int, guesses: Sequence[int]) -> None:
        """Take in what the device guessed to follow the text, of so many tokens."""


@dataclass(frozen=True, slots=True)
class DraftSource:
    """What drafts a model's answers."""

    new_drafter: Callable[[], Drafter]  # of one request
    tokens: int = MOST_DRAFT_TOKENS  # of one draft at most
    new_other: Callable[[], Drafter] | None = None  # while it does not pay that the device drafts


class DraftLength:
    """How many tokens to guess: twice as many after a draft that was right, none for a while after a wrong
    one.

    Drafts that fail one after the other come ever less often, so a text that cannot be guessed costs little.
    """

    def __init__(self, first: int = _FIRST_LENGTH) -> None:
        self._length = first
        self._failures = 0  # in a row
        self._pause = 0  # steps

    def take(self, most: int) -> int:
        """Return the length of the next step's draft."""
        if self._pause:
            self._pause -= 1
            return 0
        return min(self._length, most)

    def learn(self, drafted: int, accepted: int) -> None:
        if accepted:
            self._failures = 0
            self._length = 2 * self._length if accepted == drafted else max(accepted, self._length // 2)
        else:
            self._pause = min(4**self._failures, _MAX_PAUSE)
            self._failures += 1
            self._length = max(1, self._length // 2)


class NgramDrafter(Drafter):
    """Guesses that a text goes on as it did where its last tokens stood before."""

    def __init__(self) -> None:
        self._length = DraftLength()
        self._next: dict[tuple[int, ...], int] = {}  # where the text goes on after an n-gram, the last time
        self._end = NGRAM  # of the last n-gram that is known

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        count = self._length.take(most)
        self._learn_places(tokens)
        start = self._next.get(tuple(tokens[-NGRAM:]))
        if not count or start is None:
            return []
        found = list(tokens[start : start + count])
        repeats = -(-count // len(found))  # of a text that repeats itself already
        return (found * repeats)[:count]

    def _learn_places(self, tokens: Sequence[int]) -> None:
        first = max(self._end, len(tokens) - _MOST_KNOWN)
        end = min(len(tokens), first + _MOST_LEARNED)
        for place in range(first, end):
            self._next[tuple(tokens[place - NGRAM : place])] = place
        self._end = max(self._end, end)

    def learn(self, drafted: int, accepted: int) -> None:
        self._length.learn(drafted, accepted)


class DeviceDrafter(Drafter):
    """Passes on what a model on the device guesses, and asks it for as many as are worth it."""

    is_on_device = True

    def __init__(self) -> None:
        self._length = DraftLength(_FIRST_ON_DEVICE)
        self._guesses: list[int] = []
        self._num_tokens = 0  # of the text that they follow

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
        return self._guesses[:most] if len(tokens) == self._num_tokens else []

    def learn(self, drafted: int, accepted: int) -> None:
        self._length.learn(drafted, accepted)

    def ask(self, most: int) -> int:
        return self._length.take(most)

    def take(self, num_tokens: int, guesses: Sequence[int]) -> None:
        self._num_tokens, self._guesses = num_tokens, list(guesses)


# What drafts if nothing on the device does.
_DRAFTERS: dict[str, Callable[[], Drafter] | None] = {
    "auto": NgramDrafter,
    "ngram": NgramDrafter,
    "off": None,
    "mtp": None,
}
SPECULATIONS = tuple(_DRAFTERS)


def draft_source(speculation: str, tokens: int, *, on_device: bool = False) -> DraftSource | None:
    """Return what one of `SPECULATIONS` names, or passes on what is drafted on the device; None where nothing
    is drafted."""
    own = _DRAFTERS.get(speculation)
    if on_device:
        return DraftSource(DeviceDrafter, tokens, own)
    return DraftSource(own, tokens) if own else None
