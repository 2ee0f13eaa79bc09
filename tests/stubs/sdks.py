"""The ways in which the official SDKs ask, and what they make of the answers.

Each function asks the same four times (synchronously and not, whole and streamed) and gives what the SDK
gathered, without the names and times that differ between two calls.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import openai

Answer = dict[str, Any]


def openai_sdks(api: str) -> tuple[openai.OpenAI, openai.AsyncOpenAI]:
    options: Any = {"base_url": f"{api}/v1", "api_key": "none", "max_retries": 0}
    return openai.OpenAI(**options), openai.AsyncOpenAI(**options)


def anthropic_sdks(api: str) -> tuple[anthropic.Anthropic, anthropic.AsyncAnthropic]:
    options: Any = {"base_url": api, "api_key": "none", "max_retries": 0}
    return anthropic.Anthropic(**options), anthropic.AsyncAnthropic(**options)


async def chat(api: str, **ask) -> list[Answer]:
    sync, client = openai_sdks(api)

    def synchronously():
        with sync, sync.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
            return [sync.chat.completions.create(**ask), stream.get_final_completion()]

    found = await asyncio.to_thread(synchronously)
    async with client:
        found.append(await client.chat.completions.create(**ask))
        async with client.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
            found.append(await stream.get_final_completion())
    return [_chat(completion) for completion in found]


def _chat(completion) -> Answer:
    (choice,) = completion.choices
    calls = choice.message.tool_calls or []
    return {
        "reasoning": getattr(choice.message, "reasoning_content", None),
        "text": choice.message.content or "",
        "calls": [(call.function.name, json.loads(call.function.arguments)) for call in calls],
        "finish": choice.finish_reason,
        "tokens": completion.usage.total_tokens,
    }


async def messages(api: str, **ask) -> list[Answer]:
    sync, client = anthropic_sdks(api)

    def synchronously():
        with sync, sync.messages.stream(**ask) as stream:
            return [sync.messages.create(**ask), stream.get_final_message()]

    found = await asyncio.to_thread(synchronously)
    async with client:
        found.append(await client.messages.create(**ask))
        async with client.messages.stream(**ask) as stream:
            found.append(await stream.get_final_message())
    return [_message(message) for message in found]


def _message(message) -> Answer:
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    usage = message.usage
    return {
        "content": [
            {name: block[name] for name in block if name not in {"id", "caller"}} for block in blocks
        ],
        "stop": (message.stop_reason, message.stop_sequence),
        "tokens": (usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens),
    }


async def responses(api: str, **ask) -> list[Answer]:
    sync, client = openai_sdks(api)

    def synchronously():
        with sync, sync.responses.stream(**ask) as stream:
            return [sync.responses.create(**ask), stream.get_final_response()]

    found = await asyncio.to_thread(synchronously)
    async with client:
        found.append(await client.responses.create(**ask))
        async with client.responses.stream(**ask) as stream:
            found.append(await stream.get_final_response())
    return [_response(response) for response in found]


def _response(response) -> Answer:
    names = {"id", "call_id", "parsed", "parsed_arguments"}
    items = [item.model_dump(mode="json", exclude_none=True) for item in response.output]
    return {
        "output": [_without(item, names) for item in items],
        "status": response.status,
        "tokens": response.usage.total_tokens,
    }


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, names) for name, inner in value.items() if name not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value
