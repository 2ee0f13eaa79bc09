"""What the writers of every dialect share: events in order, bytes out."""

from __future__ import annotations

from collections.abc import Iterable

from fleet.translation.events import Event, Grammar, Phase


class EventWriter:
    """Writes a client's event stream for one answer. A dialect says how by `_leave` and `_write`."""

    def __init__(self) -> None:
        self._grammar = Grammar()
        self._out: list[bytes] = []

    def write(self, events: Iterable[Event]) -> bytes:
        """The bytes that the events add to the stream. Raises `IllegalEvent` where they are no one answer."""
        for event in events:
            before = self._grammar.phase
            after = self._grammar.step(event)
            if after is not before:
                self._leave(before, event)
            self._write(event, before, after)
        written = b"".join(self._out)
        self._out.clear()
        return written

    def _leave(self, phase: Phase, event: Event) -> None:
        """Close what `event` ends by starting another phase."""
        raise NotImplementedError

    def _write(self, event: Event, before: Phase, after: Phase) -> None:
        """Append to `_out` what `event` adds."""
        raise NotImplementedError
