"""A chat template together with what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from neuron.text.template import ChatTemplate, TemplateRefusedError
from neuron.text.traits.fitting import fit, with_object_arguments
from neuron.text.traits.template_traits import TemplateTraits

Json = dict[str, Any]


class RenderedChat(NamedTuple):
    """A prompt, and the names of what was changed in the messages so that the template takes them."""

    text: str
    changes: tuple[str, ...] = ()


class ArgumentsRefusedError(TemplateRefusedError):
    """The template cannot render arguments of an earlier call that are no object; `place` is their path."""

    def __init__(self, message: str, place: str) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True, slots=True)
class FittedTemplate:
    """Renders chats, and changes of their messages only what the template would refuse or leave out."""

    template: ChatTemplate = field(repr=False)
    traits: TemplateTraits

    @property
    def ranks_pairs(self) -> bool:
        """Whether it renders a pair of a query and a document."""
        return self.template.ranks_pairs

    def render(
        self,
        messages: Sequence[Json],
        *,
        tools: Sequence[Json] | None = None,
        documents: Sequence[Json] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> RenderedChat:
        """The prompt; with `continue_final` it ends within the last message, else where a reply begins.

        Raises `TemplateRefusedError`; `ArgumentsRefusedError` where it refuses the arguments of a call.
        """

        def rendered(messages: Sequence[Json], *changes: str) -> RenderedChat:
            fitted = fit(messages, self.traits, has_tools=bool(tools))
            text = self.template.render(
                fitted.messages,
                tools=tools or ([] if self.traits.wants_tool_list else None),
                documents=documents,
                variables=variables,
                add_generation_prompt=add_generation_prompt,
                continue_final=continue_final,
            )
            return RenderedChat(_storable(text), (*changes, *fitted.changes))

        try:
            return rendered(messages)
        except TemplateRefusedError as error:
            messages, place = with_object_arguments(messages)
            if place is None:
                raise
            refusal = ArgumentsRefusedError(f"{place} is no JSON object ({error})", place)
        try:
            return rendered(messages, "arguments-wrapped")
        except TemplateRefusedError as error:
            raise refusal from error

    def settings(
        self, *, effort: str | None = None, verbosity: str | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The template's variables for what a request asks for, and parameters that it has no switch for.

        Raises `UnknownEffortError`.
        """
        found: dict[str, Any] = {}
        ignored: list[str] = []
        if effort is not None:
            found |= self.traits.settings(effort)
            if not found:
                ignored.append("reasoning_effort")
        if verbosity is not None and "verbosity" in self.traits.variables:
            found["verbosity"] = verbosity
        elif verbosity is not None:
            ignored.append("verbosity")
        return found, tuple(ignored)


def _storable(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text
