"""Reads calls whose parameters stand between tags, whatever the tags of the family are.

A value ends at its closing tag. Where a model forgets that tag, the closing tag of the call or of the block
ends it, but only if no closing tag of the value follows before the next head: until that shows, such a tag
may be part of a text. The end of the answer ends a call too, unless it cuts a value off: then the JSON is cut
off, as in other notations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from neuron.text.markers import MarkerSet
from neuron.text.notations.parser import CallParser, NewId, ToolSchemas
from neuron.text.notations.tag_pattern import TagHead, segments
from neuron.text.notations.values import ANYTHING, JSON, TEXT, Kinds, as_json, kinds_of, member_of, quoted
from neuron.text.schema import Schema

CDATA, END_CDATA = "<![CDATA[", "]]>"


@dataclass(frozen=True, slots=True)
class TagSpelling:
    """How a family spells its calls, each part as a template writes it; `TagHead` says how it is read.

    A value's type follows from the word in `{kind}`, where there is one: `kinds` are the word for text and
    the one for JSON (empty: the type's name in JSON Schema). Otherwise the tool's schema tells it.
    """

    call: str  # '<invoke name="{name}">\n'
    parameter: str  # '<parameter name="{key}">{value}</parameter>\n'
    end: str  # "</invoke>\n"
    block: tuple[str, str] = ("", "")  # around the calls
    holds_many: bool = True  # whether one block holds all calls
    is_block_needed: bool = True  # whether a call counts only within a block
    skipped: tuple[str, ...] = ()  # what else may stand between calls, without a meaning
    kinds: tuple[str, str] | None = None
    has_cdata: bool = False  # whether a value may be wrapped in CDATA

    @property
    def openers(self) -> tuple[str, ...]:
        """The texts of which one begins a call."""
        block, call = self.block[0].strip(), self.call.partition("{")[0]
        if not block:
            return (call,)
        return (block,) if self.is_block_needed else (block, call)

    @property
    def text(self) -> str:
        """All of it, for a look at its tags."""
        return "\n".join([*self.block, self.call, self.parameter, self.end, *self.skipped])


class TagReader:
    """A spelling, ready to be looked for. Made once for each."""

    def __init__(self, spelling: TagSpelling) -> None:
        before, _, after = spelling.parameter.partition("{value}")
        block, ends = spelling.block, segments(spelling.end)
        self.padding = "\n" if after.startswith("\n") else ""  # line breaks around a value
        self.value_end = after.strip()
        self.open_block = block[0].strip()
        self.openers = MarkerSet(spelling.openers)
        self.call = TagHead(spelling.call.rstrip())
        self.parameter = TagHead(before.removesuffix(self.padding))
        self.close_block = MarkerSet(segments(block[1]))
        self.skipped = MarkerSet([*ends, *spelling.skipped])
        self.closing = MarkerSet([*ends, *segments(block[1])])
        inner = [self.value_end, *ends, *segments(block[1])]
        self.in_value = MarkerSet([*inner, *(self.padding + tag for tag in inner)])
        # What decides whether a closing tag within a value was text: the value's own, or a new head.
        self.after_value = MarkerSet([self.value_end, before.partition("{")[0], *spelling.openers])
        self.cdata_end = MarkerSet([END_CDATA + self.value_end])
        self.text_kind = spelling.kinds[0] if spelling.kinds else None
        self.has_cdata = spelling.has_cdata


reader_of = lru_cache(TagReader)


class TagParser(CallParser):
    """States: text → call → parameters ⇄ value (→ doubt), parameters → call → text."""

    def __init__(self, spelling: TagSpelling, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._reader = reader_of(spelling)
        self._tools = tools
        self._schema: Schema = {}
        self._opening = ""  # text if it becomes no call
        self._in_block = False
        self._after_call = False
        self._num_parameters = 0
        self._kinds: Kinds = ANYTHING
        self._value_text: list[str] = []  # of a value that is no text, until it is whole
        self._in_cdata = False
        self._is_blank = False  # nothing of the value was read yet
        self._searched = 0

    # --- outside of calls -----------------------------------------------------------------------------

    def _text(self) -> bool:
        if self._after_call:
            self._held = self._held.lstrip()
            self._after_call = not self._held
        end, found = self._reader.openers.find(self._held)
        text = self._held[:end].rstrip()
        self._emit_text(text)
        self._held = self._held[len(text) :]
        if not found:
            return False
        opener = found.end() - len(text)
        self._in_block = found[0] == self._reader.open_block
        size = opener if self._in_block else opener - len(found[0])
        self._opening, self._held = self._held[:size], self._held[size:]
        self._after_call = False
        self._state = self._call
        return True

    def _call(self) -> bool:
        """Before the head of a call, the first or the next one."""
        self._skip_between()
        if head := self._reader.call.match(self._held):
            self._held = self._held[head.end() :]
            self._begin(head["name"].strip())
            return True
        if self._after_call and (close := self._reader.close_block.match(self._held)):
            self._held = self._held[close.end() :]
            self._state = self._text
            return True
        if self._may_go_on():
            return False
        if not self._after_call:
            if not self._in_block:  # the opener is the beginning of the head: read what follows it
                self._opening += self._held[:1]
                self._held = self._held[1:]
            self._emit_malformed(self._opening)
        self._state = self._text
        return True

    def _skip_between(self) -> None:
        size = 0
        while True:
            rest = self._held[size:]
            start = len(rest) - len(rest.lstrip())
            found = self._reader.skipped.match(rest[start:])
            size += start + (found.end() if found else 0)
            if not found:
                break
        self._opening += self._held[:size]
        self._held = self._held[size:]

    def _may_go_on(self) -> bool:
        reader, held = self._reader, self._held
        return (
            reader.call.may_become(held)
            or reader.skipped.may_become(held)
            or (self._after_call and reader.close_block.may_become(held))
        )

    # --- inside of a call -----------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._start_call(name)
        self._opening = ""
        self._after_call = True
        self._schema = self._tools.get(name) or {}
        self._num_parameters = 0
        self._state = self._parameters

    def _parameters(self) -> bool:
        reader = self._reader
        self._held = self._held.lstrip()
        if head := reader.parameter.match(self._held):
            self._held = self._held[head.end() :]
            self._open_value(**head.groupdict())
            return True
        if (
            reader.closing.match(self._held)
            or reader.openers.match(self._held)
            or reader.call.match(self._held)
        ):
            self._close()
            return True
        if (
            reader.parameter.may_become(self._held)
            or reader.call.may_become(self._held)
            or any(tags.may_become(self._held) for tags in (reader.closing, reader.openers))
        ):
            return False
        self._emit_text(self._held[:1])
        self._held = self._held[1:]
        self._state = self._no_parameter
        return True

    def _no_parameter(self) -> bool:
        """Text where a parameter should be, up to what may begin one."""
        text, sign, rest = self._held.partition("<")
        self._emit_text(text)
        self._held = sign + rest
        if sign:
            self._state = self._parameters
        return bool(sign)

    def _close(self) -> None:
        self._emit_arguments("}" if self._num_parameters else "{}")
        self._end_call()
        self._state = self._call

    def _open_value(self, key: str, kind: str | None = None, **_: str | None) -> None:
        key = key.strip()
        self._emit_arguments(f"{', ' if self._num_parameters else '{'}{quoted(key)}: ")
        self._num_parameters += 1
        self._kinds = self._kinds_of(key, kind)
        self._value_text = []
        self._in_cdata = False
        self._is_blank = True
        if self._kinds == TEXT:
            self._emit_arguments('"')
        self._state = self._value

    def _kinds_of(self, key: str, kind: str | None) -> Kinds:
        if kind is not None:
            return TEXT if kind == self._reader.text_kind else JSON
        return kinds_of(member_of(self._schema, key, self._schema), self._schema)

    # --- inside of a value ----------------------------------------------------------------------------

    def _value(self) -> bool:
        reader = self._reader
        if self._is_blank and not self._begin_value():
            return False
        if self._in_cdata:
            return self._cdata()
        end, found = reader.in_value.find(self._held)
        self._pass(self._held[:end])
        self._held = self._held[end:]
        if not found:
            return False
        if found[0].endswith(reader.value_end):
            self._held = self._held[len(found[0]) :]
            self._end_value()
        else:
            self._searched = len(found[0])
            self._state = self._doubt
        return True

    def _begin_value(self) -> bool:
        """Drop what belongs to the tag; returns whether the value's own text begins."""
        padding = self._reader.padding
        if not self._held:
            return False
        self._held = self._held.removeprefix(padding)
        if self._reader.has_cdata:
            if self._held.startswith(CDATA):
                self._held = self._held[len(CDATA) :]
                self._in_cdata = True
            elif CDATA.startswith(self._held):
                return False
        self._is_blank = False
        return True

    def _cdata(self) -> bool:
        end, found = self._reader.cdata_end.find(self._held)
        self._pass(self._held[:end])
        self._held = self._held[found.end() if found else end :]
        if found:
            self._end_value()
        return found is not None

    def _doubt(self) -> bool:
        """After a closing tag within the value: text if the value's own end follows, else the call's end."""
        reader = self._reader
        found = reader.after_value.search(self._held, self._searched)
        if not found:
            self._searched = max(self._searched, len(self._held) - reader.after_value.held(self._held))
            return False
        if found[0] == reader.value_end:
            text = self._held[: found.start()]
            self._held = self._held[found.end() :]
            self._pass(text.removesuffix(reader.padding) if reader.padding else text)
        self._end_value()
        return True

    def _pass(self, text: str) -> None:
        if self._kinds != TEXT:
            self._value_text.append(text)
        elif text:
            self._emit_arguments(quoted(text)[1:-1])

    def _end_value(self) -> None:
        self._emit_arguments('"' if self._kinds == TEXT else as_json("".join(self._value_text), self._kinds))
        self._state = self._parameters

    # --- the end of the answer ------------------------------------------------------------------------

    def _end(self) -> None:
        held = self._held
        if self._state == self._text:
            self._emit_text(held.lstrip() if self._after_call else held)
        elif self._state == self._call:
            if not self._after_call:
                self._emit_malformed(self._opening + held)
            elif not (self._reader.closing.may_become(held) or self._reader.skipped.may_become(held)):
                self._emit_text(held)
        elif self._state == self._parameters:
            self._end_parameters()
        elif self._state == self._doubt:
            self._end_value()
            while self._state():
                pass
            self._end()
        else:
            self._pass(held)
            if self._kinds != TEXT:
                self._emit_arguments("".join(self._value_text))

    def _end_parameters(self) -> None:
        """Between parameters, where the ends of the call may be missing: what was read of it is whole.

        It is not where the head of one more parameter is cut off: then the JSON is.
        """
        held = self._held.strip()
        if held and self._reader.parameter.may_become(held):
            self._emit_arguments("" if self._num_parameters else "{")
        elif self._reader.closing.may_become(held):
            self._close()
        else:
            self._emit_text(self._held)
