"""Stop strings, found across pieces of text."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.markers import held_suffix


class StopStrings:
    """Passes text on up to the first stop string, and holds back what might become one.

    Of several matches the one that is complete first counts, so that the result does not depend on how the
    text is cut into pieces. The stop string itself is dropped.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        if self.hit or not self._stops:
            return "" if self.hit else text
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - held_suffix(self._held, self._stops))

    def finish(self) -> str:
        return "" if self.hit else self._release(len(self._held))

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
