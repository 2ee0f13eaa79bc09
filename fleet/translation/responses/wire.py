"""The body of `POST /v1/responses` as OpenAI documents it.

Unknown fields are ignored. Items are decoded one by one (`ITEMS`, or `MESSAGES` for an item without a type),
because a message may omit its type. What belongs to a tool of OpenAI's has no struct here and is refused by
name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class InputText(msgspec.Struct, tag="input_text"):
    text: str


class OutputText(msgspec.Struct, tag="output_text"):
    text: str


class PlainText(msgspec.Struct, tag="text"):
    text: str


class Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class InputImage(msgspec.Struct, tag="input_image"):
    image_url: NonEmpty  # an image with only a `file_id` would need a store
    detail: str | None = None


Part = InputText | OutputText | PlainText | Refusal | InputImage


class UntypedMessage(msgspec.Struct):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]


class Message(UntypedMessage, tag="message"):
    pass


class FunctionCall(msgspec.Struct, tag="function_call"):
    call_id: NonEmpty
    name: NonEmpty
    arguments: str
    namespace: str | None = None


class CustomToolCall(msgspec.Struct, tag="custom_tool_call"):
    call_id: NonEmpty
    name: NonEmpty
    input: str
    namespace: str | None = None


class FunctionCallOutput(msgspec.Struct, tag="function_call_output"):
    call_id: NonEmpty
    output: str | list[Part]


class CustomToolCallOutput(msgspec.Struct, tag="custom_tool_call_output"):
    call_id: NonEmpty
    output: str | list[Part]


class SummaryText(msgspec.Struct, tag="summary_text"):
    text: str


class ReasoningText(msgspec.Struct, tag="reasoning_text"):
    text: str


class Reasoning(msgspec.Struct, tag="reasoning"):
    summary: list[SummaryText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class ItemReference(msgspec.Struct, tag="item_reference"):
    id: NonEmpty


class Compaction(msgspec.Struct, tag="compaction"):
    encrypted_content: NonEmpty


Item = (
    Message
    | FunctionCall
    | FunctionCallOutput
    | CustomToolCall
    | CustomToolCallOutput
    | Reasoning
    | ItemReference
    | Compaction
)

ITEMS: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
MESSAGES = msgspec.json.Decoder(UntypedMessage)


class Kind(msgspec.Struct):
    """An item's type and id."""

    type: str | None = None
    id: str | None = None
    role: Any = None

    @property
    def is_reference(self) -> bool:
        return self.type == "item_reference" or (self.type is None and self.role is None)


KINDS = msgspec.json.Decoder(Kind)


class CustomFormat(msgspec.Struct):
    type: str | None = "text"
    syntax: str | None = None
    definition: str | None = None

    def __post_init__(self) -> None:
        self.type = self.type or "text"


class Tool(msgspec.Struct):
    type: NonEmpty
    name: str | None = None
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    format: CustomFormat | None = None  # of a custom tool
    tools: list[Tool] | None = None  # of a namespace


class AllowedTool(msgspec.Struct):
    type: str
    name: NonEmpty


class ToolChoice(msgspec.Struct):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None  # of allowed tools
    tools: list[AllowedTool] | None = None


class Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    description: str | None = None


class TextConfig(msgspec.Struct):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None


class ResponsesBody(msgspec.Struct):
    model: NonEmpty
    input: str | list[msgspec.Raw] | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    top_logprobs: int | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None  # is looked up before the body is translated
    include: list[str] | None = None
    prompt: Any = None
    moderation: Any = None


# Documented fields without an effect on the models here.
TOLERATED = frozenset(
    [
        "access_programs",
        "background_options",
        "client_metadata",
        "context_management",
        "image",
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "truncation",
    ]
)
# The same of objects within, after their types; docs/dialects.md says why of each.
TOLERATED_WITHIN = frozenset(
    {
        "compaction.id",
        "custom_tool_call.async",
        "custom_tool_call.caller",
        "custom_tool_call.id",
        "custom_tool_call_output.caller",
        "custom_tool_call_output.id",
        "function_call.async",
        "function_call.caller",
        "function_call.id",
        "function_call.status",
        "function_call_output.caller",
        "function_call_output.id",
        "function_call_output.name",
        "function_call_output.namespace",
        "function_call_output.status",
        "input_image.file_id",
        "input_image.prompt_cache_breakpoint",
        "input_text.prompt_cache_breakpoint",
        "message.id",
        "message.phase",
        "message.status",
        "output_text.annotations",
        "output_text.logprobs",
        "reasoning.context",
        "reasoning.generate_summary",
        "reasoning.id",
        "reasoning.mode",
        "reasoning.status",
        "tools.allowed_callers",
        "tools.async",
        "tools.defer_loading",
        "tools.output_schema",
        "tools.tools.allowed_callers",
        "tools.tools.async",
        "tools.tools.defer_loading",
        "tools.tools.output_schema",
    }
)
