"""Anthropic messages: decoding."""

from __future__ import annotations

import json
import logging
from typing import Any

from helexa_acp.provider.lenient_json import as_dict, as_int, as_list, as_object, as_str
from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    CompletionEvent,
    FinishReason,
    ReasoningDelta,
    ReasoningState,
    TextDelta,
    Usage,
    UsageStats,
)
from helexa_acp.provider.wires.adapter import Ending, raise_error
from helexa_acp.provider.wires.call_assembler import CallAssembler

log = logging.getLogger(__name__)

_REASONS = {
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "pause_turn": FinishReason.PAUSE,
    "refusal": FinishReason.REFUSAL,
}


class AnthropicDecoder:
    def __init__(self) -> None:
        self._calls = CallAssembler()
        self._ending = Ending()
        self._blocks: dict[Any, dict[str, Any]] = {}  # open thinking blocks, by index
        self._usage: dict[str, int] = {}

    def feed(self, event: SseEvent) -> list[CompletionEvent]:
        if event.data.strip() == "[DONE]":  # OpenRouter sends it on this wire too
            self._ending.done = True
            return []
        value = as_object(event.data)
        if value is None:
            log.warning("skipped an event that is not a JSON object: %.120r", event.data)
            return []
        return self._event(as_str(value.get("type")) or event.event, value)

    def body(self, value: dict[str, Any]) -> list[CompletionEvent]:
        if value.get("type") == "error" or value.get("error"):
            raise_error(value.get("error"))
        events: list[CompletionEvent] = []
        for index, block in enumerate(as_list(value.get("content"))):
            events += self._start(index, as_dict(block))
            events += self._stop(index)
        self._end(value)
        self._ending.done = True
        return events

    def close(self) -> list[CompletionEvent]:
        end = self._ending.close(has_calls=bool(self._calls), calls_complete=self._calls.complete)
        usage: list[CompletionEvent] = [Usage(self._stats())] if self._usage else []
        return [*self._calls.close(), *end, *usage]

    def _stats(self) -> UsageStats:
        cache_read = self._usage.get("cache_read", 0)
        cache_write = self._usage.get("cache_write", 0)
        prompt = self._usage.get("input", 0) + cache_read + cache_write
        return UsageStats(prompt, self._usage.get("output", 0), cache_read, cache_write)

    def _event(self, kind: str, value: dict[str, Any]) -> list[CompletionEvent]:
        match kind:
            case "message_start":
                self._end(as_dict(value.get("message")))
            case "content_block_start":
                return self._start(value.get("index"), as_dict(value.get("content_block")))
            case "content_block_delta":
                return self._delta(value.get("index"), as_dict(value.get("delta")))
            case "content_block_stop":
                return self._stop(value.get("index"))
            case "message_delta":
                self._end({**as_dict(value.get("delta")), "usage": value.get("usage")})
            case "message_stop":
                self._ending.done = True
            case "error":
                raise_error(value.get("error") or value)
        return []

    def _start(self, index: Any, block: dict[str, Any]) -> list[CompletionEvent]:
        match block.get("type"):
            case "text":
                return _text(block.get("text"))
            case "thinking":
                self._blocks[index] = {
                    "type": "thinking",
                    "thinking": "",
                    "signature": as_str(block.get("signature")),
                }
                return self._think(index, as_str(block.get("thinking")))
            case "redacted_thinking":
                self._blocks[index] = {"type": "redacted_thinking", "data": block.get("data")}
            case "tool_use":
                # Deltas follow an empty `input`; any other is the whole call.
                whole = json.dumps(block["input"], ensure_ascii=False) if block.get("input") else ""
                return self._calls.fragment(index, as_str(block.get("id")), as_str(block.get("name")), whole)
        return []

    def _delta(self, index: Any, delta: dict[str, Any]) -> list[CompletionEvent]:
        match delta.get("type"):
            case "text_delta":
                return _text(delta.get("text"))
            case "thinking_delta":
                return self._think(index, as_str(delta.get("thinking")))
            case "signature_delta" if index in self._blocks:
                block = self._blocks[index]
                block["signature"] = as_str(block.get("signature")) + as_str(delta.get("signature"))
            case "input_json_delta":
                return self._calls.fragment(index, "", "", delta.get("partial_json"))
        return []

    def _think(self, index: Any, text: str) -> list[CompletionEvent]:
        if not text:
            return []
        block = self._blocks.setdefault(index, {"type": "thinking", "thinking": "", "signature": ""})
        block["thinking"] = as_str(block.get("thinking")) + text
        return [ReasoningDelta(text)]

    def _stop(self, index: Any) -> list[CompletionEvent]:
        block = self._blocks.pop(index, None)
        if block is None:
            return []
        usable = block.get("signature") or block["type"] == "redacted_thinking"
        return [ReasoningState(block if usable else None)]

    def _end(self, value: dict[str, Any]) -> None:
        reason = as_str(value.get("stop_reason"))
        if reason:
            self._ending.reason = _REASONS.get(reason, FinishReason.STOP)
        usage = as_dict(value.get("usage"))
        for name, field in _USAGE_FIELDS.items():
            if isinstance(usage.get(field), int):  # cumulative, so the last value counts
                self._usage[name] = as_int(usage[field])


_USAGE_FIELDS = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cache_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
}


def _text(value: Any) -> list[CompletionEvent]:
    text = as_str(value)
    return [TextDelta(text)] if text else []
