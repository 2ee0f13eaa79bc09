"""Anthropic messages: encoding (docs.anthropic.com/en/api/messages)."""

from __future__ import annotations

from typing import Any

from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.tool_arguments import BadArgumentsError, parse_arguments
from helexa_acp.provider.types import CompletionRequest, ImagePart, Message, Role, TextPart, ToolSpec
from helexa_acp.provider.wires.adapter import EncodedRequest
from helexa_acp.provider.wires.anthropic_decoder import AnthropicDecoder
from helexa_acp.provider.wires.history import normalise, own_reasoning, tool_loop_start

DEFAULT_MAX_TOKENS = 8192
THINKING_MAX_TOKENS = 16384  # the default if thinking counts towards max_tokens
MIN_THINKING_BUDGET = 1024

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 6144, "high": 12288, "xhigh": 16384, "max": 24576}
_CACHED = {"type": "ephemeral"}


class AnthropicAdapter:
    wire = "anthropic-messages"

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"anthropic-version": "2023-06-01", **({"x-api-key": api_key} if api_key else {})}

    def encode(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> EncodedRequest:
        body = self._prompt(request, quirks, model_tag)
        options = _options(request, quirks, thinking=_may_think(body["messages"]))
        return EncodedRequest("messages", {**body, "stream": quirks.stream, **options})

    def decoder(self, *, text_tools: bool = False) -> AnthropicDecoder:
        del text_tools  # servers of this wire parse calls themselves
        return AnthropicDecoder()

    def encode_count(
        self, request: CompletionRequest, quirks: Quirks, model_tag: str
    ) -> EncodedRequest | None:
        return EncodedRequest("messages/count_tokens", self._prompt(request, quirks, model_tag))

    def _prompt(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> dict[str, Any]:
        messages = normalise(request.messages, quirks)
        body: dict[str, Any] = {"model": request.model, "messages": self._messages(messages, model_tag)}
        if system := next((m.text for m in messages if m.role is Role.SYSTEM), ""):
            body["system"] = [{"type": "text", "text": system}] if quirks.cache_control else system
        if request.tools and quirks.tools:
            body["tools"] = [_tool(spec) for spec in request.tools]
        if quirks.cache_control:
            _mark_cache(body)
        return body

    def _messages(self, messages: list[Message], model_tag: str) -> list[dict[str, Any]]:
        loop = tool_loop_start(messages)
        wire: list[dict[str, Any]] = []
        for position, message in enumerate(messages):
            if message.role is Role.SYSTEM:
                continue
            blocks = self._blocks(message, model_tag, in_loop=position >= loop)
            role = "assistant" if message.role is Role.ASSISTANT else "user"
            if wire and wire[-1]["role"] == role:  # all results of a round share one user turn
                wire[-1]["content"] += blocks
            else:
                wire.append({"role": role, "content": blocks})
        return wire

    def _blocks(self, message: Message, model_tag: str, *, in_loop: bool) -> list[dict[str, Any]]:
        if message.role is Role.TOOL:
            content = [_block(part) for part in message.parts if isinstance(part, TextPart | ImagePart)]
            result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}
            return [{**result, "is_error": True} if message.is_error else result]
        blocks: list[dict[str, Any]] = []
        if in_loop:
            blocks += [part.state for part in own_reasoning(message, self.wire, model_tag) if part.state]
        blocks += [_block(part) for part in message.parts if isinstance(part, TextPart | ImagePart)]
        for call in message.calls:
            blocks.append(
                {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
            )
        return blocks


def _block(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image", "source": {"type": "base64", "media_type": part.mime_type, "data": part.data}}


def _input(arguments: str) -> dict[str, Any]:
    """Return the arguments as the object that the wire wants.

    Arguments that do not parse have been answered with an error; the model still sees what it wrote.
    """
    try:
        return parse_arguments(arguments)
    except BadArgumentsError:
        return {"malformed": arguments[:2000]}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    return {"name": spec.name, "description": spec.description, "input_schema": spec.parameters}


def _mark_cache(body: dict[str, Any]) -> None:
    """Set the four cache marks that a request may have: on tools, system, and the last two user turns."""
    ends = [body[name][-1] for name in ("tools", "system") if body.get(name)]
    users = [turn for turn in body["messages"] if turn["role"] == "user" and turn["content"]]
    ends += [turn["content"][-1] for turn in users[-2:]]
    for block in ends:
        block["cache_control"] = _CACHED


def _may_think(turns: list[dict[str, Any]]) -> bool:
    """Return whether thinking can be enabled.

    Within a tool loop the wire demands the loop's thinking blocks, so a loop that began without continues
    without.
    """
    last = turns[-1]["content"] if turns else []
    if not any(block["type"] == "tool_result" for block in last):
        return True
    previous = turns[-2]["content"] if len(turns) > 1 else []
    return bool(previous) and previous[0]["type"] in {"thinking", "redacted_thinking"}


def _options(request: CompletionRequest, quirks: Quirks, *, thinking: bool) -> dict[str, Any]:
    wants_thought = bool(request.effort) and quirks.effort and thinking
    max_tokens = request.max_tokens or (THINKING_MAX_TOKENS if wants_thought else DEFAULT_MAX_TOKENS)
    options: dict[str, Any] = {"max_tokens": max_tokens}
    if wants_thought and quirks.thinking == "adaptive":
        return {**options, "thinking": {"type": "adaptive"}, "output_config": {"effort": request.effort}}
    budget = min(_BUDGETS.get(request.effort or "", 6144), max_tokens - MIN_THINKING_BUDGET)
    if wants_thought and budget >= MIN_THINKING_BUDGET:
        return {**options, "thinking": {"type": "enabled", "budget_tokens": budget}}
    if quirks.sampling and request.temperature is not None:
        options["temperature"] = request.temperature
    if quirks.sampling and request.top_p is not None:
        options["top_p"] = request.top_p
    return options
