"""What only cortex reports: which models are loaded, how long a prompt may be, how many tokens it has.

    HELEXA_ACP_TEST_BASE_URL=http://127.0.0.1:31313/v1 HELEXA_ACP_TEST_MODEL=helexa-tiny python -m pytest tests_live/test_cortex.py

The model has to be loaded already.
"""

from __future__ import annotations

from contextlib import aclosing

import pytest
from acp_testing.process import FULL_CLIENT, AgentProcess

from helexa_acp.cancellation import CancelToken
from helexa_acp.endpoint import Endpoint
from helexa_acp.provider.http import http_provider
from helexa_acp.provider.quirks import QuirkBook
from helexa_acp.provider.types import CompletionRequest, Message, Role, ToolSpec, Usage

QUESTION = "Which port does neuron listen on?"
LOOK = ToolSpec("look", "Look at a thing.", {"type": "object", "properties": {"thing": {"type": "string"}}})


async def test_a_loaded_model_is_warm_and_has_its_window(live_env, folder):
    model = live_env["HELEXA_ACP_MODEL"]
    async with AgentProcess(live_env) as agent:
        await agent.initialize(FULL_CLIENT)
        session = await agent.new_session(folder)
        await agent.until(lambda: agent.model_names().get(f"default:{model}") == f"{model} (warm)")
        await agent.prompt(session, QUESTION)
        assert not any(u.get("toolCallId", "").startswith("status_") for u in agent.updates)
        sizes = {u["size"] for u in agent.updates if u["sessionUpdate"] == "usage_update"}
    assert len(sizes) == 1
    assert sizes.pop() > 0


@pytest.mark.parametrize("wire", ["openai-chat", "anthropic-messages"])
async def test_a_counted_prompt_has_the_length_that_usage_reports(live_env, wire):
    key = live_env.get("HELEXA_ACP_API_KEY")
    endpoint = Endpoint("live", live_env["HELEXA_ACP_BASE_URL"], wire, api_key=key)
    provider = http_provider(endpoint, QuirkBook(None))
    words = [Message.of(Role.SYSTEM, "You are brief. ☃"), Message.of(Role.USER, QUESTION)]
    for tools in ((), (LOOK,)):
        request = CompletionRequest(live_env["HELEXA_ACP_MODEL"], tuple(words), tools, max_tokens=8)
        counted = await provider.count_tokens(request)
        async with aclosing(provider.complete(request, CancelToken())) as events:
            usage = [event.stats async for event in events if isinstance(event, Usage)][-1]
        assert counted == usage.prompt_tokens
    await provider.aclose()
