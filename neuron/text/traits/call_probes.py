"""Probes of tool calls: in which form they go in, how many, and which notation reads what comes out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from neuron.text.notations.notation import Notation
from neuron.text.reasoning import ReasoningMarkers
from neuron.text.traits.call_form import CALL, FORMS, OTHER_CALL, OTHER_WORDS, SIMPLE_CALL, CallForm
from neuron.text.traits.notation_choice import Instructions, Reader, find_instructions, find_starts
from neuron.text.traits.prober import (
    RESULT,
    SECOND,
    SYSTEM,
    TOOL_NAME,
    TOOLS,
    USER,
    Prober,
    message,
)
from neuron.text.traits.template_traits import AfterTool

_PYTHON_KEY = re.compile(r"'(?:city|days)':")  # an object that was printed as it is, not as JSON

_user = message("user", USER)


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
    reader = Reader(notations, thoughts, frozenset(hidden), frozenset(known_tokens), find_starts(probe))
    shows_alone = probe.prints([TOOL_NAME], _user, tools=TOOLS)
    shows_tools = shows_alone or probe.prints([TOOL_NAME], message("system", SYSTEM), _user, tools=TOOLS)
    found = _read_back(probe, reader)
    if found.notation is None:
        simple = _read_back(probe, reader._replace(call=SIMPLE_CALL))
        found = simple if simple.notation else found
    form, notation = found.form, found.notation
    if form.ids == "any" and _refuses_short_ids(probe, form):
        form = form._replace(ids="alphanumeric9")
    prints_calls = notation is not None or probe.prints(OTHER_WORDS, *form.round(OTHER_CALL), tools=TOOLS)
    if shows_tools:
        told = find_instructions(probe, known_tokens)
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


def _read_back(probe: Prober, reader: Reader) -> _Found:
    """The first form in which a call reads back with nothing left over, and the notation that reads it.

    Objects that are printed as Python writes them are a last resort: as text they come out as JSON. Without
    a notation: the first form that the template prints, else the first that it takes.
    """
    taken: list[_Found] = []
    printed: list[_Found] = []
    as_python: list[_Found] = []
    for form in FORMS:
        call = form.round(reader.call)
        rendered = probe(*call[:2], tools=TOOLS) or _until_result(probe(*call, tools=TOOLS))
        if rendered is None:
            continue
        taken.append(_Found(form))
        answer = reader.behind(rendered)
        if TOOL_NAME not in answer:
            continue
        printed.append(_Found(form))
        if (notation := reader.notation_of(rendered)) is None:
            continue
        markers = (*notation.openers, *notation.markers)
        found = _Found(form, notation, not any(marker in answer for marker in markers))
        if not _PYTHON_KEY.search(rendered):
            return found
        as_python.append(found._replace(form=form._replace(arguments="repr")))
    return (as_python or printed or taken or [_Found(FORMS[0])])[0]


def _refuses_short_ids(probe: Prober, form: CallForm) -> bool:
    taken, refused = form.round(CALL), form.round(CALL, short_ids=True)
    return probe(*taken, tools=TOOLS) is not None and probe(*refused, tools=TOOLS) is None


def _until_result(rendered: str | None) -> str | None:
    return rendered.partition(RESULT)[0] if rendered else None


def _as_told(
    told: Instructions, notations: Iterable[Notation], found: _Found, *, prints_calls: bool
) -> Notation | None:
    """The notation of a model: the one that reads what its template writes, unless the prompt tells another.

    A template that never prints a call leaves only what it tells, or the tokens that one family alone has.
    One that prints calls without any marker may yet tell the model to write one.
    """
    if found.notation is None:
        return None if prints_calls else told.notation_of(notations)
    return (found.is_bare and told.notation_of(notations, needs_text=True)) or found.notation


def _takes_two(probe: Prober, form: CallForm, *, prints_calls: bool) -> bool:
    both = form.round(CALL, OTHER_CALL)
    words = OTHER_WORDS if prints_calls else []
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
