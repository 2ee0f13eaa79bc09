"""OpenAI Responses: encoding, without state on the server."""

from __future__ import annotations

from typing import Any

from helexa_acp.provider.quirks import Quirks
from helexa_acp.provider.types import CompletionRequest, ImagePart, Message, Role, TextPart, ToolSpec
from helexa_acp.provider.wires.adapter import EncodedRequest
from helexa_acp.provider.wires.history import normalise, own_reasoning
from helexa_acp.provider.wires.responses_decoder import ResponsesDecoder


class ResponsesAdapter:
    wire = "openai-responses"

    def headers(self, api_key: str | None) -> dict[str, str]:
        return {"authorization": f"Bearer {api_key}"} if api_key else {}

    def encode(self, request: CompletionRequest, quirks: Quirks, model_tag: str) -> EncodedRequest:
        messages = normalise(request.messages, quirks)
        body: dict[str, Any] = {
            "model": request.model,
            "input": [item for m in messages for item in self._items(m, model_tag)],
            "stream": quirks.stream,
            "store": False,
        }
        if system := next((m.text for m in messages if m.role is Role.SYSTEM), ""):
            body["instructions"] = system
        if request.tools and quirks.tools:
            body["tools"] = [_tool(spec) for spec in request.tools]
        if quirks.encrypted_reasoning:
            body["include"] = ["reasoning.encrypted_content"]
        return EncodedRequest("responses", {**body, **_options(request, quirks)})

    def decoder(self, *, text_tools: bool = False) -> ResponsesDecoder:
        del text_tools  # servers of this wire parse calls themselves
        return ResponsesDecoder()

    def encode_count(
        self, request: CompletionRequest, quirks: Quirks, model_tag: str
    ) -> EncodedRequest | None:
        del request, quirks, model_tag
        return None

    def _items(self, message: Message, model_tag: str) -> list[dict[str, Any]]:
        match message.role:
            case Role.SYSTEM:
                return []
            case Role.USER:
                return [
                    {"type": "message", "role": "user", "content": [_input(part) for part in message.parts]}
                ]
            case Role.TOOL:
                return [_result(message)]
        items: list[dict[str, Any]] = [
            part.state for part in own_reasoning(message, self.wire, model_tag) if part.state
        ]
        if message.text:
            content = [{"type": "output_text", "text": message.text}]
            items.append({"type": "message", "role": "assistant", "content": content})
        items += [
            {
                "type": "function_call",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments or "{}",
            }
            for call in message.calls
        ]
        return items


def _input(part: Any) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "input_image", "image_url": f"data:{part.mime_type};base64,{part.data}"}
    return {"type": "input_text", "text": part.text}


def _result(message: Message) -> dict[str, Any]:
    images = any(isinstance(part, ImagePart) for part in message.parts)
    parts = [part for part in message.parts if isinstance(part, TextPart | ImagePart)]
    output: Any = [_input(part) for part in parts] if images else message.text
    return {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    return {
        "type": "function",
        "name": spec.name,
        "description": spec.description,
        "parameters": spec.parameters,
        "strict": False,
    }


def _options(request: CompletionRequest, quirks: Quirks) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.max_tokens is not None:
        options["max_output_tokens"] = request.max_tokens
    if quirks.sampling and request.temperature is not None:
        options["temperature"] = request.temperature
    if quirks.sampling and request.top_p is not None:
        options["top_p"] = request.top_p
    if quirks.effort and request.effort:
        options["reasoning"] = {"effort": request.effort, "summary": "auto"}
    return options
