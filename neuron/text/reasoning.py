"""Splits reasoning from the answer: `<think>…</think>` at the start of the output.

A block counts only where it opens the output, or where the prompt opened it already: later in an answer the
same characters are text about reasoning. Output that begins with the closing marker has an empty block. White
space around the block belongs to neither side.

A call that begins before the block is closed closes it, for models write no calls into their thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from neuron.text.events import Content, ReasoningContent
from neuron.text.markers import any_of, held_suffix
from neuron.text.wrapped import AnswerMarkers, AnswerUnwrapper


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


@dataclass(frozen=True)
class CallOpeners:
    """The texts that begin a call: `tokens` wherever they stand, `texts` at the beginning of a line."""

    tokens: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.tokens + self.texts

    def find(self, text: str) -> int:
        """Where the first call in `text`, which does not begin a line, begins; -1 for nowhere."""
        found = self._pattern.search(text) if self.all and not text.isspace() else None
        return found.end("before") if found else -1

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<before>\n[ \t]*(?=(?:{any_of(self.all)}))|(?={any_of(self.tokens)}))")


Piece = Content | ReasoningContent


class ReasoningSplitter:
    """Splits one output. States: start → opened → inside → closed → answer, or start → answer at once.

    Without `markers` everything is content. `opened` says that the prompt opened the block, `calls` what ends
    it beside its marker; what `answers` put around the content is dropped.
    """

    def __init__(
        self,
        markers: ReasoningMarkers | None,
        *,
        opened: bool = False,
        calls: CallOpeners | None = None,
        answers: Sequence[AnswerMarkers] = (),
    ) -> None:
        self._unwrapper = AnswerUnwrapper(answers)
        self._calls = calls or CallOpeners()
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
            if isinstance(piece, Content):
                piece = Content(self._unwrapper.feed(piece.text))
            if piece and piece.text:
                pieces.append(piece)
            if self._state == state:
                break
        return pieces

    def finish(self) -> list[Piece]:
        text, self._held = self._held, ""
        if self.is_inside:
            return [ReasoningContent(text)] if text else []
        content = self._unwrapper.feed(text) if self._state != self._closed else ""
        content += self._unwrapper.finish()
        return [Content(content)] if content else []

    # Each state returns what stays held, and the piece that comes out.

    def _start(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text.startswith(self._markers.open):
            self._state = self._opened
            return text[len(self._markers.open) :], None
        if text.startswith(self._markers.close):
            self._state = self._closed
            return text[len(self._markers.close) :], None
        if not self._markers.open.startswith(text) and not self._markers.close.startswith(text):
            self._state = self._answer
        return self._held, None

    def _opened(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text.startswith(self._calls.all):
            self._state = self._answer
        elif text and not any(opener.startswith(text) for opener in self._calls.all):
            self._state = self._inside
        return text, None

    def _inside(self) -> tuple[str, Piece | None]:
        text, close, rest = self._held.partition(self._markers.close)
        if (call := self._calls.find(text)) >= 0:
            self._state = self._answer
            return self._held[call:], ReasoningContent(text[:call].rstrip())
        if close:
            self._state = self._closed
            return rest, ReasoningContent(text.rstrip())
        ends = (self._markers.close, *self._calls.all)
        shown = self._held[: len(self._held) - held_suffix(self._held, ends)].rstrip()
        return self._held[len(shown) :], ReasoningContent(shown)

    def _closed(self) -> tuple[str, Piece | None]:
        text = self._held.lstrip()
        if text:
            self._state = self._answer
        return text, None

    def _answer(self) -> tuple[str, Piece | None]:
        return "", Content(self._held)
