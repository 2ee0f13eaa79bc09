# cython: language_level=3, annotation_typing=False
"""Reasoning inside the text: `<think>…</think>` at the very start of an answer."""

from __future__ import annotations

from fleet.translation.events import ReasoningDelta, TextDelta

_OPEN = "<think>"
_CLOSE = "</think>"
_MOST_HELD = 64  # characters of white space before the tag


class InlineReasoning:
    """Splits text deltas into reasoning and text, and holds back at most what may become a tag.

    Only a tag at the start counts: further on, the model talks about the tag.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self.settled = False  # all further text is plain text

    def passes(self, text: str) -> bool:
        """Whether a text is plain as it stands, and so is all that follows it."""
        if not (self.settled or self._held or self._inside):
            first = text[:1]
            self.settled = first != _OPEN[0] and not first.isspace()
        return self.settled

    def feed(self, text: str) -> list[TextDelta | ReasoningDelta]:
        if self.settled:
            return [TextDelta(text)]
        text = self._held + text
        self._held = ""
        return self._reasoning(text) if self._inside else self._start(text)

    def settle(self) -> list[TextDelta | ReasoningDelta]:
        """The text that was held back, once no tag can follow."""
        held, self._held, self.settled = self._held, "", True
        if not held:
            return []
        return [ReasoningDelta(held) if self._inside else TextDelta(held)]

    def _start(self, text: str) -> list[TextDelta | ReasoningDelta]:
        begin = text.lstrip()
        if begin.startswith(_OPEN):
            self._inside = True
            return self._reasoning(begin[len(_OPEN) :])
        self._held = text
        undecided = _OPEN.startswith(begin) and len(text) < _MOST_HELD
        return [] if undecided else self.settle()

    def _reasoning(self, text: str) -> list[TextDelta | ReasoningDelta]:
        thought, closed, rest = text.partition(_CLOSE)
        if closed:
            self.settled = True
        else:
            thought, self._held = _split_partial(thought)
        events = (ReasoningDelta(thought) if thought else None, TextDelta(rest) if rest else None)
        return [event for event in events if event]


def _split_partial(text: str) -> tuple[str, str]:
    """The text in two parts; the second is its longest end that begins the closing tag."""
    for size in range(min(len(_CLOSE) - 1, len(text)), 0, -1):
        if _CLOSE.startswith(text[-size:]):
            return text[:-size], text[-size:]
    return text, ""
