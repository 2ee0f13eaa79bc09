"""Probes of tool calls: in which form they go in, and which notation reads what comes out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from neuron.text.events import CallArguments, CallStart
from neuron.text.notations.notation import Notation
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.traits.call_ids import example_id
from neuron.text.traits.prober import (
    ANSWER,
    OTHER_TOOL,
    RESULT,
    SECOND,
    SYSTEM,
    TOOL_NAME,
    TOOLS,
    USER,
    Json,
    Prober,
    message,
)
from neuron.text.traits.template_traits import AfterTool, ArgumentForm, IdShape

ARGUMENTS = {"city": 'Zürich "A"', "days": 3}
OTHER_ARGUMENTS = {"city": "Oslo", "days": 4}
SCHEMAS = {entry["function"]["name"]: entry["function"]["parameters"] for entry in TOOLS}
_WORDS = ("Oslo", "4")
_BOUNDARY = re.compile(r".*[\n>\]|}｜]", re.DOTALL)  # where a marker may end

_user = message("user", USER)


class _JsonText(dict[str, Any]):
    """An object that prints itself as JSON, for templates that print objects as they are."""

    def __repr__(self) -> str:
        return json.dumps(self, ensure_ascii=False)


class CallForm(NamedTuple):
    """How calls go into a template."""

    arguments: ArgumentForm = "object"
    has_null_content: bool = False
    ids: IdShape = "any"

    def round(self, *calls: tuple[str, Mapping[str, Any]], short_ids: bool = False) -> list[Json]:
        """A user's message, an answer that calls, and the results."""
        ids = [example_id(self.ids, index, name) for index, (name, _) in enumerate(calls)]
        ids = [id_[-1:] for id_ in ids] if short_ids else ids
        written = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": self._written(arguments)}}
            for id_, (name, arguments) in zip(ids, calls, strict=True)
        ]
        content = None if self.has_null_content else ""
        calling = {"role": "assistant", "content": content, "tool_calls": written}
        results = [
            message("tool", RESULT, tool_call_id=id_, name=name)
            for id_, (name, _) in zip(ids, calls, strict=True)
        ]
        return [_user, calling, *results]

    def _written(self, arguments: Mapping[str, Any]) -> Any:
        if self.arguments == "text":
            return json.dumps(arguments, ensure_ascii=False)
        return _JsonText(arguments) if self.arguments == "repr" else dict(arguments)


CALL = (TOOL_NAME, ARGUMENTS)
OTHER_CALL = (OTHER_TOOL, OTHER_ARGUMENTS)
FORMS = [
    CallForm(arguments, has_null_content, ids)
    for arguments in ("object", "text", "repr")
    for has_null_content in (False, True)
    for ids in ("any", "alphanumeric9", "indexed")
]


def call_traits(
    probe: Prober,
    notations: Sequence[Notation],
    thoughts: Sequence[ReasoningMarkers],
    hidden: Collection[str],
    known_tokens: Collection[str],
) -> tuple[dict[str, Any], CallForm]:
    """The fields of `TemplateTraits` about calls, and the form in which calls go in.

    `hidden` are the special tokens of the tokenizer, `known_tokens` all added ones, `thoughts` the markers of
    all thoughts.
    """
    reader = _Reader(notations, thoughts, frozenset(hidden), _starts(probe))
    shows_alone = probe.prints([TOOL_NAME], _user, tools=TOOLS)
    shows_tools = shows_alone or probe.prints([TOOL_NAME], message("system", SYSTEM), _user, tools=TOOLS)
    found = _read_back(probe, reader)
    form, notation = found.form, found.notation
    if form.ids == "any" and _refuses_short_ids(probe, form):
        form = form._replace(ids="alphanumeric9")
    prints_calls = notation is not None or probe.prints(
        [OTHER_TOOL, *_WORDS], *form.round(OTHER_CALL), tools=TOOLS
    )
    if shows_tools:
        told = _instructions(probe, known_tokens)
        notation = _as_told(told, notations, found, prints_calls=prints_calls)
    traits = {
        "shows_tools": shows_tools,
        "notation": notation.name if notation and shows_tools else None,
        "prints_calls": prints_calls,
        "max_calls": None if _takes_two(probe, form, prints_calls=prints_calls) else 1,
        "arguments": form.arguments,
        "wants_null_content": form.has_null_content,
        "ids": form.ids,
        "prints_results": probe.prints([RESULT], *form.round(CALL), tools=TOOLS),
        "after_tool": _after_tool(probe, form),
        "tools_need_system": shows_tools and not shows_alone,
    }
    return traits, form


