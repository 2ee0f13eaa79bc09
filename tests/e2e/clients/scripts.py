"""Run in the clients' own environment: `python scripts.py CLIENT BASE_URL`. Prints what the client made of
one call with a tool, and of the answer to the tool's result, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

QUESTION = "What is the weather in Oslo?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def langchain(model: Any) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage, ToolMessage

    tool = {"title": "get_weather", "description": "The weather.", **SCHEMA}
    bound = model.bind_tools([tool])
    asked = [HumanMessage(QUESTION)]
    first = bound.invoke(asked)
    call = first.tool_calls[0]
    streamed = None
    for chunk in bound.stream(asked):
        streamed = chunk if streamed is None else streamed + chunk
    last = bound.invoke([*asked, first, ToolMessage("12 degrees", tool_call_id=call["id"])])
    return {
        "name": call["name"],
        "arguments": call["args"],
        "streamed": streamed.tool_calls[0]["args"],
        "text": last.text,
        "tokens": last.usage_metadata["total_tokens"],
    }


def langchain_openai(base_url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    return langchain(ChatOpenAI(model="m", base_url=f"{base_url}/v1", api_key="none", stream_usage=True))


def langchain_responses(base_url: str) -> dict[str, Any]:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="m", base_url=f"{base_url}/v1", api_key="none", use_responses_api=True)
    return langchain(model)


def langchain_anthropic(base_url: str) -> dict[str, Any]:
    from langchain_anthropic import ChatAnthropic

    return langchain(ChatAnthropic(model="m", base_url=base_url, api_key="none", max_tokens=64))


def litellm(model: str, base_url: str) -> dict[str, Any]:
    from litellm import completion, stream_chunk_builder

    function = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
    tools = [{"type": "function", "function": function}]
    asked: list[Any] = [{"role": "user", "content": QUESTION}]
    ask = {"model": model, "api_base": base_url, "api_key": "none", "tools": tools, "max_tokens": 64}
    first = completion(messages=asked, **ask).choices[0].message
    call = first.tool_calls[0]
    whole = stream_chunk_builder(list(completion(messages=asked, stream=True, **ask)))
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
    last = completion(messages=[*asked, first.model_dump(), result], **ask)
    return {
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "streamed": json.loads(whole.choices[0].message.tool_calls[0].function.arguments),
        "text": last.choices[0].message.content,
        "tokens": last.usage.total_tokens,
    }


CLIENTS = {
    "langchain-openai": langchain_openai,
    "langchain-responses": langchain_responses,
    "langchain-anthropic": langchain_anthropic,
    "litellm-openai": lambda base_url: litellm("openai/m", f"{base_url}/v1"),
    "litellm-anthropic": lambda base_url: litellm("anthropic/m", base_url),
    "litellm-ollama": lambda base_url: litellm("ollama_chat/m", base_url),
}

if __name__ == "__main__":
    json.dump(CLIENTS[sys.argv[1]](sys.argv[2]), sys.stdout)
