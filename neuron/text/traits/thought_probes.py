"""Probes of thoughts: the key under which they go in, the markers around them, and what turns them on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from neuron.text.reasoning import ReasoningMarkers
from neuron.text.traits.prober import ANSWER, SECOND, THOUGHT, TOOLS, USER, Json, Prober, message
from neuron.text.traits.template_traits import BUDGETS, EFFORTS, Switch

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
PART = "part"
MAX_SWITCHES = 8
_SWITCH = re.compile(r"think|reason|effort")
_NONSENSE = "kzeffort"
_AS_DATA = re.compile(rf"""thinking["']\s*:\s*["']{THOUGHT}""")  # the part itself was printed, not its text

_user = message("user", USER)
_answer = message("assistant", ANSWER)


# --- thoughts in messages -------------------------------------------------------------------------------


def thought_traits(
    probe: Prober,
    rounds: Sequence[Json],
    switches: Sequence[Switch],
    thoughts: Sequence[ReasoningMarkers],
    known_tokens: Collection[str],
) -> dict[str, Any]:
    """The fields of `TemplateTraits` about thoughts.

    `rounds` is a round of tools in the template's form, `thoughts` are all known markers.
    """
    on = _opened(switches)
    key, rendered = _reasoning_key(probe, rounds, on)
    markers = (
        _around(rendered, thoughts)
        or _opened_by_prompt(probe, thoughts, on)
        or _removed(probe, thoughts)
        or next((_pair(known) for known in thoughts if {*_pair(known)} <= {*known_tokens}), None)
    )
    return {"reasoning_key": key, "thought": markers}


def with_thought(answer: Json, key: str, thought: str) -> Json:
    """The assistant's message with its thought under `key`."""
    if key != PART:
        return answer | {key: thought}
    content = answer.get("content") or []
    texts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return answer | {"content": [{"type": "thinking", "thinking": thought}, *texts]}


def _reasoning_key(probe: Prober, rounds: Sequence[Json], on: Mapping[str, Any]) -> tuple[str | None, str]:
    """The key under which a thought is printed, within a round of tools or in the last answer; and how."""
    user, calling, *results = rounds
    for key in (*REASONING_KEYS, PART):
        for messages in (
            (user, with_thought(calling, key, THOUGHT), *results),
            (user, with_thought(_answer, key, THOUGHT)),
        ):
            rendered = probe(*messages, tools=TOOLS, variables=on) or ""
            if THOUGHT in rendered and not _AS_DATA.search(rendered):
                return key, rendered
    return None, ""


def _around(rendered: str, thoughts: Sequence[ReasoningMarkers]) -> tuple[str, str] | None:
    """The known markers next to the thought in the rendering."""
    before, _, after = rendered.partition(THOUGHT)
    found = [
        (before.rfind(known.open), known)
        for known in thoughts
        if before.rstrip().endswith(known.open)
        or (known.open in before and after.lstrip().startswith(known.close))
    ]
    return _pair(max(found, key=lambda item: item[0])[1]) if found else None


def _opened_by_prompt(
    probe: Prober, thoughts: Sequence[ReasoningMarkers], on: Mapping[str, Any]
) -> tuple[str, str] | None:
    """The markers of which the prompt's end opens a thought, or closes an empty one."""
    for variables in (on, dict.fromkeys(on, False)):
        prompt = probe(_user, variables=variables, opens_answer=True) or ""
        for known in thoughts:
            if known.opened_by(prompt) or known.closed_by(prompt):
                return _pair(known)
    return None


def _removed(probe: Prober, thoughts: Sequence[ReasoningMarkers]) -> tuple[str, str] | None:
    """The markers whose text the template takes out of an earlier answer."""
    for known in thoughts:
        content = f"{known.open}{THOUGHT}{known.close}{ANSWER}"
        rendered = probe(_user, message("assistant", content), message("user", SECOND)) or THOUGHT
        if ANSWER in rendered and THOUGHT not in rendered:
            return _pair(known)
    return None


def _pair(markers: ReasoningMarkers) -> tuple[str, str]:
    return markers.open, markers.close


# --- switches -------------------------------------------------------------------------------------------


def find_switches(probe: Prober) -> tuple[Switch, ...]:
    """The variables that change the prompt, and the values that they accept.

    Toggles first: some templates look at an effort only where thinking is on.
    """
    names = sorted(name for name in probe.template.variables if _SWITCH.search(name))[:MAX_SWITCHES]
    toggles = [Switch(name, "toggle") for name in names if "budget" not in name and _is_toggle(probe, name)]
    on = _opened(toggles)
    others = [name for name in names if name not in on]
    return (*toggles, *_levels(probe, others, on))


def _opened(switches: Sequence[Switch]) -> dict[str, Any]:
    """The variables that turn thinking on."""
    return {switch.name: True for switch in switches if switch.kind == "toggle"}


def _prompt(probe: Prober, **variables: Any) -> str | None:
    return probe(_user, variables=variables, opens_answer=True)


def _is_toggle(probe: Prober, name: str) -> bool:
    yes, no = _prompt(probe, **{name: True}), _prompt(probe, **{name: False})
    if yes is None or no is None or yes == no:
        return False
    return _prompt(probe, **{name: "low"}) == _prompt(probe, **{name: "high"})


def _levels(probe: Prober, names: Sequence[str], on: Mapping[str, Any]) -> Iterator[Switch]:
    for name in names:
        if "budget" in name:
            nothing, some = (_prompt(probe, **on, **{name: size}) for size in (0, BUDGETS[1]))
            if None not in {nothing, some} and nothing != some:
                yield Switch(name, "budget")
        elif level := _level(probe, name, on):
            yield level


def _level(probe: Prober, name: str, on: Mapping[str, Any]) -> Switch | None:
    other = _prompt(probe, **on, **{name: _NONSENSE})
    if other is not None and _NONSENSE in other:  # it prints whatever it is given
        return Switch(name, "level", ("low", "medium", "high"))
    prompts = {word: _prompt(probe, **on, **{name: word}) for word in EFFORTS}
    values = tuple(word for word, prompt in prompts.items() if prompt not in {None, other})
    if not values or (other is None and len({prompts[word] for word in values}) == 1):
        return None
    return Switch(name, "level", values, is_open=other is not None)
