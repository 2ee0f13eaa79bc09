"""Whether it pays that the device guesses: what steps with guesses save and cost, in steps without any."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.step import Chunk

_FIRST = 4.0  # steps that guesses may lose before they have shown anything
_MOST = 16.0  # that they may lose after they have saved many
_SHARE = 0.015  # of all steps without guesses, which guesses may lose
_DEAREST = 8.0  # that one step may lose: longer ones were held up by something else
_FIRST_USUAL = 0.5  # steps that one with guesses loses, before any was measured
_MOST_SINCE = 128  # steps with guesses after which one without is measured again


class DraftWorth:
    """Keeps an account of one model's guesses. They stop while they have lost more than they may.

    A step's time beyond that of one without guesses is lost, and each token that an answer gets beyond its
    one saves that answer's share of a step. So verification, the device's guessing and what runs again after
    a wrong guess all count, as they are measured.
    """

    def __init__(self) -> None:
        self._credit = _FIRST  # steps
        self._plain_s: dict[int, float] = {}  # of a step without guesses, by its number of answers
        self._since = 0  # steps with guesses since the last one without
        self._lost = 0.0  # steps, by the last one, whose guesses the next one checks
        self._usual = _FIRST_USUAL  # the same of all that were measured, on average

    @property
    def pays(self) -> bool:
        return self._credit > 0

    def asks(self, answers: int) -> bool:
        """Return whether the device may guess in a step of so many answers."""
        return self.pays and answers in self._plain_s and self._since < _MOST_SINCE

    def learn(self, chunks: Sequence[Chunk], tokens: Sequence[Sequence[int]], seconds: float) -> None:
        """Take in a step of answers alone, and what was sampled in it."""
        count = len(chunks)
        if not any(chunk.checks or chunk.rewinds or chunk.num_guesses for chunk in chunks):
            self._learn_plain(count, seconds)
        elif all(chunk.is_followed for chunk in chunks if chunk.checks or chunk.rewinds):
            self._since += 1
            if plain_s := self._plain_s.get(count):
                self._settle((sum(map(len, tokens)) - count) / count)
                self._lost = min(max(0.0, seconds / plain_s - 1), _DEAREST)
                self._usual += (self._lost - self._usual) * 0.1

    def learn_beside_prompts(self, chunks: Sequence[Chunk], tokens: Sequence[Sequence[int]]) -> None:
        """Take in a step whose time says nothing of guesses: they have cost what they usually do."""
        won = [
            max(0, len(sampled) - 1)
            for chunk, sampled in zip(chunks, tokens, strict=True)
            if chunk.is_followed and (chunk.checks or chunk.rewinds or chunk.num_guesses)
        ]
        answers = sum(1 for chunk in chunks if chunk.draw)
        if won:
            self._settle(sum(won) / max(1, answers))
            self._lost = self._usual
        elif answers:
            self._settle(_SHARE)

    def _learn_plain(self, count: int, seconds: float) -> None:
        """A step that was held up says little, and one that was not says much."""
        known = self._plain_s.get(count, seconds)
        self._plain_s[count] = known + (seconds - known) * (0.5 if seconds < known else 0.1)
        self._since = 0
        self._settle(_SHARE)

    def _settle(self, won: float) -> None:
        """Take in what is won by guesses together with what it took to make them, a step before."""
        self._credit = min(_MOST, self._credit + won - self._lost)
        self._lost = 0.0
