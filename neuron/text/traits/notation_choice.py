"""Finds the notation in which a template writes calls: the one that reads them back.

What a template writes for a known call is cut out of a rendering and given to the parser of each notation. A
notation is taken when the call's name and arguments return and no text is left over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from llguidance import LLMatcher, LLTokenizer

from neuron.text.events import CallArguments, CallStart
from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.traits.call_form import CALL, Call
from neuron.text.traits.prober import ANSWER, TOOLS, USER, Prober, message
from neuron.text.wrapped import AnswerMarkers

SCHEMAS = {entry["function"]["name"]: entry["function"]["parameters"] for entry in TOOLS}
ANSWER_HEAD_CHARS = 200  # before an answer, where a template writes the markers around it
_MARKER_END = re.compile(r".*[\n>\]}]", re.DOTALL)
_MARKER_START = re.compile(r"[\n<\[]")

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
    call: Call = CALL  # that was rendered

    def notation_of(self, rendered: str) -> Notation | None:
        """The notation that reads the call; of several the one that is most like the template's."""
        answers = list(dict.fromkeys(self._answers(rendered)))
        readers = [notation for notation in self.notations if self._reads(notation, answers)]
        if len(readers) < 2:
            return next(iter(readers), None)
        return max(readers, key=lambda notation: self._likeness(notation, answers))

    def _likeness(self, notation: Notation, answers: Sequence[str]) -> tuple[bool, bool, int]:
        """How much of a notation is seen: its markers, a call as it writes one, its answers and thoughts."""
        markers = {*notation.openers, *notation.markers}
        is_marked = any(marker in answer for marker in markers for answer in answers)
        texts = {text.strip() for answer in answers for text in self._seen(answer, markers)}
        writes = any(_writes(notation, text) for text in texts)
        return is_marked, writes, self._sighting(notation.answers) + self._sighting(notation.thoughts)

    def _sighting(self, pairs: Sequence[AnswerMarkers | ReasoningMarkers]) -> int:
        """1 when one of the markers is seen before an answer or is a token, -1 when not, 0 without any."""
        opening = [markers.open for markers in pairs if markers.open]
        before = self.starts.opened[-ANSWER_HEAD_CHARS:] + self.starts.answered[-ANSWER_HEAD_CHARS:]
        seen = any(marker in self.tokens or marker in before for marker in opening)
        return (1 if seen else -1) if opening else 0

    def behind(self, rendered: str) -> str:
        """The rendering from the answer on."""
        return min((rendered[_common(start, rendered) :] for start in self.starts[:2]), key=len)

    def _answers(self, rendered: str) -> Iterable[str]:
        """What may be the answer in a rendering: the text behind each of the starts."""
        sizes = [_common(start, rendered) for start in self.starts[:2]]
        for start, size in zip(self.starts, sizes, strict=False):
            if size < len(start):  # the answer begins otherwise: cut between markers, not within one
                between = _MARKER_END.match(rendered[:size])
                yield rendered[between.end() if between else 0 :]
        yield from (rendered[size:] for size in sizes)

    def _reads(self, notation: Notation, answers: Iterable[str]) -> bool:
        seen = dict.fromkeys(text for answer in answers for text in self._seen(answer, notation.visible))
        prompted = notation.answering(self.starts.opened), notation
        return any(_is_read(_calls(way, text), self.call) for text in seen for way in prompted)

    def _seen(self, answer: str, markers: Collection[str]) -> Iterable[str]:
        """The answer as a parser with these markers gets it: without control tokens, end and thought."""
        ended = answer.rstrip().removesuffix(self.starts.end.strip())
        for text in (
            answer,
            ended,
            self._without_last_tokens(ended, markers),
            _without_end(answer, self.starts.end),
        ):
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


def _without_end(answer: str, end: str) -> str:
    """The answer without what is equal at its end and behind an earlier answer, from a marker's start on."""
    equal = answer[len(answer) - _common(answer[::-1], end[::-1]) :]
    start = _MARKER_START.search(equal)
    return answer[: len(answer) - len(equal) + start.start()] if start else answer


def _is_read(calls: list[Call] | None, call: Call) -> bool:
    """Whether that one call was read. A template that quotes numbers too is not held against a notation."""
    if calls is None or len(calls) != 1:
        return False
    (name, arguments), (wanted, values) = calls[0], call
    return name == wanted and _as_texts(arguments) == _as_texts(values)


def _as_texts(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return arguments
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in arguments.items()}


def _calls(notation: Notation, text: str) -> list[Call] | None:
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


def _writes(notation: Notation, text: str) -> bool:
    """Whether the notation's own grammar makes the call as it stands in `text`."""
    grammar = GrammarBuilder({})
    name, _ = CALL
    try:
        call = notation.enclose(grammar, grammar.rule(notation.call(grammar, name, SCHEMAS[name])))
    except UnenforceableSchemaError:
        return False
    matcher = LLMatcher(LLTokenizer("byte"), grammar.text(call), log_level=0)
    written = list(text.encode())
    return bool(matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting())


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
        # a space in an opener stands for white space that may be there
        openers = [text.replace(" ", "") for text in notation.openers]
        markers = {text for text in (*openers, *notation.markers) if len(text) > 2}
        shown = {text for text in markers if text in self.with_tools and text not in self.without}
        found = shown | {text for text in markers if text in self.tokens}
        if not shown and (needs_text or found != markers):
            return 0
        hidden = [pair.open for pair in notation.answers if pair.open not in self.with_tools]
        is_other = bool(hidden) and not any(marker in self.tokens for marker in hidden)
        return len(found) + len(shown) - len(markers - found) - is_other


def find_instructions(probe: Prober, tokens: Collection[str]) -> Instructions:
    with_tools = probe(_user, tools=TOOLS, opens_answer=True) or ""
    return Instructions(with_tools, probe(_user, opens_answer=True) or "", tokens)
