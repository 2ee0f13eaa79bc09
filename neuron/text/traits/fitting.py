"""Makes the messages of a chat fit for a template.

First each message gets the form that the template reads: parts, objects or text as arguments, the key of
thoughts. Then come the steps of `STEPS`, each of which changes something only where the template would refuse
a message or leave it out, and is named in the answer's header when it did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from neuron.text.traits.call_ids import in_shape
from neuron.text.traits.prober import with_parts
from neuron.text.traits.template_traits import SYSTEM_ROLES, TURNS, TemplateTraits
from neuron.text.traits.thought_probes import REASONING_KEYS, with_thought

Json = dict[str, Any]
Step = Callable[[list[Json], TemplateTraits], list[Json]]

GAP = "\n\n"  # between texts that are joined
TEXT_KEY = "arguments"  # holds arguments that are no object, where a template wants one


class Fitted(NamedTuple):
    """Messages as the template takes them, and the names of the steps that changed something."""

    messages: list[Json]
    changes: tuple[str, ...]


def fit(messages: Sequence[Json], traits: TemplateTraits, *, has_tools: bool = False) -> Fitted:
    """The messages as a template with these traits takes them.

    Arguments that are no JSON object stay the text they are; `with_object_arguments` makes objects of them.
    """
    fitted = [_in_form(message, traits) for message in messages]
    changes: list[str] = []
    for name, step in STEPS.items():
        before = fitted
        fitted = step(fitted, traits)
        if fitted != before:
            changes.append(name)
    if has_tools and traits.tools_need_system and not _is_system(fitted[0]):
        fitted = [_message("system", "", traits), *fitted]
        changes.append("system-added")
    return Fitted(fitted, tuple(changes))


def with_object_arguments(messages: Sequence[Json]) -> tuple[list[Json], str | None]:
    """The messages with an object for arguments that are none, as a call cut short leaves them.

    Text goes under one key, `TEXT_KEY`. Second comes the path of the first arguments that were none.
    """
    found: list[Json] = []
    place: str | None = None
    for i, message in enumerate(messages):
        calls = list(message.get("tool_calls") or ())
        for j, call in enumerate(calls):
            function = call["function"]
            if isinstance(_object(function.get("arguments") or {}), dict):
                continue
            calls[j] = call | {"function": function | {"arguments": _holding(function["arguments"])}}
            place = place or f"messages[{i}].tool_calls[{j}].function.arguments"
        found.append(message | {"tool_calls": calls} if calls else message)
    return found, place


# --- the form of one message ----------------------------------------------------------------------------


def _in_form(message: Json, traits: TemplateTraits) -> Json:
    if traits.wants_parts:
        message = with_parts(message)
    if message.get("role") != "assistant":
        return message
    if calls := message.get("tool_calls"):
        message = message | {"tool_calls": [_with_arguments(call, traits) for call in calls]}
        if traits.wants_null_content and not message.get("content"):
            message = message | {"content": None}
    return _with_thought(message, traits)


def _with_arguments(call: Json, traits: TemplateTraits) -> Json:
    """The call with its arguments as the template wants them; text that is no JSON object stays text."""
    function = call["function"]
    arguments = function.get("arguments") or {}
    if traits.arguments == "text":
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    else:
        arguments = _object(arguments)
    return call | {"function": function | {"arguments": arguments}}


def _object(arguments: str | Json) -> str | Json:
    """The object that the text spells; the text where it spells none."""
    value = arguments if isinstance(arguments, dict) else _read(arguments)
    return value if isinstance(value, dict) else arguments


def _holding(text: str) -> Json:
    """An object that says what the text says; an empty one where that is nothing."""
    return {TEXT_KEY: text} if text.strip() and _read(text) not in (None, [], "") else {}


def _read(text: str) -> Any:
    """The JSON value; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _with_thought(message: Json, traits: TemplateTraits) -> Json:
    """The thought under the key that the template reads; as it came, where it reads none."""
    given = [key for key in REASONING_KEYS if message.get(key)]
    if not given or traits.reasoning_key in {None, given[0]}:
        return message
    assert traits.reasoning_key
    rest = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    return with_thought(rest, traits.reasoning_key, message[given[0]])


# --- the steps ------------------------------------------------------------------------------------------


