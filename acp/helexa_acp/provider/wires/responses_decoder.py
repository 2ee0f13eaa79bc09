"""OpenAI Responses: decoding.

Text and arguments may come as deltas, whole in `.done`, only in `output_item.done`, or only in the final
response; each of these adds what the ones before it left out. Items are identified by output index if there
is one, else by item id.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import Any

from helexa_acp.provider.lenient_json import as_dict, as_int, as_list, as_object, as_str
from helexa_acp.provider.sse import SseEvent
from helexa_acp.provider.types import (
    CompletionEvent,
    FinishReason,
    ReasoningDelta,
    ReasoningState,
    TextDelta,
    UsageStats,
)
from helexa_acp.provider.wires.adapter import Ending, raise_error
from helexa_acp.provider.wires.call_assembler import CallAssembler

log = logging.getLogger(__name__)


class ResponsesDecoder:
    def __init__(self) -> None:
        self._calls = CallAssembler()
        self._ending = Ending()
        self._index_of_id: dict[str, Hashable] = {}
        self._emitted: dict[Hashable, str] = {}
        self._closed_reasoning: set[Hashable] = set()
        self._refused = False

    def feed(self, event: SseEvent) -> list[CompletionEvent]:
        if event.data.strip() == "[DONE]":
            self._ending.done = True
            return []
        value = as_object(event.data)
        if value is None:
            log.warning("skipped an event that is not a JSON object: %.120r", event.data)
            return []
        return self._event(as_str(value.get("type")) or event.event, value)

    def body(self, value: dict[str, Any]) -> list[CompletionEvent]:
        if value.get("error"):
            raise_error(value["error"])
        return self._final(value)

    def close(self) -> list[CompletionEvent]:
        if self._refused:
            self._ending.reason = FinishReason.REFUSAL
        end = self._ending.close(has_calls=bool(self._calls), calls_complete=self._calls.complete)
        return [*self._calls.close(), *end]

    def _event(self, kind: str, value: dict[str, Any]) -> list[CompletionEvent]:
        match kind.removeprefix("response."):
            case "output_text.delta" | "refusal.delta" as name:
                self._refused = self._refused or name.startswith("refusal")
                return self._text(self._part_key(value), as_str(value.get("delta")))
            case "output_text.done" | "refusal.done" as name:
                self._refused = self._refused or name.startswith("refusal")
                return self._rest(self._part_key(value), as_str(value.get("text") or value.get("refusal")))
            case "reasoning_text.delta" | "reasoning_summary_text.delta":
                return self._thought(self._key(value), as_str(value.get("delta")))
            case "function_call_arguments.delta":
                return self._calls.fragment(self._key(value), "", "", value.get("delta"))
            case "function_call_arguments.done":
                return self._calls.finish_arguments(self._key(value), as_str(value.get("arguments")))
            case "output_item.added":
                item = as_dict(value.get("item"))
                if item.get("type") == "function_call":
                    return self._call(self._key(value, item), item)
            case "output_item.done":
                item = as_dict(value.get("item"))
                return self._item(self._key(value, item), item)
            case "completed" | "incomplete":
                return self._final(as_dict(value.get("response")))
            case "failed" | "error":
                response = as_dict(value.get("response"))
                raise_error(response.get("error") or value.get("error") or value)
        return []

    def _key(self, value: dict[str, Any], item: dict[str, Any] | None = None) -> Hashable:
        id_ = as_str(value.get("item_id")) or as_str((item or {}).get("id"))
        index = value.get("output_index")
        if isinstance(index, int):
            if id_:
                self._index_of_id[id_] = index
            return index
        return self._index_of_id.get(id_, id_)

    def _part_key(self, value: dict[str, Any]) -> Hashable:
        return (self._key(value), value.get("content_index") or 0)

    def _text(self, key: Hashable, delta: str) -> list[CompletionEvent]:
        if not delta:
            return []
        self._emitted[key] = self._emitted.get(key, "") + delta
        return [TextDelta(delta)]

    def _rest(self, key: Hashable, whole: str) -> list[CompletionEvent]:
        shown = self._emitted.get(key, "")
        return self._text(key, whole[len(shown) :]) if whole.startswith(shown) else []

    def _thought(self, key: Hashable, delta: str) -> list[CompletionEvent]:
        key = ("thought", key)
        self._emitted[key] = self._emitted.get(key, "") + delta
        return [ReasoningDelta(delta)] if delta else []

    def _item(self, key: Hashable, item: dict[str, Any]) -> list[CompletionEvent]:
        match item.get("type"):
            case "function_call":
                return self._call(key, item)
            case "message":
                parts = [as_dict(part) for part in as_list(item.get("content"))]
                self._refused = self._refused or any(part.get("type") == "refusal" for part in parts)
                return [
                    event
                    for place, part in enumerate(parts)
                    for event in self._rest((key, place), as_str(part.get("text") or part.get("refusal")))
                ]
            case "reasoning":
                return self._reasoning(key, item)
        return []

    def _reasoning(self, key: Hashable, item: dict[str, Any]) -> list[CompletionEvent]:
        if key in self._closed_reasoning:
            return []
        self._closed_reasoning.add(key)
        parts = [*as_list(item.get("summary")), *as_list(item.get("content"))]
        whole = "\n\n".join(filter(None, (as_str(as_dict(part).get("text")) for part in parts)))
        shown = self._emitted.get(("thought", key), "")
        events = [] if shown else self._thought(key, whole)
        # An item of a response that was not stored can be sent again only with its encrypted content.
        state = {name: item[name] for name in ("type", "id", "summary", "encrypted_content") if name in item}
        return [*events, ReasoningState(state if item.get("encrypted_content") else None)]

    def _call(self, key: Hashable, item: dict[str, Any]) -> list[CompletionEvent]:
        if self._calls.knows(key):
            return self._calls.finish_arguments(key, as_str(item.get("arguments")))
        id_ = as_str(item.get("call_id")) or as_str(item.get("id"))
        return self._calls.fragment(key, id_, as_str(item.get("name")), item.get("arguments"))

    def _final(self, response: dict[str, Any]) -> list[CompletionEvent]:
        if response.get("status") == "failed" or response.get("error"):
            raise_error(response.get("error") or "the response failed")
        events: list[CompletionEvent] = []
        for index, item in enumerate(map(as_dict, as_list(response.get("output")))):
            key = self._index_of_id.get(as_str(item.get("id")), index)
            events += self._item(key, item)
        self._ending.done = True
        self._ending.reason = _reason(response)
        usage = as_dict(response.get("usage"))
        if usage:
            cached = as_int(as_dict(usage.get("input_tokens_details")).get("cached_tokens"))
            self._ending.usage = UsageStats(
                as_int(usage.get("input_tokens")), as_int(usage.get("output_tokens")), cached
            )
        return events


def _reason(response: dict[str, Any]) -> FinishReason:
    if response.get("status") != "incomplete":
        return FinishReason.STOP
    why = as_dict(response.get("incomplete_details")).get("reason")
    return FinishReason.REFUSAL if why == "content_filter" else FinishReason.LENGTH
