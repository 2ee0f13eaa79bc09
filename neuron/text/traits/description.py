"""Traits in words, for the node's API and the admin."""

from __future__ import annotations

from neuron.text.traits.template_traits import EVERY_PAIR, Switch, TemplateTraits

_FORMS = {"object": "as objects", "text": "as JSON text", "repr": "as objects, printed as Python writes them"}
_IDS = {"any": "any", "alphanumeric9": "nine letters and digits", "indexed": "functions.NAME:N"}
_AFTER_TOOL = {
    "taken": "taken",
    "parted": "parted from it by an empty answer",
    "joined": "joined to it",
}


def describe(traits: TemplateTraits, of_tools: TemplateTraits | None = None) -> dict[str, str]:
    """One line for each trait, by its name. `of_tools` are those of another template for chats with tools."""
    lines = _lines(traits)
    if of_tools is not None:
        others = _lines(of_tools)
        lines |= {f"{name}, with tools": line for name, line in others.items() if line != lines[name]}
    return lines


def _lines(traits: TemplateTraits) -> dict[str, str]:
    at_once = "one in a message" if traits.max_calls == 1 else "several in a message"
    opening, closing = traits.thought or ("", "")
    key = traits.reasoning_key
    return {
        "tools": "shown" if traits.shows_tools else "not shown",
        "calls": f"{traits.notation}, {at_once}" if traits.notation else "in no known notation",
        "earlier calls": f"printed, arguments {_FORMS[traits.arguments]}"
        if traits.prints_calls
        else "dropped",
        "content of a call": "null" if traits.wants_null_content else "text",
        "call ids": _IDS[traits.ids],
        "tool results": "printed" if traits.prints_results else "told as turns of the user",
        "user behind a tool's result": _AFTER_TOOL[traits.after_tool],
        "contents": "lists of parts" if traits.wants_parts else "text",
        "system message": traits.system,
        "developer message": traits.developer if traits.developer == "printed" else "told as system message",
        "several at the head": "printed" if traits.head_pairs >= _pairs(traits) else "joined",
        "later system message": "printed" if "system" in traits.later else "told in the user's next turn",
        "turns": "must alternate" if traits.must_alternate else "in any order",
        "thoughts": f"{opening} … {closing}" if traits.thought else "without known markers",
        "earlier thoughts": f"read under {key}" if key else "dropped",
        "switches": "; ".join(map(_switch, traits.switches)) or "none",
        "probes": str(traits.num_renders),
    }


def _pairs(traits: TemplateTraits) -> frozenset[tuple[str, str]]:
    return EVERY_PAIR if traits.developer == "printed" else frozenset({("system", "system")})


def _switch(switch: Switch) -> str:
    match switch.kind:
        case "toggle":
            return f"{switch.name}: true, false"
        case "budget":
            return f"{switch.name}: a number of tokens"
        case "level":
            others = ", others as its default" if switch.is_open else ""
            return f"{switch.name}: {', '.join(switch.values)}{others}"
