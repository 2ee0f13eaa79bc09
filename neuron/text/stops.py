"""Stop strings, found across pieces of an answer's visible text."""

from __future__ import annotations

from collections.abc import Sequence

from neuron.text.events import Content, Event
from neuron.text.markers import held_suffix


class StopStrings:
    """Passes text on up to the first stop string, and holds back what might become one.

    Of several matches the one that is complete first counts, so that the result does not depend on how the
    text is cut into pieces. The stop string itself is dropped; `matched` names it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        if self.matched is not None or not self._stops:
            return "" if self.matched is not None else text
        self._held += text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            _, at, self.matched = min(found)
            return self._release(at)
        return self._release(len(self._held) - held_suffix(self._held, self._stops))

    def finish(self) -> str:
        """The text that is still held; what is fed next is searched by itself."""
        return "" if self.matched is not None else self._release(len(self._held))

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text


class VisibleStops:
    """Passes an answer's events on up to the first stop string in its visible text.

    Thoughts and calls are not searched, and no stop string reaches across one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._strings = StopStrings(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that was found."""
        return self._strings.matched

    def feed(self, events: Sequence[Event]) -> list[Event]:
        shown: list[Event] = []
        for event in events:
            if self.matched is not None:
                break
            if isinstance(event, Content):
                shown += _content(self._strings.feed(event.text))
            else:
                shown += [*_content(self._strings.finish()), event]
        return shown

    def finish(self) -> list[Event]:
        return _content(self._strings.finish())


def _content(text: str) -> list[Event]:
    return [Content(text)] if text else []
