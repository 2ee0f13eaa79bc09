"""Notations whose answers are sections: Kimi K3's, and Muse's, which names each message's recipient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from neuron.text.grammar import GrammarBuilder
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import NewId, ToolSchemas
from neuron.text.notations.section_parser import AnswerSection, SectionParser, layout_of
from neuron.text.notations.tags import TagNotation, spelled
from neuron.text.schema import Schema


@dataclass(frozen=True, kw_only=True)
class SectionNotation(TagNotation):
    """`sections` are thought, answer and calls, in this order."""

    sections: tuple[AnswerSection, AnswerSection, AnswerSection]
    dropped: tuple[str, ...] = ()
    opened: AnswerSection | None = None  # by the prompt
    splits_reasoning: ClassVar[bool] = True

    def answering(self, prompt: str) -> Notation:
        end = prompt.rstrip()
        opened = next((known for known in self.sections if known.is_plain and end.endswith(known.head)), None)
        return replace(self, opened=opened)

    def parser(self, new_id: NewId, tools: ToolSchemas) -> SectionParser:
        layout = layout_of(self.sections, self.dropped)
        return SectionParser(self.spelling, layout, self.opened, new_id, tools)

    def thought(self, grammar: GrammarBuilder) -> str:
        thought, answer, _ = self.sections
        if self.opened == answer:
            return ""
        rest = grammar.anything_until(thought.ends[0])
        return rest if self.opened == thought else f"({spelled(grammar, thought.head)} {rest})?"

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        answer = self.sections[1]
        head = "" if self.opened == answer else spelled(grammar, answer.head)
        return f"{head} {body} ({grammar.literal(answer.ends[0])})?"

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        call, section = super().call(grammar, name, schema), self.sections[2]
        if section.kind == "block":
            return call
        return f"{spelled(grammar, section.head.replace('{name}', name))} {call}"

    def between(self, grammar: GrammarBuilder) -> str:
        section = self.sections[2]
        return '""' if section.kind == "block" else grammar.literal(section.ends[0])

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        answer = self.sections[1]
        end = f"({grammar.literal(answer.ends[0])})?" if self.opened == answer else ""
        return f"{end} {super().enclose(grammar, calls)}"
