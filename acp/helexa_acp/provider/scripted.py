"""A provider that answers from a TOML file, for end-to-end tests, for demonstrations and to try a client.

    [[turn]]
    match = "rename"                      # a regular expression for the user's message; default: any message
    [[turn.reply]]                        # one for each round of the turn; the last one repeats
    steps = [{ reasoning = "Look first." }, { call = "read", args = { path = "a.py" } }]
    [[turn.reply]]
    steps = [{ text = "Done." }, { usage = { prompt = 900, completion = 12 } }]

Steps: text, reasoning, call with args (a table, or a string that is sent unchanged), usage, finish, progress,
sleep_s, hang (until cancelled), error with status. The provider has no state: it counts the rounds in the
history, so a script continues after a restart.
"""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.base import Provider
from helexa_acp.provider.errors import RejectedError, from_status
from helexa_acp.provider.types import (
    CompletionEvent,
    CompletionRequest,
    Finish,
    FinishReason,
    ModelDetails,
    ProgressUpdate,
    ReasoningDelta,
    Role,
    TextDelta,
    ToolCallArgsDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
    UsageStats,
)

MIN_CHUNK_CHARS = 12


class ScriptedProvider(Provider):
    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint

    async def list_models(self) -> list[ModelDetails]:
        listed = self._script().get("models", [{"id": self._endpoint.default_model or "script"}])
        return [
            ModelDetails(m["id"], context_window=m.get("context_window"), efforts=tuple(m.get("efforts", ())))
            for m in listed
        ]

    async def complete(
        self, request: CompletionRequest, cancel: CancelToken
    ) -> AsyncGenerator[CompletionEvent, None]:
        steps = self._steps(request)
        num_calls = 0
        for step in steps:
            try:
                await cancel.race(_pause(step))
            except Cancelled:
                return
            if "error" in step:
                raise from_status(self.name, request.model, step.get("status", 500), step["error"])
            for event in _events(step, num_calls):
                if cancel.cancelled:
                    return
                yield event
            num_calls += "call" in step
        for index in range(num_calls):
            yield ToolCallEnd(index)
        finish = next(
            (step["finish"] for step in steps if "finish" in step), "tool_calls" if num_calls else "stop"
        )
        yield Finish(FinishReason(finish))
        yield Usage(_usage(steps, request))

    def _script(self) -> dict[str, Any]:
        path = Path(self._endpoint.script or "")
        try:
            return tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
            raise RejectedError(f"{self.name}: script {path}: {error}", endpoint=self.name) from error

    def _steps(self, request: CompletionRequest) -> list[dict[str, Any]]:
        asked = max((i for i, m in enumerate(request.messages) if m.role is Role.USER), default=-1)
        text = request.messages[asked].text if asked >= 0 else ""
        if (
            not request.tools
            and request.messages[0].role is Role.SYSTEM
            and asked == len(request.messages) - 1
        ):
            text = f"{request.messages[0].text}\n{text}"  # a side question, such as a summary
        rounds = sum(m.role is Role.ASSISTANT for m in request.messages[asked + 1 :])
        for turn in self._script().get("turn", []):
            if re.search(turn.get("match", ""), text):
                replies = turn.get("reply") or [{"steps": []}]
                return list(replies[min(rounds, len(replies) - 1)].get("steps", []))
        return [{"text": f"You said: {text}"}]


async def _pause(step: dict[str, Any]) -> None:
    if step.get("hang"):
        await asyncio.Event().wait()
    await asyncio.sleep(step.get("sleep_s", 0))


def _events(step: dict[str, Any], index: int) -> list[CompletionEvent]:
    if "text" in step:
        return [TextDelta(piece) for piece in _pieces(step["text"])]
    if "reasoning" in step:
        return [ReasoningDelta(piece) for piece in _pieces(step["reasoning"])]
    if "progress" in step:
        return [ProgressUpdate(step["progress"])]
    if "call" in step:
        args = step.get("args", {})
        text = args if isinstance(args, str) else json.dumps(args)
        start = ToolCallStart(index, step.get("id", f"call_{index}"), step["call"])
        return [start, *(ToolCallArgsDelta(index, piece) for piece in _pieces(text))]
    return []


def _pieces(text: str) -> list[str]:
    size = max(MIN_CHUNK_CHARS, len(text) // 200)
    return [text[at : at + size] for at in range(0, len(text), size)]


def _usage(steps: list[dict[str, Any]], request: CompletionRequest) -> UsageStats:
    told = next((step["usage"] for step in steps if "usage" in step), None)
    if told:
        return UsageStats(told.get("prompt", 0), told.get("completion", 0), told.get("cached", 0))
    return UsageStats(sum(len(message.text) for message in request.messages) // 4, 1)
