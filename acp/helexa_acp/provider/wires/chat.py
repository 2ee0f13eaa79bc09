"""OpenAI chat completions: encoding, for OpenAI, vLLM, llama.cpp, Ollama, LM Studio, Mistral, OpenRouter and
cortex."""

from __future__ import annotations

from typing import Any

from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.types import CompletionRequest, ImagePart, Message, Role, TextPart, ToolSpec
from helexa_acp.provider.wires.adapter import EncodedRequest
from helexa_acp.provider.wires.chat_decoder import ChatDecoder
from helexa_acp.provider.wires.history import normalise, own_reasoning, tool_loop_start
from helexa_acp.provider.wires.markup import describe_tools, render_call


class ChatAdapter:
    wire = "openai-chat"

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {api_key}"} if api_key else {}

    def encode(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> EncodedRequest:
        return EncodedRequest(
            "chat/completions", {**self._prompt(request, quirks, model_tag), **_options(request, quirks)}
        )

    def decoder(self, *, text_tools: bool = False) -> ChatDecoder:
        return ChatDecoder(text_tools=text_tools)

    def encode_count(
        self, request: CompletionRequest, quirks: Quirks, model_tag: str
    ) -> EncodedRequest | None:
        return EncodedRequest("tokenize", self._prompt(request, quirks, model_tag))

    def _prompt(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> dict[str, Any]:
        messages = normalise(request.messages, quirks)
        if quirks.text_tools:
            messages = _calls_as_text(messages, request.tools)
        body: dict[str, Any] = {
            "model": request.model,
            "messages": self._messages(messages, quirks, model_tag),
        }
        if request.tools and quirks.tools and not quirks.text_tools:
            body["tools"] = [_tool(spec) for spec in request.tools]
        return body

    def _messages(self, messages: list[Message], quirks: Quirks, model_tag: str) -> list[dict[str, Any]]:
        loop = tool_loop_start(messages)
        wire: list[dict[str, Any]] = []
        images: list[ImagePart] = []
        for position, message in enumerate(messages):
            if message.role is Role.TOOL:
                images += [part for part in message.parts if isinstance(part, ImagePart)]
                wire.append({"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text})
                continue
            if images:
                wire.append(_user_with(images))
                images = []
            wire.append(self._message(message, quirks, model_tag, in_loop=position >= loop))
        if images:
            wire.append(_user_with(images))
        return wire

    def _message(self, message: Message, quirks: Quirks, model_tag: str, *, in_loop: bool) -> dict[str, Any]:
        if message.role is Role.SYSTEM:
            return {"role": quirks.system_role, "content": message.text}
        if message.role is Role.USER:
            return _user(message.parts)
        thoughts = own_reasoning(message, self.wire, model_tag)
        body: dict[str, Any] = {"role": "assistant", "content": message.text}
        if message.calls:
            body["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments or "{}"},
                }
                for call in message.calls
            ]
        if quirks.reasoning_roundtrip and in_loop:
            body["reasoning_content"] = "".join(part.text for part in thoughts)
        for part in thoughts:
            if part.state:
                body.update(part.state)
        return body


def _user_with(images: list[ImagePart]) -> dict[str, Any]:
    """Return a user message for the images of tool results, which hold only text on this wire."""
    return _user((TextPart("Images from the tool results above:"), *images))


def _user(parts: tuple[Any, ...]) -> dict[str, Any]:
    if all(isinstance(part, TextPart) for part in parts):
        return {"role": "user", "content": "".join(part.text for part in parts)}
    return {
        "role": "user",
        "content": [_part(part) for part in parts if isinstance(part, TextPart | ImagePart)],
    }


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": f"data:{part.mime_type};base64,{part.data}"}}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    function = {"name": spec.name, "description": spec.description, "parameters": spec.parameters}
    return {"type": "function", "function": function}


def _options(request: CompletionRequest, quirks: Quirks) -> dict[str, Any]:
    options: dict[str, Any] = {"stream": quirks.stream}
    if quirks.stream and quirks.stream_options:
        options["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        options[quirks.max_tokens_field] = request.max_tokens
    if quirks.sampling and request.temperature is not None:
        options["temperature"] = request.temperature
    if quirks.sampling and request.top_p is not None:
        options["top_p"] = request.top_p
    if quirks.effort and request.effort:
        options["reasoning_effort"] = request.effort
    return options


def _calls_as_text(messages: list[Message], tools: tuple[ToolSpec, ...]) -> list[Message]:
    """Return the messages with tools described in the system prompt and calls and results as text.

    This is for models whose server does not parse calls.
    """
    rewritten: list[Message] = []
    for message in messages:
        match message.role:
            case Role.SYSTEM:
                rewritten.append(Message.of(Role.SYSTEM, message.text + describe_tools(tools)))
            case Role.TOOL:
                text = f"<tool_response>\n{message.text}\n</tool_response>"
                images = tuple(part for part in message.parts if isinstance(part, ImagePart))
                rewritten.append(Message(Role.USER, (TextPart(text), *images)))
            case Role.ASSISTANT if message.calls:
                rendered = "\n".join([message.text, *map(render_call, message.calls)]).strip()
                rewritten.append(Message.of(Role.ASSISTANT, rendered))
            case _:
                rewritten.append(message)
    return rewritten
