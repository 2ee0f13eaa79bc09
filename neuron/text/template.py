"""A model's own chat template: Jinja in a sandbox, with the environment that such templates expect.

Templates come from strangers, so they run in the immutable sandbox and see plain JSON values only. The
environment follows the field's convention: trimmed blocks, loop controls, `tojson` without HTML escaping,
`raise_exception`, `strftime_now`, and the `generation` tag, which marks text for training and is ignored
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Json = dict[str, Any]

# Of the private use area, so that no chat holds them.
_CUT = "\ue000cut here\ue001"  # follows a message to be continued
_PROBE = "\ue000probe\ue001"


class TemplateRefusedError(Exception):
    """The template cannot render this chat; the message says why."""


class _GenerationTag(Extension):
    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(value: Any, **options: Any) -> str:
    return json.dumps(value, **({"ensure_ascii": False} | options))


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - the name templates may use
    return datetime.now().astimezone().strftime(format)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


class ChatTemplate:
    """A template and the special tokens that it may name: bos_token, eos_token and so on.

    Raises `jinja2.TemplateSyntaxError` when `source` is no template.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self.source = source
        self._tokens = dict(tokens)
        self._template: Template = _environment().from_string(source)

    def mentions(self, name: str) -> bool:
        """Whether the template may use a variable or role of that name."""
        return name in self.source

    def render(
        self,
        messages: Sequence[Json],
        *,
        tools: Sequence[Json] | None = None,
        documents: Sequence[Json] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> str:
        """The prompt; with `continue_final` it ends within the last message, else where a reply begins.

        Raises `TemplateRefusedError`.
        """
        add_generation_prompt = add_generation_prompt and not continue_final
        context = self._tokens | {"add_generation_prompt": add_generation_prompt} | dict(variables or {})
        if continue_final:
            messages = [*messages[:-1], messages[-1] | {"content": messages[-1]["content"] + _CUT}]
        prepared = [self._prepare(message) for message in messages]
        rendered = self._render(context | {"messages": prepared, "tools": tools, "documents": documents})
        if not continue_final:
            return rendered
        begun, mark, _ = rendered.rpartition(_CUT)
        if not mark:
            raise TemplateRefusedError("it leaves out the final message, which cannot be continued")
        return begun

    def _render(self, context: Json) -> str:
        try:
            return self._template.render(context)
        except TemplateError as error:
            raise TemplateRefusedError(error.message or type(error).__name__) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
            # a template that fails on a chat fails that chat, not the server
            raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error

    @cached_property
    def _wants_parts(self) -> bool:
        """Whether it reads contents only as lists of parts, as some templates of vision models do."""

        def reads(content: Any) -> bool:
            try:
                return _PROBE in self._render(
                    self._tokens | {"messages": [{"role": "user", "content": content}]}
                )
            except TemplateRefusedError:
                return False

        return not reads(_PROBE) and reads([{"type": "text", "text": _PROBE}])

    def _prepare(self, message: Json) -> Json:
        if self._wants_parts and isinstance(message.get("content"), str):
            message = message | {"content": [{"type": "text", "text": message["content"]}]}
        if message.get("role") == "developer" and not self.mentions("developer"):
            message = message | {"role": "system"}
        if calls := message.get("tool_calls"):
            message = message | {"tool_calls": [_with_object_arguments(call) for call in calls]}
        return message


def _with_object_arguments(call: Json) -> Json:
    """The call with its arguments as an object, which templates expect; clients send them as JSON text."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return call | {"function": function | {"arguments": arguments}}
