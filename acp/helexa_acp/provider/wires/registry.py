"""Which adapter speaks which `wire_api`."""

from __future__ import annotations

from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.http import HttpProvider
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.provider.wires.adapter import Adapter
from helexa_acp.provider.wires.anthropic import AnthropicAdapter
from helexa_acp.provider.wires.chat import ChatAdapter
from helexa_acp.provider.wires.responses import ResponsesAdapter

ADAPTERS: dict[str, type[Adapter]] = {
    "openai-chat": ChatAdapter,
    "openai-responses": ResponsesAdapter,
    "anthropic-messages": AnthropicAdapter,
}


def http_provider(endpoint: Endpoint, book: QuirkBook) -> HttpProvider:
    return HttpProvider(endpoint, ADAPTERS[endpoint.wire_api](), book)
