"""Chat templates in processes that can be killed: a stranger's program may compute without end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from neuron.config import TemplateSettings
from neuron.sandbox.process import CallLimitError
from neuron.sandbox.sandbox import CallError, Sandbox
from neuron.text import rendering
from neuron.text.rendering import TemplateRefusal
from neuron.text.template import ChatTemplate
from neuron.text.traits.fitted_template import FittedTemplate, RenderedChat

MAX_CALLS = 100_000  # of one process: a start takes longer than many renderings

T = TypeVar("T")


class Templates:
    """Probes and renders templates.

    A call that has begun goes on, within its limits, when nobody waits for it any more: if it were killed,
    clients that leave could make all others wait for new processes.
    """

    def __init__(self, settings: TemplateSettings) -> None:
        self.max_messages = settings.max_messages
        self._num_processes = settings.processes
        self._sandbox = Sandbox(settings, max_calls=MAX_CALLS)
        self._calls: set[asyncio.Task[Any]] = set()

    async def warm_up(self) -> None:
        """Start the processes before they are needed."""
        await asyncio.gather(*(self._run("", rendering.ready) for _ in range(self._num_processes)))

    async def fit(
        self, template: ChatTemplate, added: Mapping[str, bool], tool_format: str | None
    ) -> FittedTemplate | TemplateRefusal:
        """What `rendering.fitted_template` returns. Raises `ApiError` 503."""
        fitted: FittedTemplate | TemplateRefusal = await self._run(
            "", rendering.fitted_template, template, added, tool_format
        )
        return fitted

    async def render(
        self, principal: str, template: FittedTemplate, messages: Sequence[dict[str, Any]], **options: Any
    ) -> RenderedChat | TemplateRefusal:
        """What `rendering.render` returns. Raises `ApiError` 503."""
        rendered: RenderedChat | TemplateRefusal = await self._run(
            principal, rendering.render, template, messages, **options
        )
        return rendered

    async def close(self) -> None:
        await self._sandbox.close()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _run(self, principal: str, function: Any, *arguments: Any, **options: Any) -> Any:
        call = asyncio.create_task(self._call(self._sandbox.run(principal, function, *arguments, **options)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return await asyncio.shield(call)

    @staticmethod
    async def _call(running: Coroutine[Any, Any, T]) -> T | TemplateRefusal:
        try:
            return await running
        except CallLimitError as error:
            return TemplateRefusal(f"it takes {error}")
        except CallError as error:
            return TemplateRefusal(str(error))
        except RecursionError:
            return TemplateRefusal("the chat is nested too deeply")
