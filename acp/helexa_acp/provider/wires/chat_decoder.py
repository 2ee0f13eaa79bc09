"""OpenAI chat completions: decoding, tolerant of the many servers that speak this dialect."""

from __future__ import annotations

import logging
from typing import Any

from helexa_acp.provider.errors import WireError
from helexa_acp.provider.lenient_json import as_dict, as_int, as_list, as_object, as_str
from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    CompletionEvent,
    FinishReason,
    ReasoningDelta,
    ReasoningState,
    TextDelta,
    ToolCall,
    UsageStats,
)
from helexa_acp.provider.wires.adapter import Ending, raise_error
from helexa_acp.provider.wires.call_assembler import CallAssembler
from helexa_acp.provider.wires.markup import CallScanner, ThinkScanner

log = logging.getLogger(__name__)

_REASONS = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.REFUSAL,
    "refusal": FinishReason.REFUSAL,
}


class ChatDecoder:
    def __init__(self, *, text_tools: bool = False) -> None:
        self._calls = CallAssembler()
        self._ending = Ending()
        self._think = ThinkScanner()
        self._text_calls = CallScanner() if text_tools else None
        self._num_text_calls = 0
        self._details: list[Any] = []
        self._refused = False

    def feed(self, event: SseEvent) -> list[CompletionEvent]:
        if event.data.strip() == "[DONE]":
            self._ending.done = True
            return []
        value = as_object(event.data)
        if event.event == "error":
            raise_error(as_dict(value).get("error", value or event.data))
        if value is None:
            log.warning("skipped a chunk that is not a JSON object: %.120r", event.data)
            return []
        return self._chunk(value, "delta")

    def body(self, value: dict[str, Any]) -> list[CompletionEvent]:
        self._ending.done = True
        return self._chunk(value, "message")

    def close(self) -> list[CompletionEvent]:
        events = self._route(self._think.close())
        if self._text_calls is not None:
            events += self._from_text(self._text_calls.close())
        if self._details:
            events.append(ReasoningState({"reasoning_details": self._details}))
        if self._refused and self._ending.reason is not FinishReason.LENGTH:
            self._ending.reason = FinishReason.REFUSAL
        end = self._ending.close(has_calls=bool(self._calls), calls_complete=self._calls.complete)
        return [*events, *self._calls.close(), *end]

    def _chunk(self, value: dict[str, Any], field: str) -> list[CompletionEvent]:
        if value.get("error"):
            raise_error(value["error"])
        if "choices" not in value and "message" in value and "code" in value:
            raise_error(value)
        self._usage(value.get("usage"))
        events: list[CompletionEvent] = []
        for choice in map(as_dict, as_list(value.get("choices"))):
            if choice.get("error"):
                raise_error(choice["error"])
            self._usage(choice.get("usage"))
            events += self._delta(as_dict(choice.get(field) or choice.get("delta") or choice.get("message")))
            self._finish(choice.get("finish_reason"))
        return events

    def _finish(self, reason: Any) -> None:
        if reason == "error":
            raise WireError("the server ended the answer with an error")
        if isinstance(reason, str) and reason:
            self._ending.reason = _REASONS.get(reason, FinishReason.STOP)

    def _delta(self, delta: dict[str, Any]) -> list[CompletionEvent]:
        events: list[CompletionEvent] = []
        thought = as_str(delta.get("reasoning_content")) or as_str(delta.get("reasoning"))
        details = as_list(delta.get("reasoning_details"))
        self._details += details
        thought = thought or "".join(
            as_str(as_dict(d).get("text") or as_dict(d).get("summary")) for d in details
        )
        if thought:
            events.append(ReasoningDelta(thought))
        events += self._content(delta.get("content"))
        if refusal := as_str(delta.get("refusal")):
            self._refused = True
            events.append(TextDelta(refusal))
        for call in map(as_dict, as_list(delta.get("tool_calls"))):
            events += self._call(call, call.get("index"))
        if function := as_dict(delta.get("function_call")):
            events += self._call({"function": function}, "function_call")
        return events

    def _call(self, call: dict[str, Any], key: Any) -> list[CompletionEvent]:
        function = as_dict(call.get("function"))
        key = key if isinstance(key, int | str) else None
        return self._calls.fragment(
            key, as_str(call.get("id")), as_str(function.get("name")), function.get("arguments")
        )

    def _content(self, content: Any) -> list[CompletionEvent]:
        if isinstance(content, str):
            return self._route(self._think.feed(content)) if content else []
        events: list[CompletionEvent] = []
        for part in map(as_dict, as_list(content)):
            if thinking := part.get("thinking"):
                texts = [as_str(as_dict(t).get("text")) for t in as_list(thinking)] or [as_str(thinking)]
                events.append(ReasoningDelta("".join(texts)))
            elif text := as_str(part.get("text")):
                events += self._route([("text", text)])
        return events

    def _route(self, fragments: list[tuple[str, str]]) -> list[CompletionEvent]:
        events: list[CompletionEvent] = []
        for kind, text in fragments:
            if kind == "reasoning":
                events.append(ReasoningDelta(text))
            elif self._text_calls is not None:
                events += self._from_text(self._text_calls.feed(text))
            else:
                events.append(TextDelta(text))
        return events

    def _from_text(self, pieces: list[str | ToolCall]) -> list[CompletionEvent]:
        events: list[CompletionEvent] = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._num_text_calls += 1
                key = f"text {self._num_text_calls}"
                events += self._calls.fragment(key, "", piece.name, piece.arguments)
            elif piece:
                events.append(TextDelta(piece))
        return events

    def _usage(self, value: Any) -> None:
        usage = as_dict(value)
        prompt = as_int(usage.get("prompt_tokens"))
        completion = as_int(usage.get("completion_tokens"))
        if not (prompt or completion):
            return
        details = as_dict(usage.get("prompt_tokens_details"))
        cached = as_int(details.get("cached_tokens")) or as_int(usage.get("prompt_cache_hit_tokens"))
        self._ending.usage = UsageStats(prompt, completion, cached)
