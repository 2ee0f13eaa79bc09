"""gpt-oss's notation: every message says its channel.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
    <|constrain|>json<|message|>{…}<|call|>      and at last      <|channel|>final<|message|>…<|return|>

Analysis is reasoning, a message to a function is a call, everything else is content. Output without channels
is content as it stands.
"""

from __future__ import annotations

import re

from neuron.text.events import ReasoningContent
from neuron.text.grammar import GrammarBuilder
from neuron.text.markers import held_suffix
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import MAX_HEAD_CHARS, CallParser, NewId, ToolSchemas
from neuron.text.schema import Schema

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
CONSTRAIN = "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)
OPENERS = (f"{CHANNEL}commentary to=",)
_RECIPIENT = re.compile(r"\bto=(functions\.)?([\w.-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_OPENINGS = (START, CHANNEL, "to=")


class HarmonyNotation(Notation):
    splits_reasoning = True

    def parser(self, new_id: NewId, tools: ToolSchemas) -> HarmonyParser:
        return HarmonyParser(new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        head = f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}"
        return f"{grammar.literal(head)} {grammar.json(schema)}"

    def thought(self, grammar: GrammarBuilder) -> str:
        analysis = grammar.literal(f"{CHANNEL}analysis{MESSAGE}")
        return f"({analysis} {grammar.anything_until('<|end|>')} {grammar.literal(f'{START}assistant')})?"

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        return f"{grammar.literal(f'{CHANNEL}final{MESSAGE}')} {body}"

    def between(self, grammar: GrammarBuilder) -> str:
        return grammar.literal(f"<|call|>{START}assistant")


class HarmonyParser(CallParser):
    """States: text (a message's head) → body → text …, or plain for good."""

    def __init__(self, new_id: NewId, tools: ToolSchemas) -> None:
        super().__init__(new_id)
        self._names = tools.keys()
        self._emit = self._emit_text
        self._is_call = False
        self._has_arguments = False

    def _end(self) -> None:
        if self._state == self._text:
            self._emit_text("" if self._held.strip() in {"", START, START + "assistant"} else self._held)
            return
        self._emit(self._held)
        if self._is_call:
            self._close()

    def _text(self) -> bool:
        start = self._held[:MAX_HEAD_CHARS]
        head, marker, _ = start.partition(MESSAGE)
        if not _is_head(start) or (not marker and len(start) == MAX_HEAD_CHARS):
            self._route("", "final")
            self._state = self._body
            return True
        if not marker:
            return False
        recipient = _RECIPIENT.search(head)
        channel = _CHANNEL.search(head)
        function = ""
        if recipient and (recipient[1] or recipient[2] in self._names):
            function = recipient[2]
        self._route(function, channel[1] if channel else "final")
        self._held = self._held[len(head) + len(MESSAGE) :]
        self._state = self._body
        return True

    def _route(self, function: str, channel: str) -> None:
        self.is_reasoning = channel == "analysis" and not function
        self._is_call = bool(function)
        self._has_arguments = False
        if function:
            self._start_call(function)
            self._emit = self._emit_arguments
        else:
            self._emit = self._emit_reasoning if self.is_reasoning else self._emit_text

    def _body(self) -> bool:
        places = [(at, end) for end in ENDS if (at := self._held.find(end)) >= 0]
        if not places:
            shown = len(self._held) - held_suffix(self._held, ENDS)
            self._pass(self._held[:shown])
            self._held = self._held[shown:]
            return False
        at, end = min(places)
        self._pass(self._held[:at])
        if self._is_call:
            self._close()
        self._held = self._held[at + len(end) :]
        self._state = self._text
        self.is_reasoning = False
        return True

    def _pass(self, text: str) -> None:
        self._has_arguments = self._has_arguments or bool(text.strip())
        self._emit(text)

    def _close(self) -> None:
        if not self._has_arguments and not self._held.strip():
            self._emit_arguments("{}")
        self._is_call = False
        self._end_call()

    def _emit_reasoning(self, text: str) -> None:
        if text:
            self._events.append(ReasoningContent(text))


def _is_head(text: str) -> bool:
    """Whether `text` may be the beginning of a message."""
    start = text.lstrip()
    return any(start.startswith(opening) or opening.startswith(start) for opening in _OPENINGS)
