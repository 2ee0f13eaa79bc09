"""Probes of messages: contents, roles and their order, thoughts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from neuron.text.traits.prober import (
    ANSWER,
    SECOND,
    SYSTEM,
    USER,
    Prober,
    message,
)
from neuron.text.traits.template_traits import SYSTEM_ROLES, Reception

LATER = "kzlater"

_user = message("user", USER)
_answer = message("assistant", ANSWER)
_next = message("user", SECOND)


def find_base(probe: Prober) -> None:
    """Set the form in which the template prints a user's message at all."""
    for probe.no_tools in (None, []):
        for probe.wants_parts in (False, True):
            if probe.prints([USER], _user):
                return
    probe.no_tools, probe.wants_parts = None, False


def message_traits(probe: Prober) -> dict[str, Any]:
    """The fields of `TemplateTraits` about messages."""
    return {
        "wants_parts": probe.wants_parts,
        "wants_tool_list": probe.no_tools is not None,
        "system": _reception(probe, "system"),
        "developer": _reception(probe, "developer"),
        "head_pairs": frozenset(_head_pairs(probe)),
        "later": frozenset(_later(probe)),
        "doubled": frozenset(_doubled(probe)),
    }


def _reception(probe: Prober, role: str) -> Reception:
    rendered = probe(message(role, SYSTEM), _user)
    if rendered is None:
        return "refused"
    return "printed" if SYSTEM in rendered and USER in rendered else "dropped"


def _head_pairs(probe: Prober) -> Iterable[tuple[str, str]]:
    for first in SYSTEM_ROLES:
        for second in SYSTEM_ROLES:
            head = message(first, SYSTEM), message(second, SECOND)
            if probe.prints([SYSTEM, SECOND, USER], *head, _user):
                yield first, second


def _later(probe: Prober) -> Iterable[str]:
    head = message("system", SYSTEM)
    begun = [head, _user, _answer] if probe.prints([SYSTEM], head, _user) else [_user, _answer]
    words = [entry["content"] for entry in begun]
    for role in SYSTEM_ROLES:
        if probe.prints([*words, LATER, SECOND], *begun, message(role, LATER), _next):
            yield role


def _doubled(probe: Prober) -> Iterable[str]:
    if probe.prints([USER, SECOND], _user, _next):
        yield "user"
    if probe.prints([ANSWER, LATER, SECOND], _user, _answer, message("assistant", LATER), _next):
        yield "assistant"
