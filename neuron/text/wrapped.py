"""Takes off what a family writes around its visible answer: `<answer>…</answer>`.

A wrapper counts only where it opens the answer, and its closing marker once: later the same characters are
text. White space within the wrapper's ends is dropped with it. A family whose wrapper has no opening marker
is taken to be inside from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from neuron.text.markers import held_suffix


@dataclass(frozen=True, slots=True)
class AnswerMarkers:
    """The texts around the visible answer; either may be missing from one."""

    open: str
    close: str = ""


class AnswerUnwrapper:
    """Unwraps one answer. States: start → inside → closed → plain, or start → plain at once."""

    def __init__(self, answers: Sequence[AnswerMarkers] = ()) -> None:
        self._closers = {markers.open: markers.close for markers in answers}
        self._close = self._closers.pop("", "")
        self._held = ""
        self._state: Callable[[], tuple[str, str]] = self._start if answers else self._plain

    def feed(self, text: str) -> str:
        """The next piece of the answer itself."""
        self._held += text
        out = ""
        while self._held:
            state = self._state
            shown, self._held = state()
            out += shown
            if self._state == state:
                break
        return out

    def finish(self) -> str:
        """What was held back."""
        text, self._held = self._held, ""
        return "" if self._state == self._closed else text

    # Each state returns what comes out, and what stays held.

    def _start(self) -> tuple[str, str]:
        text = self._held.lstrip()
        for opener, close in self._closers.items():
            if text.startswith(opener):
                self._close = close
                self._state = self._opened
                return "", text[len(opener) :]
        if any(opener.startswith(text) for opener in self._closers) or not text:
            return "", self._held
        self._state = self._inside if self._close else self._plain
        return "", self._held

    def _opened(self) -> tuple[str, str]:
        text = self._held.lstrip()
        if text:
            self._state = self._inside if self._close else self._plain
        return "", text

    def _inside(self) -> tuple[str, str]:
        text, close, rest = self._held.partition(self._close)
        if close:
            self._state = self._closed
            return text.rstrip(), rest
        shown = self._held[: len(self._held) - held_suffix(self._held, (self._close,))].rstrip()
        return shown, self._held[len(shown) :]

    def _closed(self) -> tuple[str, str]:
        text = self._held.lstrip()
        if text:
            self._state = self._plain
        return "", text

    def _plain(self) -> tuple[str, str]:
        return self._held, ""
