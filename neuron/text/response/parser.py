"""Reads an answer by the checkpoint's own description of it, as transformers does.

Text and thoughts stream; calls come out when their field is closed. A field with calls that cannot be read is
text. What stands in no field, where no field takes the rest, is dropped, as the template says.
"""

from __future__ import annotations

from neuron.text.events import Content, Event, ReasoningContent
from neuron.text.notations.parser import CallParser, NewId, ToolSchemas
from neuron.text.response.calls import read_calls
from neuron.text.response.delimiters import Delimiter, Found, OutOfTimeError, TimeBudget
from neuron.text.response.fields import Field, ResponseTemplate


class ResponseParser(CallParser):
    """`_held` is what was read and belongs to no field yet. `_field` is the one that is read; None drops."""

    def __init__(self, template: ResponseTemplate, prefix: str, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._template = template
        self._tools = tools
        self._budget = TimeBudget()
        self._is_out_of_time = False
        self._shown: set[str] = set()  # the fields that had text already
        self._enter(template.rest, "", {})
        if prefix:
            self.feed(prefix)

    def feed(self, text: str) -> list[Event]:
        self._held += text
        self._budget.refill()
        self._run(is_end=False)
        return self._take_events()

    def finish(self) -> list[Event]:
        self._run(is_end=True)
        self._read(self._held)
        self._held = ""
        self._leave("")
        return self._take_events()

    def _run(self, *, is_end: bool) -> None:
        try:
            while not self._is_out_of_time and self._step(is_end=is_end):
                pass
        except OutOfTimeError:
            self._is_out_of_time = True
        if self._is_out_of_time:
            self._read(self._held)
            self._held = ""

    def _step(self, *, is_end: bool) -> bool:
        """Read up to the next delimiter; returns whether there was one."""
        found, field, hold = self._next(is_end=is_end)
        if found is None:
            self._read(self._held[:hold])
            self._held = self._held[hold:]
            return False
        self._read(self._held[: found.start])
        delimiter, self._held = self._held[found.start : found.end], self._held[found.end :]
        had_text, before = self._has_begun, self._space
        self._leave(delimiter if field is None else "")
        self._enter(field or self._template.rest, before + delimiter if field else "", found.groups)
        return bool(delimiter) or had_text

    def _next(self, *, is_end: bool) -> tuple[Found | None, Field | None, int]:
        """The next delimiter, the field that it opens (None: it closes), and how much text is before any."""
        best: tuple[int, int, int, str] | None = None
        found, opened, hold = None, None, len(self._held)
        for delimiter, field in self._watched():
            match, before = delimiter.find(self._held, self._budget, is_end=is_end)
            hold = min(hold, before)
            if match and (field is None or match.end > match.start):
                key = (match.start, match.start - match.end, field is None, field.name if field else "")
                if best is None or key < best:
                    best, found, opened = key, match, field
        if found and found.start >= hold and not is_end:
            found = None
        return found, opened, hold

    def _watched(self) -> list[tuple[Delimiter, Field | None]]:
        """What to look for: the end of the field, or all beginnings where no field was opened."""
        closing = self._field.close if self._field else None
        ends: list[tuple[Delimiter, Field | None]] = [(closing, None)] if closing else []
        if self._field is not None and self._field is not self._template.rest:
            return ends
        return [*((field.open, field) for field in self._template.fields if field.open), *ends]

    def _enter(self, field: Field | None, opening: str, groups: dict[str, str]) -> None:
        self._field = field
        self._opening = opening  # and the white space before it: text if the field holds no call
        self._groups = groups
        self._body: list[str] = []
        self._space = ""  # at the end of the text, dropped if the field ends there
        self._has_begun = False
        self.is_reasoning = field is not None and field.role == "thought"

    def _read(self, text: str) -> None:
        field = self._field
        if field is None or field.role is None or not text:
            return
        if field.role == "calls":
            self._body.append(text)
            self._has_begun = True
            return
        text = self._space + text
        if field.parser.strips:
            text = text if self._has_begun else text.lstrip()
            shown = text.rstrip()
            text, self._space = shown, text[len(shown) :]
        if text:
            self._show(field, text)

    def _show(self, field: Field, text: str) -> None:
        if not self._has_begun and field.name in self._shown:
            text = field.join + text
        self._has_begun = True
        self._shown.add(field.name)
        self._events.append(ReasoningContent(text) if field.role == "thought" else Content(text))

    def _leave(self, closing: str) -> None:
        """End the field; what it holds of calls is read."""
        field = self._field
        if field is None or field.role != "calls" or not (self._opening or self._has_begun):
            return
        body = "".join(self._body)
        try:
            calls = read_calls(field, body, self._groups, self._tools, self._budget)
        except OutOfTimeError:
            self._is_out_of_time = True
            calls = []
        except (ValueError, TypeError, RecursionError):
            calls = []
        for call in calls:
            self._whole_call(call)
        if not calls:
            self._emit_malformed(self._opening + body + closing)
