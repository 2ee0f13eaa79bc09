"""Finds the notation in which a template writes calls: the one that reads them back.

What a template writes for a known call is cut out of a rendering and given to the parser of each notation. A
notation is taken when the call's name and arguments return and no text is left over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from neuron.text.events import CallArguments, CallStart
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.traits.call_form import CALL
from neuron.text.traits.prober import ANSWER, TOOLS, USER, Prober, message

SCHEMAS = {entry["function"]["name"]: entry["function"]["parameters"] for entry in TOOLS}
ANSWER_HEAD_CHARS = 200  # before an answer, where a template writes the markers around it
_BOUNDARY = re.compile(r".*[\n>\]|}｜]", re.DOTALL)  # where a marker may end

_user = message("user", USER)


class Starts(NamedTuple):
    """What precedes an answer: as the prompt ends, and as an earlier answer begins and ends."""

    opened: str
    answered: str
    end: str


def find_starts(probe: Prober) -> Starts:
    opened = probe(_user, tools=TOOLS, opens_answer=True) or ""
    whole = probe(_user, message("assistant", ANSWER), tools=TOOLS) or ""
    answered, _, end = whole.partition(ANSWER)
    return Starts(opened, answered, end)


class Reader(NamedTuple):
    """Finds the notation in which a rendering has its call."""

    notations: Sequence[Notation]
    thoughts: Sequence[ReasoningMarkers]
    hidden: frozenset[str]  # tokens that leave no text
    tokens: frozenset[str]  # all that are added to the vocabulary
    starts: Starts

    def notation_of(self, rendered: str) -> Notation | None:
        answers = list(dict.fromkeys(self._answers(rendered)))
        readers = [notation for notation in self.notations if self._reads(notation, answers)]
        return max(readers, key=self._likeness, default=None)

    def _likeness(self, notation: Notation) -> int:
        """1 when the markers of the notation's visible answer are seen, -1 when not, 0 when it has none."""
        if not notation.answers:
            return 0
        seen = any(
            pair.open in self.tokens or pair.open in self.starts.answered[-ANSWER_HEAD_CHARS:]
            for pair in notation.answers
            if pair.open
        )
        return 1 if seen else -1

    def behind(self, rendered: str) -> str:
        """The rendering from the answer on."""
        return min((rendered[_common(start, rendered) :] for start in self.starts[:2]), key=len)

    def _answers(self, rendered: str) -> Iterable[str]:
        """What may be the answer in a rendering: the text behind each of the starts."""
        for start in self.starts[:2]:
            size = _common(start, rendered)
            if size < len(start):  # the answer begins otherwise: cut between markers, not within one
                boundary = _BOUNDARY.match(rendered[:size])
                size = boundary.end() if boundary else 0
            yield rendered[size:]

    def _reads(self, notation: Notation, answers: Iterable[str]) -> bool:
        seen = dict.fromkeys(text for answer in answers for text in self._seen(answer, {*notation.markers}))
        return any(_calls(notation, text) == [CALL] for text in seen)

    def _seen(self, answer: str, markers: Collection[str]) -> Iterable[str]:
        """The answer as a parser with these markers gets it: without control tokens, end and thought."""
        ended = answer.rstrip().removesuffix(self.starts.end.strip())
        for text in (answer, ended, self._without_last_tokens(ended, markers)):
            visible = text
            for token in self.hidden - {*markers}:
                visible = visible.replace(token, "")
            yield visible
            yield self._without_thought(visible)

    def _without_last_tokens(self, text: str, markers: Collection[str]) -> str:
        """The text without tokens at its end that open the tool's turn already."""
        while last := next((token for token in self.tokens if text.rstrip().endswith(token)), None):
            if last in markers:
                break
            text = text.rstrip().removesuffix(last)
        return text

    def _without_thought(self, text: str) -> str:
        start = text.lstrip()
        for known in self.thoughts:
            if start.startswith((known.open, known.close)) and known.close in start:
                return start.partition(known.close)[2].lstrip()
        return text


def _common(first: str, second: str) -> int:
    """The length of the common beginning."""
    size = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return min(len(first), len(second)) if size is None else size


def _calls(notation: Notation, text: str) -> list[tuple[str, Any]] | None:
    """The calls that the notation reads; None when text is left over, or arguments are not JSON."""
    parser = notation.parser(notation.call_id, SCHEMAS)
    calls: list[tuple[str, list[str]]] = []
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, CallStart):
            calls.append((event.name, []))
        elif isinstance(event, CallArguments):
            calls[-1][1].append(event.text)
        elif event.text.strip():
            return None
    try:
        return [(name, json.loads("".join(parts))) for name, parts in calls]
    except ValueError:
        return None


class Instructions(NamedTuple):
    """What a prompt tells the model about calls: the text with tools, without them, and the known tokens."""

    with_tools: str
    without: str
    tokens: Collection[str]

    def notation_of(self, notations: Iterable[Notation], *, needs_text: bool = False) -> Notation | None:
        """The notation that the instructions show, else, unless it `needs_text`, the one of the tokens."""
        scored = [(self._score(notation, needs_text=needs_text), notation) for notation in notations]
        best = max(scored, key=lambda item: item[0], default=None)
        return best[1] if best is not None and best[0] > 0 else None

    def _score(self, notation: Notation, *, needs_text: bool) -> int:
        markers = {text for text in (*notation.openers, *notation.markers) if len(text) > 2}
        shown = {text for text in markers if text in self.with_tools and text not in self.without}
        found = shown | {text for text in markers if text in self.tokens}
        if not shown and (needs_text or found != markers):
            return 0
        return len(found) + len(shown) - len(markers - found)


def find_instructions(probe: Prober, tokens: Collection[str]) -> Instructions:
    with_tools = probe(_user, tools=TOOLS, opens_answer=True) or ""
    return Instructions(with_tools, probe(_user, opens_answer=True) or "", tokens)
