"""Sub-agents: a fresh context in a call, shown as nested cards, within the session's mode and its limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from acp_testing.clients import UNSTABLE_SCHEMA
from acp_testing.process import HOLD, choose, fold, prompt, without_user

from helexa_acp.agent.task_tool import MAX_AT_ONCE
from helexa_acp.config import parse_config

TASK = """
[[turn]]
match = "^go"
[[turn.reply]]
steps = [{{ call = "task", args = {{ {agent} title = "Look", prompt = "SUB look" }} }}, {{ usage = {{ prompt = 10, completion = 1 }} }}]
[[turn.reply]]
steps = [{{ text = "All is done." }}, {{ usage = {{ prompt = 30, completion = 1 }} }}]
[[turn]]
match = "^SUB"
[[turn.reply]]
steps = [{{ text = "Reading." }}, {sub}, {{ usage = {{ prompt = 1000, completion = 10 }} }}]
[[turn.reply]]
steps = [{{ text = "The report." }}, {{ usage = {{ prompt = 2000, completion = 10 }} }}]
"""
WRITE = '{ call = "write", args = { path = "a", content = "x" } }'


def task(sub=WRITE, agent="general"):
    return TASK.format(sub=sub, agent=f'agent = "{agent}",')


@pytest.fixture
def run(script, start, project):
    async def run(text, config="", mode=None, answers=None):
        script(text, config)
        async with start() as agent:
            agent.answers |= answers or {}
            await agent.initialize()
            session = await agent.new_session(project)
            if mode:
                await agent.request("session/set_mode", sessionId=session, modeId=mode)
            agent.stop = await agent.prompt(session, "go")
            agent.session = session
            live = fold(agent.updates)
            seen = list(agent.messages)
            agent.messages.clear()
            await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            assert dict(without_user(fold(agent.updates))) == dict(live)
            agent.messages[:] = seen
            agent.log = next(
                (Path(agent.env["HOME"]) / ".local/share/helexa-acp/sessions").glob("*.jsonl")
            ).read_text()
            return agent

    return run


def cards(agent):
    return {key.removeprefix("card "): card for key, card in fold(agent.updates) if key.startswith("card ")}


async def test_a_task_is_a_card_with_the_calls_of_its_agent_below_it(run, project):
    agent = await run(task(), "price = { input = 1.0, output = 1.0 }\n")
    assert agent.stop == "end_turn"
    assert agent.text() == "All is done."
    assert (project / "a").read_text() == "x"
    outer, inner = cards(agent).values()
    assert (outer["title"], outer["kind"], outer["status"]) == ("general: Look", "think", "completed")
    assert outer["content"][0]["content"]["text"] == "The report."
    assert (inner["title"], inner["status"]) == ("general: Write a", "completed")
    assert inner["_meta"]["parentToolCallId"] == outer["toolCallId"]
    assert inner["_meta"]["sessionId"] == outer["_meta"]["subagentSessionId"]
    assert "subagent_update" not in agent.kinds()
    (asked,) = agent.calls("session/request_permission")
    assert asked["params"]["toolCall"]["title"] == "general: Write a"


async def test_its_context_is_not_the_sessions_but_its_cost_is(run):
    agent = await run(task(), "price = { input = 1.0, output = 1.0 }\n")
    usage = [u for u in agent.updates if u["sessionUpdate"] == "usage_update"][-1]
    assert usage["used"] == 31
    assert usage["cost"]["amount"] == pytest.approx((11 + 31 + 1010 + 2010) / 1e6)
    assert "Reading." not in agent.log


async def test_undo_restores_what_a_sub_agent_has_changed(script, start, project):
    script(task())
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "go")
        await agent.prompt(session, "/undo")
        assert not (project / "a").exists()


KIND = '[[agents]]\nname = "search"\ndescription = "finds things"\n'


async def test_a_kind_has_its_own_model_tools_and_prompt(run, tmp_path, project):
    other = tmp_path / "other.toml"
    other.write_text(
        "[[turn]]\n[[turn.reply]]\nsteps = [{ call = 'write', args = { path = 'a', content = 'x' } }]\n[[turn.reply]]\nsteps = [{ text = 'by the small one' }]\n"
    )
    endpoint = f'[[endpoints]]\nname = "small"\nwire_api = "scripted"\nscript = {json.dumps(str(other))}\ndefault_model = "s"\n'
    agent = await run(task(agent="search"), endpoint + KIND + 'model = "small:s"\ntools = ["read", "li*"]\n')
    outer, inner = cards(agent).values()
    assert outer["title"] == "search: Look"
    assert outer["content"][0]["content"]["text"] == "by the small one"
    assert inner["status"] == "failed"
    assert "there is no tool 'write'; the tools are read, list" in json.dumps(inner)
    assert not (project / "a").exists()


@pytest.mark.parametrize(
    ("session", "kind", "asked", "written"),
    [
        ("bypass", "plan", 0, False),
        ("plan", "bypass", 0, False),
        ("default", "bypass", 1, True),
        ("bypass", "accept_edits", 0, True),
    ],
)
async def test_the_narrower_mode_counts(run, project, session, kind, asked, written):
    agent = await run(task(agent="search"), KIND + f'mode = "{kind}"\n', mode=session)
    assert len(agent.calls("session/request_permission")) == asked
    assert (project / "a").exists() is written


async def test_a_limit_of_tokens_ends_the_task_and_not_the_turn(run, project):
    agent = await run(task(agent="search"), KIND + "token_limit = 500\n")
    assert agent.stop == "end_turn"
    outer = next(iter(cards(agent).values()))
    assert outer["status"] == "failed"
    assert "reached its limit of 500 tokens" in json.dumps(outer)
    assert not (project / "a").exists()


async def test_a_limit_of_time_ends_the_task_and_not_the_turn(run):
    agent = await run(task(sub="{ hang = true }", agent="search"), KIND + "time_limit_s = 0.1\n")
    assert agent.stop == "end_turn"
    assert "reached its limit of time" in json.dumps(next(iter(cards(agent).values())))


async def test_an_error_of_its_model_is_the_result_of_the_call(run):
    agent = await run(task(sub='{ error = "no such thing", status = 400 }'))
    assert agent.stop == "end_turn"
    assert "the sub-agent failed: script answered 400: no such thing" in json.dumps(cards(agent))


async def test_cancelling_the_turn_ends_its_sub_agents(script, start, project):
    script(task(sub="{ hang = true }"))
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        await agent.until(lambda: any(u.get("status") == "in_progress" for u in agent.updates))
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}


async def test_a_permission_that_is_cancelled_cancels_the_turn(run):
    agent = await run(
        task(), answers={"session/request_permission": lambda _: {"outcome": {"outcome": "cancelled"}}}
    )
    assert agent.stop == "cancelled"


async def test_several_run_at_once_up_to_a_bound(script, start, project):
    calls = ", ".join(
        f'{{ call = "task", args = {{ title = "{n}", prompt = "SUB {n}" }} }}' for n in range(MAX_AT_ONCE + 1)
    )
    script(
        f'[[turn]]\nmatch = "^go"\n[[turn.reply]]\nsteps = [{calls}]\n[[turn.reply]]\nsteps = [{{ text = "x" }}]\n'
        f'[[turn]]\nmatch = "^SUB"\n[[turn.reply]]\nsteps = [{WRITE}]\n'
    )
    async with start() as agent:
        agent.answers["session/request_permission"] = lambda _: HOLD
        await agent.initialize()
        session = await agent.new_session(project)
        turn = agent.begin("session/prompt", prompt(session, "go"))
        await agent.until(
            lambda: sum(u.get("title") == "general: Write a" for u in agent.updates) == MAX_AT_ONCE
        )
        agent.notify("session/cancel", sessionId=session)
        assert await agent.result(turn) == {"stopReason": "cancelled"}


async def test_they_nest_to_a_depth(script, start, project):
    nest = '[[turn]]\nmatch = "^{}"\n[[turn.reply]]\nsteps = [{{ call = "task", args = {{ title = "t", prompt = "{}" }} }}, {{ usage = {{ prompt = 10, completion = 1 }} }}]\n[[turn.reply]]\nsteps = [{{ text = "{} done" }}, {{ usage = {{ prompt = 10, completion = 1 }} }}]\n'
    script(
        nest.format("go", "ONE", "go") + nest.format("ONE", "TWO", "one") + nest.format("TWO", "THREE", "two")
    )
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "go")
        shown = json.dumps(cards(agent))
        assert "one done" in shown
        assert "two done" in shown
        assert "there is no tool 'task'" in shown
        agent.messages.clear()
        await agent.prompt(session, "/cost")
        assert agent.text().startswith("6 requests, 60 tokens in, 6 tokens out.")


# Clients that show sub-agents as sessions


def by_session(agent):
    """Return what each session shows in the end, and the updates about sub-agents by the session that has them."""
    sent: dict[str, list] = {}
    for message in agent.calls("session/update"):
        sent.setdefault(message["params"]["sessionId"], []).append(message["params"]["update"])
    shown = {id_: dict(without_user(fold(updates))) for id_, updates in sent.items()}
    told = {
        id_: [u for u in updates if u["sessionUpdate"] == "subagent_update"] for id_, updates in sent.items()
    }
    return shown, told


@pytest.fixture
def sessions(script, start, project):
    """Run a script in a client with sub-agents, and return its sessions live and replayed."""

    async def run(text, answer="allow_once"):
        script(text)
        async with start(schema=UNSTABLE_SCHEMA) as agent:
            agent.answers["session/request_permission"] = choose(answer)
            await agent.initialize({"subagents": {}})
            session = await agent.new_session(project)
            await agent.prompt(session, "go")
            asked = [m["params"]["sessionId"] for m in agent.calls("session/request_permission")]
            live = by_session(agent)
            agent.messages.clear()
            await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            return session, live, by_session(agent), asked

    return run


async def test_a_client_with_sub_agents_is_shown_a_session_for_each(sessions):
    parent, (shown, told), (replayed, retold), asked = await sessions(task())
    (child,) = shown.keys() - {parent}
    assert [(u["title"], u["state"]) for u in told[parent]] == [
        ("general: Look", {"state": "running"}),
        ("general: Look", {"state": "idle", "stopReason": "end_turn"}),
    ]
    assert {u["sessionId"] for u in told[parent] + retold[parent]} == {child}
    assert asked == [child]
    (card,) = (value for key, value in shown[child].items() if key.startswith("card"))
    assert (card["title"], card["status"]) == ("general: Write a", "completed")
    assert shown[child][f"agent_message_chunk {child}-report"] == "The report."
    assert sum(key.startswith("card") for key in shown[parent]) == 1
    assert replayed == shown


async def test_sessions_of_sub_agents_nest(sessions):
    nest = '[[turn]]\nmatch = "^{}"\n[[turn.reply]]\nsteps = [{{ call = "task", args = {{ title = "{}", prompt = "{}" }} }}]\n[[turn.reply]]\nsteps = [{{ text = "{} done" }}]\n'
    write = f'[[turn]]\nmatch = "^TWO"\n[[turn.reply]]\nsteps = [{WRITE}]\n[[turn.reply]]\nsteps = [{{ text = "two done" }}]\n'
    parent, (shown, told), (replayed, retold), asked = await sessions(
        nest.format("go", "first", "ONE", "go") + nest.format("ONE", "second", "TWO", "one") + write
    )
    one = told[parent][0]["sessionId"]
    two = told[one][0]["sessionId"]
    assert set(shown) == {parent, one, two}
    assert [u["sessionId"] for u in retold[parent]] == [one]
    assert [u["sessionId"] for u in retold[one]] == [two]
    assert asked == [two]
    assert shown[two][f"agent_message_chunk {two}-report"] == "two done"
    assert replayed == shown


async def test_a_sub_agent_that_fails_is_idle_with_an_error(sessions):
    parent, (_, told), _, _ = await sessions(task(sub='{ error = "no such thing", status = 400 }'))
    assert told[parent][-1]["state"] == {"state": "idle", "stopReason": "error"}


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"name": "a"}, "description: is missing"),
        ({"name": "a", "description": "x", "mode": "wild"}, "mode: 'wild' is none of plan"),
        ({"name": "a", "description": "x", "token_limit": 0}, "token_limit: must be a positive whole number"),
        ({"name": "a", "description": "x", "colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_bad_kind_is_skipped_with_a_warning(agent, said):
    table = {"endpoints": [{"name": "e", "base_url": "http://e/v1"}], "agents": [agent]}
    config = parse_config(table, source="c", env={})
    assert [kind.name for kind in config.extensions.agents] == ["general"]
    assert said in config.warnings[0]
