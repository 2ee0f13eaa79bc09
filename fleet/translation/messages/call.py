# cython: language_level=3, annotation_typing=False
"""A Messages request as a chat request: everything except the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cortex_site.base.unread import UnreadFields
from fleet.translation.messages.attribution import is_attributed
from fleet.translation.messages.conversation import chat_messages
from fleet.translation.messages.wire import (
    TOLERATED,
    TOLERATED_WITHIN,
    AssistantTurn,
    CountBody,
    MessagesBody,
    OutputConfig,
    OutputFormat,
    Tool,
    ToolChoice,
    Turn,
)
from fleet.translation.validation import (
    decode_body,
    is_given,
    reject,
    require_object,
    require_object_schema,
    require_tool_name,
)
from neuron.wire import ApiError

Json = dict[str, Any]

_bodies = msgspec.json.Decoder(MessagesBody)
_counts = msgspec.json.Decoder(CountBody)

_UNREAD = UnreadFields(MessagesBody, TOLERATED | TOLERATED_WITHIN)
# On this code Anthropic's SDK sends the whole conversation again, and no thread from then on.
_NO_THREADS = "No message threads are kept here; send the whole conversation as `messages`."


class ChatCall(msgspec.Struct, frozen=True):
    """A request in the upstream's dialect, with the facts that the gateway needs.

    `max_tokens` is 0 where the request only counts tokens, or asks for no answer: chat knows no such request,
    so the body asks for one token, to be dropped. `unknown_fields` are the top-level fields of the client's
    body that this version does not know. `attributed` says whether the system prompt began with an
    attribution line, which the chat body is without.
    """

    body: bytes
    model: str
    stream: bool
    max_tokens: int
    unknown_fields: tuple[str, ...] = ()
    attributed: bool = False


def to_chat(body: bytes) -> ChatCall:
    """The equivalent chat request. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_bodies, body)
    chat, stream = _prompt(asked), bool(asked.stream)
    chat |= {"max_tokens": max(asked.max_tokens, 1), "stream": stream} | _sampling(asked)
    if stream:
        chat["stream_options"] = {"include_usage": True}
    return _call(asked, chat, body, stream=stream, max_tokens=asked.max_tokens)


def to_count(body: bytes) -> ChatCall:
    """The chat request whose prompt counts the same. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_counts, body)
    return _call(asked, _prompt(asked), body, stream=False, max_tokens=0)


def _call(asked: CountBody, chat: Json, body: bytes, *, stream: bool, max_tokens: int) -> ChatCall:
    return ChatCall(
        msgspec.json.encode(chat),
        asked.model,
        stream,
        max_tokens,
        _UNREAD.of(body),
        is_attributed(asked.system),
    )


def _prompt(asked: CountBody) -> Json:
    """The fields that make the model's prompt."""
    if asked.mcp_servers:
        reject("mcp_servers", "MCP servers are not connected to from here; offer their tools in `tools`.")
    if asked.compaction is not None:
        reject("compaction", "Conversations are not compacted here; ask for a summary in `messages`.")
    if asked.thread is not None:
        raise ApiError(400, "thread_unsupported_request", _NO_THREADS, param="thread")
    system = asked.system[1:] if is_attributed(asked.system) and asked.system else asked.system
    messages = chat_messages(system, asked.messages)
    prompt: Json = {"model": asked.model, "messages": messages}
    if asked.tools or asked.tool_choice:
        prompt |= _tooling(asked)
    if asked.thinking:
        prompt["chat_template_kwargs"] = {"enable_thinking": asked.thinking.type != "disabled"}
    if asked.output_config or asked.output_format:
        prompt |= _output(asked.output_config or OutputConfig(), asked.output_format)
    if _is_prefill(asked.messages[-1], messages[-1]):
        if "response_format" in prompt:
            reject("output_config.format", "This holds for a whole answer; the last turn has begun one.")
        prompt |= {"add_generation_prompt": False, "continue_final_message": True}
    return prompt


def _sampling(asked: MessagesBody) -> Json:
    fields = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "stop": asked.stop_sequences or None,
        "user": asked.metadata.user_id if asked.metadata else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _output(config: OutputConfig, beta: OutputFormat | None) -> Json:
    fields: Json = {}
    if config.effort:
        fields["reasoning_effort"] = config.effort
    if config.format and beta:
        reject("output_format", "`output_config.format` says the same; send one of them.")
    if asked := config.format or beta:
        param = "output_config.format.schema" if config.format else "output_format.schema"
        schema = require_object(asked.schema, param)
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": True},
        }
    return fields


def _is_prefill(turn: Turn, message: Json) -> bool:
    """Whether the last turn, which is part of the last message, is the beginning of the answer."""
    return isinstance(turn, AssistantTurn) and "tool_calls" not in message


def _tooling(asked: CountBody) -> Json:
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(asked.tools or ())]
    names = _names(asked.tools or ())
    fields: Json = {"tools": tools} if tools else {}
    choice = asked.tool_choice
    if choice is None:
        return fields
    fields["tool_choice"] = _choice(choice, names)
    if choice.disable_parallel_tool_use is not None:
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields if tools else {}


def _choice(choice: ToolChoice, names: set[str]) -> str | Json:
    match choice.type:
        case "auto" | "none":
            return choice.type
        case "any" if names:
            return "required"
        case "any":
            reject("tool_choice", "A tool is to be called, but `tools` offers none.")
    if choice.name is None or choice.name not in names:
        reject("tool_choice.name", "This must be the name of one of `tools`.")
    return {"type": "function", "function": {"name": choice.name}}


def _tool(tool: Tool, path: str) -> Json:
    if tool.function is not None:
        require_tool_name(tool.function.name, f"{path}.function.name")
        return {"type": "function", "function": tool.function}
    if tool.type not in {None, "custom"}:
        reject(f"{path}.type", f"{tool.type!r} is run by Anthropic; only a client's own tools work here.")
    if not tool.name:
        reject(f"{path}.name", "This field is required.")
    if not is_given(tool.input_schema):
        reject(f"{path}.input_schema", "This field is required.")
    function: Json = {"name": require_tool_name(tool.name, f"{path}.name")}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    function["parameters"] = require_object_schema(tool.input_schema, f"{path}.input_schema")
    return {"type": "function", "function": function}


def _names(tools: Sequence[Tool]) -> set[str]:
    """The names that `tool_choice` may use. Raises `ApiError` 400 where two tools share one."""
    names: set[str] = set()
    for number, tool in enumerate(tools):
        name = tool.function.name if tool.function else tool.name
        if name in names:
            reject(f"tools[{number}].name", f"{name!r} is declared twice.")
        names.add(name)
    return names
