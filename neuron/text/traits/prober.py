"""Renders probes within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from neuron.text.template import ChatTemplate, TemplateRefusedError

Json = dict[str, Any]

MAX_RENDERS = 400
MAX_SECONDS = 5.0

USER, ANSWER, SYSTEM, SECOND, RESULT = "kzuser", "kzanswer", "kzsystem", "kzsecond", "kzresult"
THOUGHT = "kzthought"
_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
TOOL_NAME, OTHER_TOOL = "kzweather", "kzclock"


def tool(name: str) -> Json:
    properties = {
        "city": {"type": "string", "description": "kz"},
        "days": {"type": "integer", "description": "kz"},
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    return {"type": "function", "function": {"name": name, "description": "kz", "parameters": parameters}}


TOOLS = [tool(TOOL_NAME), tool(OTHER_TOOL)]


class Prober:
    """Renders through one template, `MAX_RENDERS` times and for `MAX_SECONDS` at most.

    `text` and `wants_parts` say in which form contents go in; the first probe finds out.
    """

    def __init__(self, template: ChatTemplate, clock: Callable[[], float] = time.monotonic) -> None:
        self.template = template
        self.num_renders = 0
        self.wants_parts = False
        self.has_rendered = False
        self.refusal: TemplateRefusedError | None = None  # the first
        self.no_tools: list[Json] | None = None  # what stands for no tools; some templates need a list
        self._clock = clock
        self._end = clock() + MAX_SECONDS

    def __call__(
        self,
        *messages: Json,
        tools: Sequence[Json] | None = None,
        variables: Mapping[str, Any] | None = None,
        opens_answer: bool = False,
    ) -> str | None:
        """The rendering; None when the template refuses, or the bounds are reached."""
        if self.is_over:
            return None
        self.num_renders += 1
        try:
            rendered = self.template.render(
                [self._in_form(message) for message in messages],
                tools=tools or self.no_tools,
                variables={"strftime_now": _same_time} | dict(variables or {}),
                add_generation_prompt=opens_answer,
            )
        except TemplateRefusedError as error:
            self.refusal = self.refusal or error
            return None
        self.has_rendered = True
        return rendered

    @property
    def is_over(self) -> bool:
        """Whether a bound is reached: every further probe counts as refused."""
        return self.num_renders >= MAX_RENDERS or self._clock() > self._end

    def prints(self, words: Sequence[str], *messages: Json, **options: Any) -> bool:
        """Whether the rendering has all of these words."""
        rendered = self(*messages, **options)
        return rendered is not None and all(word in rendered for word in words)

    def _in_form(self, message: Json) -> Json:
        return with_parts(message) if self.wants_parts else message


def message(role: str, content: str, **more: Any) -> Json:
    return {"role": role, "content": content} | more


def with_parts(message: Json) -> Json:
    """The message with its text as a list of one part."""
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return message | {"content": [{"type": "text", "text": content}]}


def _same_time(format: str) -> str:  # noqa: A002 - the name templates may use
    return _MOMENT.strftime(format)