class _Found(NamedTuple):
    """The form of calls, and the notation that reads them; `is_bare` when no marker is around them."""

    form: CallForm
    notation: Notation | None = None
    is_bare: bool = False


def _read_back(probe: Prober, reader: _Reader) -> _Found:
    """The first form in which a call reads back with nothing left over, and the notation that reads it.

    Without one: the first form that the template prints, else the first that it takes.
    """
    taken: list[CallForm] = []
    printed: list[CallForm] = []
    for form in FORMS:
        call = form.round(CALL)
        rendered = probe(*call[:2], tools=TOOLS)
        if rendered is None:
            rendered = _until_result(probe(*call, tools=TOOLS))
        if rendered is None:
            continue
        taken.append(form)
        if TOOL_NAME not in reader.behind(rendered):
            continue
        printed.append(form)
        if notation := reader.notation_of(rendered):
            answer = reader.behind(rendered)
            markers = (*notation.openers, *notation.markers)
            return _Found(form, notation, not any(marker in answer for marker in markers))
    return _Found((printed or taken or FORMS)[0])


def _refuses_short_ids(probe: Prober, form: CallForm) -> bool:
    taken, refused = form.round(CALL), form.round(CALL, short_ids=True)
    return probe(*taken, tools=TOOLS) is not None and probe(*refused, tools=TOOLS) is None


def _until_result(rendered: str | None) -> str | None:
    return rendered.partition(RESULT)[0] if rendered else None


class _Starts(NamedTuple):
    """What precedes an answer: as the prompt ends, and as an earlier answer begins and ends."""

    opened: str
    answered: str
    end: str


def _starts(probe: Prober) -> _Starts:
    opened = probe(_user, tools=TOOLS, opens_answer=True) or ""
    whole = probe(_user, message("assistant", ANSWER), tools=TOOLS) or ""
    answered, _, end = whole.partition(ANSWER)
    return _Starts(opened, answered, end)


class _Reader(NamedTuple):
    """Finds the notation in which a rendering has its call."""

    notations: Sequence[Notation]
    thoughts: Sequence[ReasoningMarkers]
    hidden: frozenset[str]
    starts: _Starts

    def notation_of(self, rendered: str) -> Notation | None:
        answers = list(dict.fromkeys(self._answers(rendered)))
        return next((notation for notation in self.notations if self._reads(notation, answers)), None)

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
        hidden = self.hidden - {*notation.markers}
        return any(
            _calls(notation, text) == [CALL] for answer in answers for text in self._seen(answer, hidden)
        )

    def _seen(self, answer: str, hidden: Collection[str]) -> Iterable[str]:
        """The answer as the parser would get it: without its end, control tokens and thought."""
        end = self.starts.end.strip()
        for text in dict.fromkeys([answer, answer.rstrip().removesuffix(end)]):
            visible = text
            for token in hidden:
                visible = visible.replace(token, "")
            yield from dict.fromkeys([visible, self._without_thought(visible)])

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


def _as_told(
    told: _Instructions, notations: Iterable[Notation], found: _Found, *, prints_calls: bool
) -> Notation | None:
    """The notation of a model: the one that reads what its template writes, unless the prompt tells another.

    A template that never prints a call leaves only what it tells, or the tokens that one family alone has.
    One that prints calls without any marker may yet tell the model to write one.
    """
    if found.notation is None:
        return None if prints_calls else told.notation_of(notations)
    return (found.is_bare and told.notation_of(notations, needs_text=True)) or found.notation


class _Instructions(NamedTuple):
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


def _instructions(probe: Prober, tokens: Collection[str]) -> _Instructions:
    with_tools = probe(_user, tools=TOOLS, opens_answer=True) or ""
    return _Instructions(with_tools, probe(_user, opens_answer=True) or "", tokens)


def _takes_two(probe: Prober, form: CallForm, *, prints_calls: bool) -> bool:
    both = form.round(CALL, OTHER_CALL)
    words = [OTHER_TOOL, *_WORDS] if prints_calls else []
    return probe.prints(words, *both, tools=TOOLS) or probe.prints(words, *both[:2], tools=TOOLS)


def _after_tool(probe: Prober, form: CallForm) -> AfterTool:
    call = form.round(CALL)
    if not probe.prints([RESULT], *call, tools=TOOLS):
        return "taken"  # not even the result: nothing to be learnt
    turn = message("user", SECOND)
    if probe.prints([RESULT, SECOND], *call, turn, tools=TOOLS):
        return "taken"
    parted = probe.prints([RESULT, SECOND], *call, message("assistant", ""), turn, tools=TOOLS)
    return "parted" if parted else "joined"
