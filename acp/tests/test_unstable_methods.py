"""Methods that are not in the stable protocol yet, judged by the schema of the unstable one."""

from __future__ import annotations

import json

import httpx
import pytest
from acp_testing.clients import UNSTABLE_SCHEMA
from acp_testing.inprocess import Conversation
from acp_testing.process import RpcFailureError

from helexa_acp.agent.capabilities import capabilities
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.server import METHODS
from helexa_acp.agent.system_prompt import PromptOverrides, build
from helexa_acp.config import parse_config

SCRIPT = '[[turn]]\n[[turn.reply]]\nsteps = [{ text = "Hi." }]\n'
CONFIG = parse_config({"endpoints": [{"name": "e", "base_url": "http://e/v1"}]}, source="test", env={})


@pytest.fixture
async def agent(script, start):
    script(SCRIPT)
    async with start(schema=UNSTABLE_SCHEMA) as agent:
        await agent.initialize()
        yield agent


@pytest.fixture
async def session(agent, project):
    id_ = await agent.new_session(project)
    await agent.prompt(id_, "hello")
    return id_


async def listed(agent, **params):
    found = (await agent.request("session/list", **params))["sessions"]
    return {note["sessionId"]: (note.get("title"), note["archived"]) for note in found}


async def refusal(agent, method, **params):
    with pytest.raises(RpcFailureError) as error:
        await agent.request(method, **params)
    return error.value.error


def test_each_unstable_method_has_its_capability():
    declared = capabilities(CONFIG, {})
    assert {"fork", "archive", "status", "title", "systemPrompt"} <= declared["sessionCapabilities"].keys()
    assert "status" in declared["auth"]
    assert METHODS.keys() >= {
        "auth/status",
        "session/archive",
        "session/fork",
        "session/set_title",
        "session/status",
        "session/unarchive",
    }


async def test_an_archived_session_is_closed_and_listed_only_on_demand(agent, session, project):
    other = await agent.new_session(project)
    await agent.prompt(other, "second")
    await agent.request("session/archive", sessionId=session)
    await agent.request("session/archive", sessionId=session)  # again, which changes nothing
    assert await listed(agent) == {other: ("second", False)}
    assert await listed(agent, archived="only") == {session: ("hello", True)}
    assert (await listed(agent, archived="include")).keys() == {session, other}
    assert (
        await refusal(agent, "session/prompt", sessionId=session, prompt=[{"type": "text", "text": "x"}])
    )["code"] == -32002
    assert (await refusal(agent, "session/list", archived="some"))["code"] == -32602
    await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
    await agent.prompt(session, "more")
    assert session not in await listed(agent)  # a prompt does not take it back
    await agent.request("session/unarchive", sessionId=session)
    assert (await listed(agent)).keys() == {session, other}


async def test_archiving_cancels_the_turn(script, start, project):
    script('[[turn]]\n[[turn.reply]]\nsteps = [{ text = "Wait." }, { hang = true }]\n')
    async with start(schema=UNSTABLE_SCHEMA) as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin(
            "session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": "go"}]}
        )
        await agent.until(agent.text)
        await agent.request("session/archive", sessionId=session)
        assert (await agent.result(turn))["stopReason"] == "cancelled"


async def test_a_session_without_a_prompt_can_be_archived(agent, project):
    session = await agent.new_session(project)
    await agent.request("session/archive", sessionId=session)
    assert await listed(agent, archived="include") == {}
    await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
    await agent.prompt(session, "hello")
    assert await listed(agent, archived="only") == {session: ("hello", True)}


async def test_the_status_says_whether_a_session_is_open(agent, session):
    assert await agent.request("session/status", sessionId=session) == {"status": "open"}
    await agent.request("session/close", sessionId=session)
    assert await agent.request("session/status", sessionId=session) == {"status": "saved"}
    error = await refusal(agent, "session/status", sessionId="none")
    assert (error["code"], error["data"]["sessionId"]) == (-32002, "none")


async def test_a_title_that_the_client_sets_stays(agent, session, project):
    stored = await agent.request("session/set_title", sessionId=session, title="  A\nbetter   title ")
    assert stored == {"title": "A better title"}
    assert [u["title"] for u in agent.updates if u["sessionUpdate"] == "session_info_update"][-1] == (
        "A better title"
    )
    await agent.prompt(session, "more")
    await agent.request("session/close", sessionId=session)
    assert await listed(agent) == {session: ("A better title", False)}
    await agent.request("session/set_title", sessionId=session, title="Closed")
    assert await listed(agent) == {session: ("Closed", False)}
    await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
    await agent.prompt(session, "again")
    assert await listed(agent) == {session: ("Closed", False)}


