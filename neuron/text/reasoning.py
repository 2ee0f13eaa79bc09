"""Splits reasoning from the answer: `<think>…</think>` at the start of the output.

A block counts only where it opens the output, or where the prompt opened it already: later in an answer the
same characters are text about reasoning. White space around the block belongs to neither side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from neuron.text.events import Content, ReasoningContent
from neuron.text.markers import held_suffix


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """The texts around a block of reasoning."""

    open: str
    close: str

    def opened_by(self, prompt: str) -> bool:
        """Whether the prompt ends inside a block that the template opened."""
        return prompt.rstrip().endswith(self.open)

    def closed_by(self, prompt: str) -> bool:
        """Whether the prompt ends with a closed block, as it does when the model is not to think."""
        return prompt.rstrip().endswith(self.close)


KNOWN_MARKERS = (
    ReasoningMarkers("<think>", "</think>"),
    ReasoningMarkers("[THINK]", "[/THINK]"),
    ReasoningMarkers("<thought>", "</thought>"),
    ReasoningMarkers("<reasoning>", "</reasoning>"),
    ReasoningMarkers("<seed:think>", "</seed:think>"),
    ReasoningMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarkers("◁think▷", "◁/think▷"),
)

Piece = Content | ReasoningContent


class ReasoningSplitter:
    """Splits one output. States: start → opened → inside → closed → answer, or start → answer at once.

    Without `markers` everything is content. `opened` says that the prompt opened the block.
    """

    def __init__(self, markers: ReasoningMarkers | None, *, opened: bool = False) -> None:
        self._markers = markers or ReasoningMarkers("", "")
        self._held = ""
        self._state: Callable[[], tuple[str, Piece | None]] = self._opened if opened else self._start
        if markers is None:
            self._state = self._answer

    @property
    def is_inside(self) -> bool:
        return self._state in {self._opened, self._inside}

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        self._held += text
        while self._held:
            state = self._state
            self._held, piece = state()
            if piece and piece.text:
                pieces.append(piece)
            if self._state == state:
                break
        return pieces

    def finish(self) -> list[Piece]:
        text, self._held = self._held, ""
        if self._state == self._closed or not text:
            return []
        return [ReasoningContent(text) if self.is_inside else Content(text)]

    # Each state returns what stays held, and the piece that comes out.

    def _start(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text.startswith(self._markers.open):
            self._state = self._opened
            return text[len(self._markers.open) :], None
        if not self._markers.open.startswith(text):
            self._state = self._answer
        return self._held, None

    def _opened(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text:
            self._state = self._inside
        return text, None

    def _inside(self) -> tuple[str, Piece | None]:
        text, close, rest = self._held.partition(self._markers.close)
        if close:
            self._state = self._closed
            return rest, ReasoningContent(text.rstrip())
        shown = self._held[: len(self._held) - held_suffix(self._held, (self._markers.close,))].rstrip()
        return self._held[len(shown) :], ReasoningContent(shown)

    def _closed(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text:
            self._state = self._answer
        return text, None

    def _answer(self) -> tuple[str, Piece | None]:
        return "", Content(self._held)
