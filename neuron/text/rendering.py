"""What is done with a stranger's chat template, by functions that a process of the sandbox can run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jinja2 import TemplateSyntaxError

from neuron.text.notations.known import notations_for
from neuron.text.template import ChatTemplate, TemplateRefusedError
from neuron.text.traits.fitted_template import ArgumentsRefusedError, FittedTemplate, RenderedChat
from neuron.text.traits.probing import probe_template

Json = dict[str, Any]


class TemplateRefusal(NamedTuple):
    """Why a template cannot be used, or not for this chat; `place` is the path of the argument at fault."""

    message: str
    place: str | None = None


def fitted_template(
    template: ChatTemplate, added: Mapping[str, bool], tool_format: str | None = None
) -> FittedTemplate | TemplateRefusal:
    """Return the template with what probing finds out, or why it renders no chat.

    `added` are the tokenizer's added tokens, and whether each is special. With a `tool_format` its calls are
    written in that notation.
    """
    notations = notations_for(added)
    try:
        template.compile()
        traits = probe_template(
            template,
            notations.values() if tool_format is None else [notations[tool_format]],
            hidden={token for token, is_special in added.items() if is_special},
            known_tokens=added.keys(),
        )
    except TemplateSyntaxError as error:
        return TemplateRefusal(f"line {error.lineno}: {error.message}")
    except RecursionError:
        return TemplateRefusal("is nested too deeply")
    except TemplateRefusedError as error:
        return TemplateRefusal(f"renders no chat: {error}")
    return FittedTemplate(template, traits if tool_format is None else replace(traits, notation=tool_format))


def render(
    template: FittedTemplate, messages: Sequence[Json], **options: Any
) -> RenderedChat | TemplateRefusal:
    """Return the rendered chat, or why the template refuses it; for options see `FittedTemplate.render`."""
    try:
        return template.render(messages, **options)
    except ArgumentsRefusedError as error:
        return TemplateRefusal(str(error), error.place)
    except TemplateRefusedError as error:
        return TemplateRefusal(str(error))


def ready() -> None:
    """Do nothing: whoever has called it has this module and what it needs."""
