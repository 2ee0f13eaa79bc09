"""The body of `POST /v1/messages` as Anthropic documents it.

Unknown fields are ignored (`cache_control`, `service_tier`, future ones). An unknown block type is an error,
because dropping part of a conversation changes the question. `Raw` keeps JSON as the client wrote it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
MAX_STOPS = 16  # a node's


class Text(msgspec.Struct, tag="text"):
    text: str


class Base64Source(msgspec.Struct, tag="base64"):
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: NonEmpty


class UrlSource(msgspec.Struct, tag="url"):
    url: NonEmpty


class TextSource(msgspec.Struct, tag="text"):
    data: str


class Image(msgspec.Struct, tag="image"):
    source: Base64Source | UrlSource


class ContentSource(msgspec.Struct, tag="content"):
    content: str | list[Text | Image]


class Document(msgspec.Struct, tag="document"):
    source: TextSource | ContentSource
    title: str | None = None
    context: str | None = None


class SearchResult(msgspec.Struct, tag="search_result"):
    source: str
    title: str
    content: list[Text]


Part = Text | Image | Document | SearchResult


class ToolReference(msgspec.Struct, tag="tool_reference"):
    """The name of a tool that the client's own search found; `tools` has its definition."""

    tool_name: NonEmpty


class ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: NonEmpty
    content: str | list[Part | ToolReference] | None = None
    is_error: bool | None = None


class ToolUse(msgspec.Struct, tag="tool_use"):
    id: NonEmpty
    name: NonEmpty
    input: msgspec.Raw


class Thinking(msgspec.Struct, tag="thinking"):
    thinking: str
    signature: str | None = None


class RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    data: str


class UserTurn(msgspec.Struct, tag_field="role", tag="user"):
    content: str | list[Text | Image | Document | SearchResult | ToolResult]


class AssistantTurn(msgspec.Struct, tag_field="role", tag="assistant"):
    content: str | list[Text | Thinking | RedactedThinking | ToolUse]


class SystemTurn(msgspec.Struct, tag_field="role", tag="system"):
    content: str | list[Text]
    clear_at: Literal["never"] | None = None


Turn = UserTurn | AssistantTurn | SystemTurn


class Function(msgspec.Struct, omit_defaults=True):
    """A function in OpenAI's shape."""

    name: NonEmpty
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool that the client runs. Anthropic's own (`web_search_…`) have no schema and are refused."""

    name: NonEmpty = ""
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    type: str | None = None
    function: Function | None = None  # some clients send tools in OpenAI's shape


class ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSwitch(msgspec.Struct):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class Metadata(msgspec.Struct):
    user_id: str | None = None


class OutputFormat(msgspec.Struct):
    type: Literal["json_schema"]
    schema: msgspec.Raw


class OutputConfig(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountBody(msgspec.Struct, kw_only=True):
    """The body of `POST /v1/messages/count_tokens`: the fields of a prompt."""

    model: NonEmpty
    messages: Annotated[list[Turn], msgspec.Meta(min_length=1)]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: ThinkingSwitch | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the beta's name of output_config.format
    mcp_servers: list[Any] | None = None
    thread: Any = None
    compaction: Any = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: Annotated[int, msgspec.Meta(ge=0)]
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stop_sequences: Annotated[list[NonEmpty], msgspec.Meta(max_length=MAX_STOPS)] | None = None
    metadata: Metadata | None = None


# Documented fields without an effect on the models here.
TOLERATED = frozenset(
    {
        "billing_policy",
        "cache_control",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "service_tier",
        "speed",
    }
)
# The same of objects within, after their types; docs/dialects.md says why of each.
TOLERATED_WITHIN = frozenset(
    {
        "document.cache_control",
        "document.citations",
        "image.cache_control",
        "image.transformations",
        "output_config.task_budget",
        "search_result.cache_control",
        "search_result.citations",
        "system.output_config",
        "text.cache_control",
        "text.citations",
        "text.media_type",
        "thinking.block_binding",
        "thinking.budget_tokens",
        "thinking.display",
        "tool_reference.cache_control",
        "tool_result.cache_control",
        "tool_result.toolset_name",
        "tool_use.cache_control",
        "tool_use.caller",
        "tool_use.toolset_name",
        "tools.allowed_callers",
        "tools.cache_control",
        "tools.defer_loading",
        "tools.eager_input_streaming",
        "tools.input_examples",
    }
)
