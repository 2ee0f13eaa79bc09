"""What the daemon knows of a model's text: tokenizer, chat template, end tokens, notation and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import Tokenizer

from neuron.text.answer import AnswerStream
from neuron.text.constraint import AnswerConstraint, answer_grammar
from neuron.text.content import AnswerContent
from neuron.text.detokenizer import Detokenizer
from neuron.text.notations.notation import Notation
from neuron.text.notations.parser import ToolSchemas
from neuron.text.reasoning import ReasoningMarkers, ReasoningSplitter
from neuron.text.sentence_prompts import SentencePrompts
from neuron.text.token_bytes import TokenBytes
from neuron.text.traits.call_ids import new_ids
from neuron.text.traits.description import describe
from neuron.text.traits.fitted_template import FittedTemplate
from neuron.text.traits.template_traits import TemplateTraits

_NO_TRAITS = TemplateTraits()


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What `generation_config.json` says, for parameters that a request leaves out."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelText:
    """Everything the daemon needs to talk for one model; made by `neuron.text.directory`, never changed."""

    tokenizer: Tokenizer = field(repr=False)
    template: FittedTemplate | None
    eos_ids: tuple[int, ...]
    hidden_ids: frozenset[int] = field(repr=False)
    defaults: GenerationDefaults
    reasoning: ReasoningMarkers | None
    notation: Notation | None
    token_bytes: TokenBytes = field(repr=False)
    added_tokens: Mapping[str, int] = field(repr=False)  # ids by text; asking the tokenizer copies them all
    longest_token: int  # in characters, or more
    tool_template: FittedTemplate | None = None  # of chats with tools, where the model has another for them
    prompts: SentencePrompts = field(default_factory=SentencePrompts)  # of texts to be embedded

    @property
    def capabilities(self) -> list[str]:
        reasons = self.reasoning is not None or (self.notation is not None and self.notation.splits_reasoning)
        found = {"chat": self.template is not None, "tools": self.notation is not None, "reasoning": reasons}
        return [name for name, is_there in found.items() if is_there]

    @property
    def description(self) -> dict[str, str]:
        """What its chat templates take, in words; empty without one."""
        if self.template is None:
            return {}
        return describe(self.template.traits, self.tool_template.traits if self.tool_template else None)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id, or more."""
        return 1 + max(self.tokenizer.get_vocab_size(), *self.added_tokens.values(), *self.eos_ids)

    def encode(self, text: str, *, is_rendered: bool = True) -> list[int]:
        """The tokens of a prompt. Special ones are added unless a template wrote them (`is_rendered`).

        Other threads run meanwhile: unlike `encode`, a batch lets go of the interpreter's lock.
        """
        (encoding,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=not is_rendered)
        return list(encoding.ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, control tokens included."""
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def template_for(self, *, tools: bool) -> FittedTemplate:
        """The template that renders a chat, with tools or without; the model must have one for chats."""
        template = (self.tool_template if tools else None) or self.template
        assert template
        return template

    def answer(
        self,
        prompt: str,
        *,
        stops: Sequence[str] = (),
        min_tokens: int = 0,
        tools: ToolSchemas | None = None,
        max_calls: int | None = None,
        calls_before: int = 0,
    ) -> AnswerStream:
        """The reading side of one answer to `prompt`. Calls are looked for when `tools` is not None.

        `calls_before` is how many calls the conversation has already.
        """
        calls = openers = None
        if self.notation and tools is not None:
            openers = self.notation.call_openers(
                lambda marker: self.tokenizer.token_to_id(marker) is not None
            )
        if self.notation and (tools is not None or self.notation.splits_reasoning):
            new_id = new_ids(self._tool_traits.ids, self.notation.call_id, calls_before)
            calls = self.notation.answering(prompt).parser(new_id, tools or {})
        if tools is not None and max_calls is None:
            max_calls = self._tool_traits.max_calls
        return AnswerStream(
            Detokenizer(self.tokenizer, self.hidden_ids),
            ReasoningSplitter(
                self.reasoning,
                opened=self._is_opened(prompt),
                calls=openers,
                answers=self.notation.answers if self.notation else (),
            ),
            stops=stops,
            min_tokens=min_tokens,
            calls=calls,
            max_calls=max_calls,
        )

    def text_answer(self, *, stops: Sequence[str] = (), min_tokens: int = 0) -> AnswerStream:
        """The reading side of a bare completion, which is text and nothing else."""
        plain = Detokenizer(self.tokenizer, self.hidden_ids)
        return AnswerStream(plain, ReasoningSplitter(None), stops=stops, min_tokens=min_tokens)

    def grammar(self, constraint: AnswerConstraint, prompt: str) -> str:
        """The grammar of a constrained answer to `prompt`, in Lark. Raises `UnenforceableSchemaError`."""
        thought = None
        if self.reasoning is not None and not self.reasoning.closed_by(prompt):
            thought = self.reasoning, self._is_opened(prompt)
        if self._tool_traits.max_calls == 1:
            constraint = replace(constraint, is_parallel=False)
        notation = self.notation and self.notation.answering(prompt)
        return answer_grammar(constraint, added=self.added_tokens, notation=notation, thought=thought)

    def text_grammar(self, content: AnswerContent) -> str:
        """The grammar of a bare completion, in Lark. Raises `UnenforceableSchemaError`."""
        return answer_grammar(AnswerConstraint(content), added={}, notation=None, thought=None)

    @property
    def _tool_traits(self) -> TemplateTraits:
        template = self.tool_template or self.template
        return template.traits if template else _NO_TRAITS

    def _is_opened(self, prompt: str) -> bool:
        return self.reasoning is not None and self.reasoning.opened_by(prompt)
