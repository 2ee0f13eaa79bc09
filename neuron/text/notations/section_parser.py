"""Reads answers that are sections: thoughts, text and calls, each behind a head of its own.

<|open|>think<|sep|>…<|close|>think<|sep|><|open|>response<|sep|>…<|close|>response<|sep|>
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from neuron.text.events import Event, ReasoningContent
from neuron.text.markers import MarkerSet
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.tag_parser import TagParser, TagSpelling
from neuron.text.notations.tag_pattern import TagHead


@dataclass(frozen=True, slots=True)
class AnswerSection:
    """A kind of section; `head` as `TagHead` takes it. The head and end of a `block` belong to its calls."""

    kind: Literal["thought", "answer", "calls", "block"]
    head: str
    ends: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the head stands for itself, so that it ends another section that was not closed."""
        return "{" not in self.head and "[" not in self.head


class SectionParser(TagParser):
    """States of `_raw`, which is not divided yet: between ⇄ inside. The tag machine reads bodies of calls.

    `opened` is the section that the prompt left open. Text without a head is part of the answer.
    """

    def __init__(
        self,
        spelling: TagSpelling,
        layout: Layout,
        opened: AnswerSection | None,
        new_id: NewId,
        tools: ToolSchemas,
    ) -> None:
        super().__init__(spelling, new_id, tools)
        self._layout = layout
        self._raw = ""
        self._section: AnswerSection | None = None
        self._is_fresh = True  # whether nothing but white space was read of the section
        if opened:
            self._enter(opened)

    def feed(self, text: str) -> list[Event]:
        self._raw += text
        while self._inside(self._section) if self._section else self._between():
            pass
        return self._take_events()

    def finish(self) -> list[Event]:
        raw, self._raw = self._raw, ""
        if self._section:
            if self._section.kind == "calls":  # what began its end is no text behind the call
                raw = raw[: len(raw) - self._layout.stops(self._section).held(raw)]
            self._hand(self._section, raw)
            self._leave(self._section)
        elif raw.strip() and not self._layout.may_go_on(raw.lstrip()):
            self._emit_text(raw)
        return self._take_events()

    def _between(self) -> bool:
        raw = self._raw.lstrip()
        if not raw:
            return False
        if dropped := self._layout.dropped.match(raw):
            self._raw = raw[dropped.end() :]
            return True
        for section, head in self._layout.heads:
            if found := head.match(raw):
                self._raw = raw if section.kind == "block" else raw[found.end() :]
                self._enter(section)
                return True
        if self._layout.may_go_on(raw):
            return False
        self._enter(self._layout.plain)
        return True

    def _enter(self, section: AnswerSection) -> None:
        self._section = section
        self._is_fresh = True
        self.is_reasoning = section.kind == "thought"

    def _inside(self, section: AnswerSection) -> bool:
        stops = self._layout.stops(section)
        end, found = stops.find(self._raw)
        text = self._raw[:end]
        if section.kind == "thought":
            text = text.rstrip()
        if not found:
            self._raw = self._raw[len(text) :]
            self._hand(section, text)
            return False
        is_end = found[0] in section.ends
        self._raw = self._raw[found.end() if is_end else end :]
        self._hand(section, text + (found[0] if section.kind == "block" and is_end else ""))
        self._leave(section)
        return True

    def _hand(self, section: AnswerSection, text: str) -> None:
        if section.kind == "answer":
            self._emit_text(text)
        elif section.kind == "thought":
            self._reason(text)
        else:
            self._held += text
            while self._state():
                pass

    def _reason(self, text: str) -> None:
        shown = text.lstrip() if self._is_fresh else text
        self._is_fresh = not shown and self._is_fresh
        if shown:
            self._events.append(ReasoningContent(shown))

    def _leave(self, section: AnswerSection) -> None:
        if section.kind in {"calls", "block"}:
            self._end()
            self._held = ""
            self._after_call = False
            self._state = self._text
        self._section = None
        self.is_reasoning = False


class Layout:
    """The sections of a family, ready to be looked for. `dropped` are between them and mean nothing."""

    def __init__(self, sections: tuple[AnswerSection, ...], dropped: tuple[str, ...]) -> None:
        ends = dict.fromkeys(end for section in sections for end in section.ends)
        self.plain = AnswerSection("answer", "", tuple(ends))
        self.heads = [(section, TagHead(section.head)) for section in sections]
        self.dropped = MarkerSet([*dropped, *ends])
        plain_heads = [section.head for section in sections if section.is_plain]
        self._stops = {
            section: MarkerSet(
                [*section.ends, *(plain_heads if section.kind in {"thought", "answer"} else [])]
            )
            for section in (*sections, self.plain)
        }

    def stops(self, section: AnswerSection) -> MarkerSet:
        """What ends a section: its own ends, and heads that stand for themselves."""
        return self._stops[section]

    def may_go_on(self, text: str) -> bool:
        """Whether `text`, which stands between sections, may become one of their markers."""
        return self.dropped.may_become(text) or any(head.may_become(text) for _, head in self.heads)


layout_of = lru_cache(Layout)