def _map_ids(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    return in_shape(messages, traits.ids)


def _split_calls(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """Each call of an answer becomes an answer of its own, with its result behind it."""
    if traits.max_calls is None:
        return messages
    found: list[Json] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            found.append(message)
            continue
        results = list(takewhile(lambda later: later["role"] == "tool", rest))
        del rest[: len(results)]
        for index, call in enumerate(calls):
            first = message if index == 0 else {"role": "assistant", "content": _empty_content(message)}
            found.append(first | {"tool_calls": [call]})
            own = [result for result in results if result.get("tool_call_id") == call.get("id")]
            found += own[:1] or results[:1]
            results = [result for result in results if result is not found[-1]]
        found += results
    return found


def _name_developer(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """A developer message that the template does not print becomes one of the system."""
    if traits.developer == "printed":
        return messages
    return [
        message | {"role": "system"} if message["role"] == "developer" else message for message in messages
    ]


def _join_head(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """The system-class messages at the head become one."""
    head = list(takewhile(_is_system, messages))
    roles = [message["role"] for message in head]
    if all(pair in traits.head_pairs for pair in pairwise(roles)):
        return messages
    return [reduce(_joined, head), *messages[len(head) :]]


def _move_system(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """A system-class message where the template prints none goes into the next turn of the user.

    Without a next one it is a turn of the user itself.
    """
    size = len(list(takewhile(_is_system, messages)))
    found: list[Json] = []
    waiting: list[Json] = []
    for index, message in enumerate(messages):
        if _is_system(message) and not _prints_system(message, traits, is_head=index < size):
            waiting.append(message | {"role": "user"})
        elif waiting and message["role"] == "user":
            found.append(reduce(_joined, [*waiting, message]))
            waiting = []
        elif waiting and message["role"] == "assistant":  # it came before this answer
            found += [*waiting, message]
            waiting = []
        else:
            found.append(message)
    return found + waiting


def _prints_system(message: Json, traits: TemplateTraits, *, is_head: bool) -> bool:
    role = message["role"]
    if not is_head:
        return role in traits.later
    return (traits.developer if role == "developer" else traits.system) == "printed"


def _show_results(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """Results that the template does not print become turns of the user."""
    if traits.prints_results:
        return messages
    return [message | {"role": "user"} if message["role"] == "tool" else message for message in messages]


def _join_turns(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """Neighbours of one role become one turn."""
    found: list[Json] = []
    for message in messages:
        role = message["role"]
        is_joined = (
            bool(found)
            and role in TURNS - traits.doubled
            and found[-1]["role"] == role
            and not found[-1].get("tool_calls")
        )
        if is_joined:
            found[-1] = _joined(found[-1], message)
        else:
            found.append(message)
    return found


def _part_user_from_tool(messages: list[Json], traits: TemplateTraits) -> list[Json]:
    """A user's turn right behind a result is parted from it by an empty answer, or joined to it."""
    if traits.after_tool == "taken":
        return messages
    found: list[Json] = []
    for message in messages:
        if found and message["role"] == "user" and found[-1]["role"] == "tool":
            if traits.after_tool == "joined":
                found[-1] = _joined(found[-1], message | {"role": "tool"})
                continue
            found.append(_message("assistant", "", traits))
        found.append(message)
    return found


STEPS: dict[str, Step] = {
    "calls-split": _split_calls,
    "ids-mapped": _map_ids,
    "developer-as-system": _name_developer,
    "system-joined": _join_head,
    "system-moved": _move_system,
    "results-as-user": _show_results,
    "turns-joined": _join_turns,
    "turns-parted": _part_user_from_tool,
}


def _is_system(message: Json) -> bool:
    return message["role"] in SYSTEM_ROLES


def _message(role: str, content: str, traits: TemplateTraits) -> Json:
    message = {"role": role, "content": content}
    return with_parts(message) if traits.wants_parts else message


def _empty_content(message: Json) -> Any:
    return None if message.get("content") is None else [] if isinstance(message["content"], list) else ""


def _joined(first: Json, second: Json) -> Json:
    """One message with both contents; the keys of both, the first's where both have one."""
    return {**second, **first, "content": _joined_content(first.get("content"), second.get("content"))}


def _joined_content(first: Any, second: Any) -> Any:
    if not first or not second:
        return first or second
    if isinstance(first, str) and isinstance(second, str):
        return first + GAP + second
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
