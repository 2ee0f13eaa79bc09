"""Run in an environment of the library's own: `python libraries.py CLIENT BASE_URL`. Prints what it made of
one call with a tool, and of the answer to the tool's result, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

QUESTION = "What is the weather in Oslo?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Weather:
    """The tool, and with what it was called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def get_weather(self, city: str) -> str:
        """The weather."""
        self.calls.append({"city": city})
        return "12 degrees"

    def told(self, text: str, tokens: int) -> dict[str, Any]:
        """The result of a library that runs the tool itself: first whole, then as a stream."""
        whole, streamed = self.calls
        return {
            "name": "get_weather",
            "arguments": whole,
            "streamed": streamed,
            "text": text,
            "tokens": tokens,
        }


def pydantic_ai(base_url: str) -> dict[str, Any]:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    weather = Weather()
    provider = OpenAIProvider(base_url=f"{base_url}/v1", api_key="none")
    agent = Agent(OpenAIChatModel("m", provider=provider), tools=[weather.get_weather])

    async def run() -> dict[str, Any]:
        whole = await agent.run(QUESTION)
        async with agent.run_stream(QUESTION) as streamed:
            text = await streamed.get_output()
        both = whole.usage() if callable(whole.usage) else whole.usage
        return weather.told(text, both.total_tokens // 2)

    return asyncio.run(run())


def openai_agents(base_url: str) -> dict[str, Any]:
    from agents import Agent, RunConfig, Runner, function_tool
    from agents.models.openai_provider import OpenAIProvider

    weather = Weather()
    agent = Agent(name="a", model="m", tools=[function_tool(weather.get_weather)])
    provider = OpenAIProvider(base_url=f"{base_url}/v1", api_key="none", use_responses=True)
    settings = RunConfig(model_provider=provider, tracing_disabled=True)

    async def run() -> dict[str, Any]:
        whole = await Runner.run(agent, QUESTION, run_config=settings)
        streamed = Runner.run_streamed(agent, QUESTION, run_config=settings)
        async for _ in streamed.stream_events():
            pass
        return weather.told(streamed.final_output, whole.raw_responses[-1].usage.total_tokens)

    return asyncio.run(run())


def haystack(base_url: str) -> dict[str, Any]:
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.tools import Tool
    from haystack.utils import Secret

    key = Secret.from_token("none")
    tools = [Tool("get_weather", "The weather.", SCHEMA, Weather().get_weather)]
    model = OpenAIChatGenerator(model="m", api_base_url=f"{base_url}/v1", api_key=key, tools=tools)
    asked = [ChatMessage.from_user(QUESTION)]
    first = model.run(asked)["replies"][0]
    streamed = model.run(asked, streaming_callback=lambda _: None)["replies"][0]
    result = ChatMessage.from_tool("12 degrees", origin=first.tool_call)
    last = model.run([*asked, first, result])["replies"][0]
    return {
        "name": first.tool_call.tool_name,
        "arguments": first.tool_call.arguments,
        "streamed": streamed.tool_call.arguments,
        "text": last.text,
        "tokens": last.meta["usage"]["total_tokens"],
    }


def llama_index(base_url: str) -> dict[str, Any]:
    from llama_index.core.llms import ChatMessage, MessageRole
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="m",
        api_base=f"{base_url}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
    )
    tools = [FunctionTool.from_defaults(Weather().get_weather)]
    first = model.chat_with_tools(tools, QUESTION)
    call = model.get_tool_calls_from_response(first)[0]
    *_, streamed = model.stream_chat_with_tools(tools, QUESTION)
    answers = {"tool_call_id": call.tool_id}
    result = ChatMessage("12 degrees", role=MessageRole.TOOL, additional_kwargs=answers)
    last = model.chat([ChatMessage(QUESTION), first.message, result])
    return {
        "name": call.tool_name,
        "arguments": call.tool_kwargs,
        "streamed": model.get_tool_calls_from_response(streamed)[0].tool_kwargs,
        "text": last.message.content,
        "tokens": last.raw.usage.total_tokens,
    }


def dspy(base_url: str) -> dict[str, Any]:
    """It asks for its own notation, and reads the answer out of it."""
    import dspy

    model = dspy.LM("openai/m", api_base=f"{base_url}/v1", api_key="none", cache=False)
    with dspy.context(lm=model):
        return {"text": dspy.Predict("question -> answer")(question=QUESTION).answer}


CLIENTS = {
    "pydantic-ai": pydantic_ai,
    "openai-agents": openai_agents,
    "haystack": haystack,
    "llama-index": llama_index,
    "dspy": dspy,
}

if __name__ == "__main__":
    json.dump(CLIENTS[sys.argv[1]](sys.argv[2]), sys.stdout)
