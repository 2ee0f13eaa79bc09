"""The adapter for each `wire_api` that is spoken over HTTP."""

from __future__ import annotations

from helexa_acp.provider.wires.adapter import Adapter
from helexa_acp.provider.wires.anthropic import AnthropicAdapter
from helexa_acp.provider.wires.chat import ChatAdapter
from helexa_acp.provider.wires.responses import ResponsesAdapter

ADAPTERS: dict[str, type[Adapter]] = {
    "openai-chat": ChatAdapter,
    "openai-responses": ResponsesAdapter,
    "anthropic-messages": AnthropicAdapter,
}
