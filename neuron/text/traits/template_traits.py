"""What probing found out about a chat template: values, and no rendering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reception = Literal["printed", "refused", "dropped"]  # of a message that a template meets
ArgumentForm = Literal["object", "text", "repr"]  # repr: an object, printed as Python writes it
IdShape = Literal["any", "alphanumeric9", "indexed"]  # indexed: functions.NAME:N
AfterTool = Literal["taken", "parted", "joined"]  # a user's turn right behind a tool's result
SwitchKind = Literal["toggle", "level", "budget"]

SYSTEM_ROLES = frozenset({"system", "developer"})
EVERY_PAIR = frozenset((first, second) for first in SYSTEM_ROLES for second in SYSTEM_ROLES)
TURNS = frozenset({"user", "assistant"})

# How much thought each word asks for. Requests name the efforts of OpenAI's API and its followers; templates
# have words of their own.
EFFORTS = {
    "none": 0,
    "no_think": 0,
    "disabled": 0,
    "off": 0,
    "minimal": 1,
    "low": 2,
    "medium": 3,
    "adaptive": 3,
    "auto": 3,
    "high": 4,
    "enabled": 4,
    "on": 4,
    "xhigh": 5,
    "max": 6,
}
BUDGETS = {0: 0, 1: 512, 2: 1024, 3: 4096, 4: 8192, 5: 16384, 6: -1}  # tokens by effort; -1: no limit
MODES = frozenset({"disabled", "off", "adaptive", "auto", "enabled", "on"})  # words that no request says
REQUESTED = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # by clients
MEDIUM = EFFORTS["medium"]


class UnknownEffortError(Exception):
    """No word for an effort, neither of requests nor of the template; `known` are the words there are."""

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__(", ".join(known))
        self.known = known


@dataclass(frozen=True, slots=True)
class Switch:
    """A variable of the template that changes how much the model is told to think.

    A toggle is true or false. A level has `values`, those words that change the prompt each in its way, and
    `is_open` when any other word is taken too, as the template's default. A budget is a number of tokens.
    """

    name: str
    kind: SwitchKind
    values: tuple[str, ...] = ()
    is_open: bool = False

    @property
    def takes_any_word(self) -> bool:
        return self.is_open and MODES.isdisjoint(self.values)

    def setting(self, effort: str) -> bool | int | str:
        """The accepted value nearest to an effort that a client asks for; of two equally near the higher."""
        wanted = EFFORTS.get(effort, MEDIUM)
        if self.kind == "toggle":
            return wanted > EFFORTS["minimal"]
        if self.kind == "budget":
            return BUDGETS[wanted]
        if effort in self.values:
            return effort
        known = [EFFORTS[value] for value in self.values]
        is_beyond = wanted >= max(known) >= EFFORTS["high"] or wanted <= min(known) <= EFFORTS["low"]
        if self.takes_any_word and not is_beyond:
            return effort
        return min(self.values, key=lambda value: (abs(EFFORTS[value] - wanted), -EFFORTS[value]))


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What one chat template does with messages, calls, thoughts and variables."""

    # messages
    wants_parts: bool = False  # contents only as lists of parts
    system: Reception = "printed"
    developer: Reception = "printed"
    head_pairs: frozenset[tuple[str, str]] = EVERY_PAIR  # of roles, one behind the other at the head
    later: frozenset[str] = SYSTEM_ROLES  # those of the system's roles that are printed behind the head
    doubled: frozenset[str] = TURNS  # roles of which two may follow each other
    # calls
    shows_tools: bool = False
    notation: str | None = None  # the name of the one that reads back what the template writes
    prints_calls: bool = False
    max_calls: int | None = None  # in a message
    arguments: ArgumentForm = "object"
    wants_null_content: bool = False  # of a message with calls
    ids: IdShape = "any"
    after_tool: AfterTool = "taken"
    prints_results: bool = True
    wants_tool_list: bool = False  # an empty one where there are no tools
    tools_need_system: bool = False  # tools are shown beside a system message only
    # thoughts
    reasoning_key: str | None = None  # "part": a content part of type thinking
    thought: tuple[str, str] | None = None  # the markers around a thought
    switches: tuple[Switch, ...] = ()
    variables: frozenset[str] = frozenset()  # that it reads
    # of the probing itself
    num_renders: int = 0

    @property
    def must_alternate(self) -> bool:
        return self.doubled != TURNS

    @property
    def efforts(self) -> tuple[str, ...]:
        """The words for an effort: those of requests, and the template's own."""
        of_template = [value for switch in self.switches for value in switch.values]
        return tuple(dict.fromkeys([*REQUESTED, *of_template]))

    def _takes_word(self, word: str) -> bool:
        is_open = any(switch.takes_any_word for switch in self.switches)
        return word in self.efforts or bool(is_open and word.strip())

    def settings(self, effort: str) -> dict[str, bool | int | str]:
        """The variables that ask for an effort; empty when the template has no switch.

        Raises `UnknownEffortError` for a word that is none, unless the template takes any.
        """
        if self.switches and effort not in EFFORTS and not self._takes_word(effort):
            raise UnknownEffortError(self.efforts)
        has_levels = any(switch.kind != "toggle" for switch in self.switches)
        is_off = effort == "none"
        found: dict[str, bool | int | str] = {}
        for switch in self.switches:
            if switch.kind == "toggle":
                found[switch.name] = not is_off if has_levels else bool(switch.setting(effort))
            else:
                found[switch.name] = switch.setting(effort)
        return found
