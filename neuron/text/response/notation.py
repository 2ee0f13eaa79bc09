"""The notation of a checkpoint that describes its answers itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from neuron.text.grammar import GrammarBuilder, UnenforceableSchemaError
from neuron.text.notations.notation import Notation, hex_id
from neuron.text.notations.parser import CallParser, NewId, ToolSchemas
from neuron.text.response.delimiters import UnreadableTemplateError
from neuron.text.response.fields import ResponseTemplate, read_template
from neuron.text.response.parser import ResponseParser
from neuron.text.schema import Schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DescribedNotation(Notation):
    """Reads by the template; `written` is the known notation that grammars of calls are made of."""

    template: ResponseTemplate
    written: Notation | None
    prefix: str = ""
    splits_reasoning: ClassVar[bool] = True

    def answering(self, prompt: str) -> Notation:
        written = self.written and self.written.answering(prompt)
        return replace(self, prefix=self.template.begun_by(prompt), written=written)

    def parser(self, new_id: NewId, tools: ToolSchemas) -> CallParser:
        return ResponseParser(self.template, self.prefix, new_id, tools)

    def call(self, grammar: GrammarBuilder, name: str, schema: Schema) -> str:
        return self._writer.call(grammar, name, schema)

    def between(self, grammar: GrammarBuilder) -> str:
        return self._writer.between(grammar)

    def enclose(self, grammar: GrammarBuilder, calls: str) -> str:
        return self._writer.enclose(grammar, calls)

    def thought(self, grammar: GrammarBuilder) -> str:
        return self.written.thought(grammar) if self.written else ""

    def content(self, grammar: GrammarBuilder, body: str) -> str:
        return self.written.content(grammar, body) if self.written else body

    @property
    def _writer(self) -> Notation:
        if self.written is None:
            raise UnenforceableSchemaError("this model's notation of calls is known for reading only")
        return self.written


def notation_of_checkpoint(spec: Any, *, tokens: Iterable[str], written: Notation | None) -> Notation | None:
    """As `described_notation`; `written` where there is no template, or one that cannot be used."""
    if spec is None:
        return written
    try:
        return described_notation(spec, tokens=tokens, written=written)
    except UnreadableTemplateError as error:
        logger.warning("response_template is left aside: %s", error)
        return written


def described_notation(spec: Any, *, tokens: Iterable[str], written: Notation | None) -> DescribedNotation:
    """The notation that `response_template` in a tokenizer's configuration describes.

    `tokens` are the special ones, which its delimiters may name; `written` is the notation that the chat
    template writes, if it is a known one. Raises `UnreadableTemplateError`.
    """
    return DescribedNotation(
        name="response-template",
        openers=written.openers if written else (),
        markers=tuple(tokens),
        call_id=written.call_id if written else hex_id,
        template=read_template(spec),
        written=written,
    )
