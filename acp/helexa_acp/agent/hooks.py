"""Hooks: commands of the user's configuration that run before and after tool calls, and at the end of a turn.

A hook gets a JSON object on its standard input. It agrees by exit code 0. With any other, and when it does
not end in time, it objects, and what it wrote is its reason: a call is refused, a result gets
the words added, a turn goes on with them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from helexa_acp.cancellation import CancelToken
from helexa_acp.extensions import Hook
from helexa_acp.tools.processes import ChildProcesses
from helexa_acp.tools.terminal import shell_argv
from helexa_acp.tools.tool import Outcome
from helexa_acp.tools.truncation import clip, one_line

log = logging.getLogger(__name__)

MAX_WORDS = 10_000
OUTPUT_LIMIT_BYTES = 64 * 1024


class Hooks:
    """The hooks of one session, whose child processes they are."""

    def __init__(
        self, hooks: tuple[Hook, ...], processes: ChildProcesses, *, session_id: str, cwd: str
    ) -> None:
        self._hooks = hooks
        self._processes = processes
        self._about = {"session_id": session_id, "cwd": cwd}

    def without(self, event: str) -> Hooks:
        hooks = tuple(hook for hook in self._hooks if hook.event != event)
        return Hooks(hooks, self._processes, **self._about)

    async def before(self, tool: str, args: dict[str, Any], cancel: CancelToken) -> str | None:
        """Return why a hook refuses the call, or None. Raises Cancelled."""
        return await self._objection("before_tool", tool, {"tool": tool, "arguments": args}, cancel)

    async def after(
        self, tool: str, args: dict[str, Any], outcome: Outcome, cancel: CancelToken
    ) -> str | None:
        """Return what a hook has to say of a result, or None. Raises Cancelled."""
        about = {"tool": tool, "arguments": args, "result": outcome.text, "is_error": outcome.is_error}
        return await self._objection("after_tool", tool, about, cancel)

    async def stop(self, text: str, cancel: CancelToken) -> str | None:
        """Return why the turn must go on after this last text of the model, or None. Raises Cancelled."""
        return await self._objection("stop", "", {"text": text}, cancel)

    async def _objection(
        self, event: str, tool: str, about: dict[str, Any], cancel: CancelToken
    ) -> str | None:
        for hook in self._hooks:
            if hook.concerns(event, tool):
                words = await self._run(hook, {"event": event, **self._about, **about}, cancel)
                if words is not None:
                    return words
        return None

    async def _run(self, hook: Hook, about: dict[str, Any], cancel: CancelToken) -> str | None:
        name = one_line(hook.command)
        try:
            result = await self._processes.run(
                shell_argv(hook.command),
                self._about["cwd"],
                timeout_s=hook.timeout_s,
                limit_bytes=OUTPUT_LIMIT_BYTES,
                cancel=cancel,
                stdin=json.dumps(about).encode(),
            )
        except OSError as error:
            log.warning("hook %s cannot run: %s", name, error)
            return f"the hook `{name}` cannot run: {error}"
        if result.cancelled:
            await cancel.race(asyncio.sleep(0))  # raises Cancelled
        if result.timed_out:
            log.warning("hook %s did not end within %g s", name, hook.timeout_s)
            return f"the hook `{name}` did not end within {hook.timeout_s:g} s"
        if result.exit_code == 0:
            return None
        words = clip(result.output.strip(), MAX_WORDS)
        return words or f"the hook `{name}` ended with {result.signal or f'exit code {result.exit_code}'}"
