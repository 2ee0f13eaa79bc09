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
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Json = dict[str, Any]

MAX_COMPILED = 64  # programs that a process keeps

_DICT_ATTRIBUTES = frozenset(dir(dict))
_PLAIN_TYPES = (LoopContext, Namespace)  # nothing of theirs is unsafe but what is private

# Of the private use area, so that no chat holds it.
_CUT = "\ue000cut here\ue001"  # follows a message to be continued


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


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with short ways to what templates read most; each gives what the long one would."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if type(obj) in _PLAIN_TYPES:
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


class _Program(NamedTuple):
    template: Template
    variables: frozenset[str]  # read before they are set, or never set


@lru_cache(MAX_COMPILED)
def _compiled(source: str) -> _Program:
    environment = _environment()
    found = meta.find_undeclared_variables(environment.parse(source))
    return _Program(environment.from_string(source), frozenset(found - environment.globals.keys()))


class ChatTemplate:
    """A template and the special tokens that it may name: bos_token, eos_token and so on.

    It is compiled by the process that first renders with it, and travels to others as text.
    """

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        self._source = source
        self._tokens = dict(tokens)

    def compile(self) -> None:
        """Raises `jinja2.TemplateSyntaxError` when the source is no template."""
        _compiled(self._source)

    @property
    def ranks_pairs(self) -> bool:
        """Whether it renders a pair of a query and a document, by these roles."""
        return all(role in self._source for role in ("query", "document")) and "role" in self._source

    @property
    def variables(self) -> frozenset[str]:
        """The variables that it expects; those that it sets itself are none of them."""
        return _compiled(self._source).variables

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
        """The prompt, with messages and tools as they are given.

        With `continue_final` it ends within the last message, else where a reply begins.

        Raises `TemplateRefusedError`.
        """
        add_generation_prompt = add_generation_prompt and not continue_final
        context = self._tokens | {"add_generation_prompt": add_generation_prompt} | dict(variables or {})
        if continue_final:
            messages = [*messages[:-1], messages[-1] | {"content": _cut(messages[-1]["content"])}]
        rendered = self._render(
            context | {"messages": list(messages), "tools": tools, "documents": documents}
        )
        if not continue_final:
            return rendered
        begun, mark, _ = rendered.rpartition(_CUT)
        if not mark:
            raise TemplateRefusedError("it leaves out the final message, which cannot be continued")
        return begun

    def _render(self, context: Json) -> str:
        try:
            rendered = _compiled(self._source).template.render(context)
            rendered.encode()  # a template can spell half a character, which is no text
        except TemplateError as error:
            raise TemplateRefusedError(error.message or type(error).__name__) from error
        except Exception as error:
            # a stranger's program: whatever it raises fails this chat, and not the server
            raise TemplateRefusedError(f"{type(error).__name__}: {error}") from error
        return rendered


def _cut(content: Any) -> Any:
    """The content with the mark behind its last text."""
    if isinstance(content, str):
        return content + _CUT
    *parts, last = content
    return [*parts, last | {"text": last["text"] + _CUT}]
