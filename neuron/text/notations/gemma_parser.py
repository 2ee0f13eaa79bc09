"""Reads the calls of Gemma 4 and FunctionGemma, and Gemma's channels."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from neuron.text.events import ReasoningContent
from neuron.text.markers import MarkerSet
from neuron.text.notations.parser import MAX_HEAD_CHARS, CallParser, NewId, ToolSchemas
from neuron.text.notations.values import ANYTHING, JSON, TEXT, Kinds, as_json, kinds_of, member_of, quoted
from neuron.text.schema import Schema

_HEAD = re.compile(r"\s*(?:call)?:\s*([^\s{}<>:]+)\s*\{")
_MAY_BECOME_HEAD = re.compile(r"\s*(?:c|ca|cal|call|(?:call)?:\s*[^\s{}<>:]*\s*)?")
_THOUGHT = "thought\n"
_CLOSERS = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class GemmaMarkers:
    """What a family of this kind writes around calls, texts and channels; `channel` may be a pair of ""."""

    open: str
    close: str
    quote: str
    channel: tuple[str, str]
    is_typed: bool  # whether what is between quotes is text, and nothing else


@dataclass(slots=True)
class _Frame:
    """An object or array that is being read."""

    closer: str
    num_values: int = 0
    has_key: bool = False  # an object's key was read, and its value is to come


class GemmaParser(CallParser):
    """States: text → head → members ⇄ (word | string) → tail → text, and text → channel → text."""

    def __init__(self, markers: GemmaMarkers, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._markers = markers
        self._tools = tools
        self._in_text = MarkerSet(filter(None, [markers.open, *markers.channel]))
        self._in_channel = MarkerSet(filter(None, [markers.channel[1], markers.open]))
        self._quote = MarkerSet([markers.quote])
        self._in_word = MarkerSet([markers.quote, markers.close, *",{}[]"])
        self._in_key = MarkerSet([markers.quote, markers.close, *",{}[]:"])
        self._closing = MarkerSet([markers.close])
        self._opening = ""  # text if it becomes no call
        self._is_after = False  # nothing but white space was read since a call or a channel
        self._is_blank = False  # nothing of the channel was read
        self._schema: Schema = {}
        self._frames: list[_Frame] = []
        self._kinds: Kinds = ANYTHING
        self._is_key = False
        self._pieces: list[str] = []  # of a word or a key, until it is whole
        self._pass: Callable[[str], None] = self._pieces.append

    # --- outside of calls -----------------------------------------------------------------------------

    def _text(self) -> bool:
        if self._is_after:
            self._held = self._held.lstrip()
            self._is_after = not self._held
        end, found = self._in_text.find(self._held)
        text = self._held[:end].rstrip()
        self._emit_text(text)
        self._held = self._held[len(text) :]
        if not found:
            return False
        self._open(found[0], found.end() - len(text))
        return True

    def _open(self, marker: str, size: int) -> None:
        self._opening, self._held = self._held[:size], self._held[size:]
        self.is_reasoning = marker == self._markers.channel[0]
        self._is_after = marker != self._markers.open
        if self._is_after:
            self._is_blank = True
            self._state = self._channel if self.is_reasoning else self._text
        else:
            self._state = self._head

    def _channel(self) -> bool:
        """Reasoning, up to the channel's end or to a call."""
        if self._is_blank:
            if _THOUGHT.startswith(self._held):
                return self._held == _THOUGHT and self._begin_channel()
            self._begin_channel()
        end, found = self._in_channel.find(self._held)
        text = self._held[:end].rstrip()
        self._emit_reasoning(text)
        self._held = self._held[len(text) :]
        if found:
            self._open(found[0], found.end() - len(text))
        return found is not None

    def _begin_channel(self) -> bool:
        self._held = self._held.removeprefix(_THOUGHT).lstrip()
        self._is_blank = not self._held
        return False

    def _emit_reasoning(self, text: str) -> None:
        if text:
            self._events.append(ReasoningContent(text))

    def _head(self) -> bool:
        start = self._held[:MAX_HEAD_CHARS]
        if head := _HEAD.match(start):
            self._held = self._held[head.end() :]
            self._start_call(head[1])
            self._schema = self._tools.get(head[1]) or {}
            self._frames = [_Frame("}")]
            self._emit_arguments("{")
            self._state = self._members
            return True
        if len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_HEAD.fullmatch(start):
            return False
        self._emit_malformed(self._opening)
        self._state = self._text
        return True

    def _tail(self) -> bool:
        self._held = self._held.lstrip()
        found = self._closing.match(self._held)
        if not found and self._closing.may_become(self._held):
            return False
        self._held = self._held[found.end() if found else 0 :]
        self._is_after = True
        self._state = self._text
        return True

    # --- the arguments: what comes out is JSON at every step --------------------------------------------

    @property
    def _wants_key(self) -> bool:
        return self._frames[-1].closer == "}" and not self._frames[-1].has_key

    def _members(self) -> bool:
        self._held = self._held.lstrip()
        if not self._held:
            return False
        if self._quote.match(self._held):
            self._held = self._held[len(self._markers.quote) :]
            self._begin_string()
        elif self._closing.match(self._held):
            while self._frames:
                self._close()
        elif self._quote.may_become(self._held) or self._closing.may_become(self._held):
            return False
        elif self._held[0] in _CLOSERS:
            self._before_value()
            self._frames.append(_Frame(_CLOSERS[self._held[0]]))
            self._emit_arguments(self._held[0])
            self._held = self._held[1:]
        elif self._held[0] in "}]":
            self._held = self._held[1:]
            self._close()
        elif self._held[0] in ",:":
            self._fill(is_due=self._held[0] == ",")
            self._held = self._held[1:]
        else:
            self._begin_piece(self._word)
        return True

    def _fill(self, *, is_due: bool = True) -> None:
        """Give a key without a value null."""
        if is_due and self._frames[-1].has_key:
            self._before_value()
            self._emit_arguments("null")

    def _close(self) -> None:
        self._fill()
        self._emit_arguments(self._frames.pop().closer)
        if not self._frames:
            self._end_call()
            self._state = self._tail

    def _before_value(self) -> None:
        frame = self._frames[-1]
        if self._wants_key:
            self._emit_key("")
        if frame.closer == "]" and frame.num_values:
            self._emit_arguments(", ")
        frame.num_values += 1
        frame.has_key = False

    def _emit_key(self, key: str) -> None:
        frame = self._frames[-1]
        self._emit_arguments(f"{', ' if frame.num_values else ''}{quoted(key)}: ")
        frame.has_key = True
        if len(self._frames) == 1:
            self._kinds = kinds_of(member_of(self._schema, key, self._schema), self._schema)

    @property
    def _value_kinds(self) -> Kinds:
        return self._kinds if len(self._frames) == 1 else ANYTHING

    def _begin_piece(self, state: Callable[[], bool]) -> None:
        self._is_key = self._wants_key
        self._pieces = []
        self._pass = self._pieces.append
        self._state = state

    def _word(self) -> bool:
        """A key or a value without quotes, up to the sign that ends it."""
        signs = self._in_key if self._is_key else self._in_word
        end, found = signs.find(self._held)
        self._pass(self._held[:end])
        self._held = self._held[end:]
        if found:
            self._end_word()
            self._state = self._members
        return found is not None

    def _end_word(self) -> None:
        word = "".join(self._pieces).strip()
        if self._is_key:
            self._emit_key(word)
        else:
            self._before_value()
            self._emit_arguments(as_json(word, self._value_kinds or JSON))

    def _begin_string(self) -> None:
        self._begin_piece(self._string)
        if self._is_key:
            return
        self._before_value()
        if self._markers.is_typed or self._value_kinds == TEXT:
            self._emit_arguments('"')
            self._pass = self._pass_text

    def _pass_text(self, text: str) -> None:
        if text:
            self._emit_arguments(quoted(text)[1:-1])

    def _string(self) -> bool:
        end, found = self._quote.find(self._held)
        self._pass(self._held[:end])
        self._held = self._held[found.end() if found else end :]
        if found:
            self._end_string()
            self._state = self._members
        return found is not None

    def _end_string(self) -> None:
        if self._pass == self._pass_text:
            self._emit_arguments('"')
        elif self._is_key:
            self._emit_key("".join(self._pieces))
        else:
            self._emit_arguments(as_json("".join(self._pieces), self._value_kinds))

    # --- the end of the answer ------------------------------------------------------------------------

    def _end(self) -> None:
        held = self._held
        if self._state == self._text:
            self._emit_text(held.lstrip() if self._is_after else held)
        elif self._state == self._channel:
            self._emit_reasoning("" if self._is_blank else held)
        elif self._state == self._head:
            self._emit_malformed(self._opening + held)
        elif self._state == self._tail:
            self._emit_text("" if self._closing.may_become(held) else held)
        elif self._state in {self._string, self._word}:
            self._pass(held)
            if self._pass != self._pass_text and not self._is_key:
                self._emit_arguments(as_json("".join(self._pieces).strip(), self._value_kinds))