async def test_a_title_before_the_first_prompt_is_not_replaced(agent, project):
    session = await agent.new_session(project)
    await agent.request("session/set_title", sessionId=session, title="Mine")
    assert await listed(agent) == {}
    await agent.prompt(session, "hello")
    assert await listed(agent) == {session: ("Mine", False)}


@pytest.mark.parametrize("title", ["", " \n", 5, None])
async def test_a_title_that_is_none_is_refused(agent, session, title):
    assert (await refusal(agent, "session/set_title", sessionId=session, title=title))["code"] == -32602


async def test_what_does_not_exist_is_not_found(agent):
    for method, more in [
        ("session/archive", {}),
        ("session/unarchive", {}),
        ("session/set_title", {"title": "x"}),
    ]:
        assert (await refusal(agent, method, sessionId="none", **more))["code"] == -32002


async def test_the_sign_in_status_is_told_signed_out_too(agent):
    assert await agent.request("auth/status") == {"state": "not_required"}
    await agent.request("logout")
    assert await agent.request("auth/status") == {"state": "unauthenticated"}


async def test_endpoints_with_a_key_are_accounts(script, start):
    script(SCRIPT, 'api_key = "secret"\n')
    async with start(schema=UNSTABLE_SCHEMA) as agent:
        await agent.initialize()
        told = await agent.request("auth/status")
    assert told == {"state": "authenticated", "accounts": [{"label": "script", "active": True}]}


PROMPT = {"mode": "append", "content": [{"type": "text", "text": "Answer in verse."}]}


def test_the_client_s_system_prompt_is_added_or_replaces_the_text(project, tmp_path):
    plan = tmp_path / "plan.md"
    (project / "AGENTS.md").write_text("Use tabs.")
    added = build(str(project), Mode.PLAN, plan, PromptOverrides(None, "append", "Answer in verse."))
    assert added.startswith("You are a coding agent")
    assert added.index("Answer in verse.") < added.index("Use tabs.")
    alone = build(str(project), Mode.PLAN, plan, PromptOverrides(None, "override", "Answer {cwd}."))
    assert alone.startswith("Answer {cwd}.\n")
    assert "Use tabs." in alone
    assert "plan mode" in alone


@pytest.mark.parametrize(
    "prompt",
    [
        "x",
        {**PROMPT, "mode": "prepend"},
        {"content": PROMPT["content"]},
        {**PROMPT, "content": []},
        {**PROMPT, "content": "x"},
        {**PROMPT, "content": [{"type": "image", "data": "", "mimeType": "image/png"}]},
    ],
)
async def test_a_system_prompt_that_cannot_be_applied_is_refused(agent, session, project, prompt):
    for method, more in [("session/new", {}), ("session/fork", {"sessionId": session})]:
        error = await refusal(agent, method, cwd=str(project), mcpServers=[], systemPrompt=prompt, **more)
        assert error["code"] == -32602
        assert "systemPrompt" in error["message"]
    assert len(await listed(agent)) == 1


async def test_the_model_reads_the_client_s_system_prompt(tmp_path, project):
    asked = []

    def serve(request):
        if request.url.path.endswith("/models"):
            return httpx.Response(404)
        asked.append(json.loads(request.content)["messages"][0]["content"])
        return httpx.Response(200, json={"choices": [{"message": {"content": "ok"}}]})

    talk = Conversation(tmp_path / "data", serve, lambda _: {"result": {}})
    await talk.start({})
    override = {**PROMPT, "mode": "override"}
    opened = await talk.request("session/new", cwd=str(project), mcpServers=[], systemPrompt=override)
    await talk.request(
        "session/prompt", sessionId=opened["sessionId"], prompt=[{"type": "text", "text": "hi"}]
    )
    assert asked == ["Answer in verse.\n"]
    await talk.aclose()


async def test_the_usage_of_a_session_is_told_on_resume_and_fork_too(script, start, project):
    script(
        '[[turn]]\n[[turn.reply]]\nsteps = [{ text = "Hi." }, { usage = { prompt = 700, completion = 9 } }]\n'
    )
    async with start(schema=UNSTABLE_SCHEMA) as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "hello")
        for method in ("session/resume", "session/fork"):
            agent.messages.clear()
            await agent.request(method, sessionId=session, cwd=str(project), mcpServers=[])
            (usage,) = await agent.until(
                lambda: [u for u in agent.updates if u["sessionUpdate"] == "usage_update"]
            )
            assert usage["used"] == 709
