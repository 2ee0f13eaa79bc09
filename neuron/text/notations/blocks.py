"""Finds the blocks of calls in an answer; what stands in them is read by subclasses.

    text … OPENER [ call, call ] CLOSER … text

Openers and closers have several spellings; the list's brackets, a code fence around it and the closer may be
absent. Where a family's answer may *be* its calls, without an opener, a block also begins with a line of
that kind, but then only calls of the request's own tools count.

White space around blocks is dropped. A block that holds no call comes out as text, its markers included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from neuron.text.grammar import GrammarBuilder
from neuron.text.markers import any_of, beginning_of, beginnings_of
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import MAX_HEAD_CHARS, CallParser, NewId, ToolSchemas

MAX_INDENT = 64  # of a line that may be calls
_FENCE = re.compile(r"```\w*\s*(?=[^\w\s`])")
_MAY_BECOME_FENCE = re.compile("`" + beginning_of(["`", "`", r"\w*", r"\s*"]))
_SEPARATORS = re.compile(r"[\s,;]*")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, kw_only=True)
class BlockNotation(Notation):
    """Calls in blocks. In a grammar `begin` and `end` stand once around all calls, `separator` between them.

    White space in these may be left out, or be more.
    """

    closers: tuple[str, ...] = ()
    is_bare: bool = False  # whether an answer may be its calls, without an opener
    bare_starts: str = "{["
    begin: str = ""
    end: str = ""
    separator: str = ""

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.spaced(self.separator)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return f"{grammar.spaced(self.begin)} {calls} {grammar.spaced(self.end)}"

    def free_text(self, grammar: GrammarBuilder) -> str:
        return grammar.anything_without(self.openers, "".join(self.bare_openers))

    @cached_property
    def bare_openers(self) -> tuple[str, ...]:
        """The signs with which a line of calls begins; none where calls need an opener."""
        return (*self.bare_starts, "`") if self.is_bare else ()

    @cached_property
    def after_call(self) -> tuple[str, ...]:
        """The markers that are dropped behind a call: its closers, and the end of a thought it stood in."""
        return (*self.closers, *(thought.close for thought in self.thoughts))

    @cached_property
    def in_text(self) -> re.Pattern[str]:
        """An opener, the beginning of a line that may be calls, or an end of the text to be held back."""
        line = (
            rf"|(?P<line>\n[ \t]{{0,{MAX_INDENT}}}(?=[{re.escape(self.bare_starts)}`]))"
            if self.is_bare
            else ""
        )
        return re.compile(
            rf"(?P<open>{any_of(self.openers)}){line}|(?P<part>(?:{beginnings_of(self.openers)})\Z)"
        )

    @cached_property
    def in_block(self) -> re.Pattern[str]:
        """A marker where the next call may stand."""
        both = (*self.openers, *self.after_call)
        return re.compile(
            rf"(?P<close>{any_of(self.after_call)})|(?P<open>{any_of(self.openers)})"
            rf"|(?P<part>(?:{beginnings_of(both)})\Z)"
        )


class BlockParser(CallParser):
    """States: text → block → (what a subclass reads) → block … → text."""

    def __init__(self, notation: BlockNotation, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._notation = notation
        self._names = tools.keys()
        self._opening = ""  # read since the block began, or since its last call; text if no call follows
        self._num_space = 0  # characters of white space with which the held text begins
        self._is_fresh = True  # whether the answer's text has not begun
        self._is_bare = False
        self._is_open = False  # whether no closer was read yet
        self._in_list = False
        self._is_fenced = False
        self._has_call = False

    def _item(self) -> bool | None:
        """Read the call with which the held text begins, as a state does; None where there is none."""
        raise NotImplementedError

    def _end(self) -> None:
        if self._state == self._block:
            rest = self._held.lstrip(",; \t\r\n")
            if not self._has_call or not self._is_end(rest):
                self._give_up()
                self._emit_text(self._held)
        else:
            self._emit_text(self._held)

    def _is_end(self, rest: str) -> bool:
        return not rest or any(marker.startswith(rest) for marker in (*self._notation.after_call, "```"))

    def _is_call(self, name: object) -> bool:
        """Whether JSON or Python that names `name` is a call here."""
        return isinstance(name, str) and (not self._is_bare or name in self._names)

    # --- text -----------------------------------------------------------------------------------------

    def _text(self) -> bool:
        self._skip_space()
        if self._is_fresh and self._held.startswith(self._notation.bare_openers, self._num_space):
            return self._open_block(self._num_space, self._num_space)
        found = self._notation.in_text.search(self._held, self._resume())
        if found and found.lastgroup != "part":
            return self._open_block(found.start(), found.end())
        end = found.start() if found else len(self._held)
        if end > self._num_space:
            shown = self._held[:end].rstrip()
            self._show(shown)
            self._held = self._held[len(shown) :]
            self._num_space = 0
            self._skip_space()
        return False

    def _skip_space(self) -> None:
        """Count the white space with which the held text begins, looking at none of it twice."""
        space = _SPACE.match(self._held, self._num_space)
        self._num_space = space.end() if space else 0

    def _resume(self) -> int:
        """From where on the held text may hold a block: the beginning of the line, if it is not too far."""
        line = self._held.rfind("\n", max(0, self._num_space - MAX_INDENT - 1), self._num_space)
        return line if line >= 0 else self._num_space

    def _show(self, text: str) -> None:
        if text:
            self._is_fresh = False
            self._emit_text(text)

    def _open_block(self, start: int, end: int) -> bool:
        before = self._held[:start].rstrip()
        self._num_space = 0
        self._show(before)
        opener = self._held[start:end].strip()
        self._opening = self._held[len(before) : end]
        self._held = self._held[end:]
        self._is_bare = not opener
        self._has_call = self._is_fenced = False
        self._is_open = True
        self._in_list = opener.endswith("[")
        self._state = self._block
        return True

    # --- a block --------------------------------------------------------------------------------------

    def _block(self) -> bool:
        self._skip((_SEPARATORS if self._has_call and self._is_open else _SPACE).match(self._held))
        if not self._held:
            return False
        marker = self._notation.in_block.match(self._held)
        if marker and marker.lastgroup == "part":
            return False
        if marker:
            return self._marker(marker)
        if (found := self._bracket()) is not None or (found := self._fence()) is not None:
            return found
        found = self._item() if self._is_open else None
        if found is None:
            self._give_up()
            return True
        return found

    def _skip(self, found: re.Match[str] | None) -> None:
        if found and found.end():
            self._opening += found[0]
            self._held = self._held[found.end() :]

    def _marker(self, marker: re.Match[str]) -> bool:
        self._skip(marker)
        if marker.lastgroup == "open":
            self._is_open = True
            self._is_bare = False
            self._in_list = marker[0].endswith("[")
        elif self._has_call:
            self._opening = ""
            self._is_open = self._in_list = False
        else:
            self._give_up()
        return True

    def _bracket(self) -> bool | None:
        sign = self._held[0]
        if sign == "[" and self._is_open and not self._in_list:
            self._in_list = True
        elif sign == "]" and self._in_list:
            self._in_list = False
        else:
            return None
        self._opening = "" if sign == "]" and self._has_call else self._opening + sign
        self._held = self._held[1:]
        return True

    def _fence(self) -> bool | None:
        if self._held[0] != "`":
            return None
        if self._has_call and self._is_fenced:
            if len(self._held) < len("```"):
                return False if "```".startswith(self._held) else None
            if not self._held.startswith("```"):
                return None
            self._held = self._held[len("```") :]
            self._opening = ""
            self._is_open = self._in_list = self._is_fenced = False
            return True
        if self._has_call:
            return None
        if fence := _FENCE.match(self._held[:MAX_HEAD_CHARS]):
            self._is_fenced = True
            self._skip(fence)
            return True
        may_become = len(self._held) < MAX_HEAD_CHARS and _MAY_BECOME_FENCE.fullmatch(self._held)
        return False if may_become else None

    def _give_up(self) -> None:
        """No call follows: what was read since the last one is text."""
        opening, self._opening = self._opening, ""
        if self._has_call:
            self._emit_text(opening.lstrip())
        elif self._is_bare:
            self._emit_text(opening)
        else:
            self._emit_malformed(opening)
        self._is_fresh = False
        self._state = self._text

    def _start_call(self, name: str, number: int | None = None) -> None:
        super()._start_call(name, number)
        self._opening = ""
        self._has_call = True
        self._is_fresh = False
