"""The rules of the protocol, each as an examination of one fresh agent.

A rule says in its docstring what it wants, for the report. It raises BrokenRule, or NotOffered where the
agent does not claim what the rule is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from helexa_acp.conformance.agent_under_test import AgentUnderTest, BrokenRule

Rule = Callable[[AgentUnderTest], Awaitable[None]]


class NotOffered(Exception):  # noqa: N818 - a finding about the agent, not an error of ours
    pass


def want(condition: object, complaint: str) -> None:
    if not condition:
        raise BrokenRule(complaint)


async def initialize_answers(agent: AgentUnderTest) -> None:
    """initialize tells version 1, capabilities and who the agent is"""
    result = await agent.initialize()
    want(result.get("protocolVersion") == 1, f"protocolVersion is {result.get('protocolVersion')!r}")
    want(isinstance(result.get("agentCapabilities"), dict), "agentCapabilities is missing")
    info = result.get("agentInfo")
    named = isinstance(info, dict) and info.get("name") and info.get("version")
    want(named, "agentInfo lacks name or version")


async def unknown_version(agent: AgentUnderTest) -> None:
    """an unknown protocol version is answered with a supported one"""
    result = await agent.call("initialize", protocolVersion=4711, clientCapabilities={})
    want(result.get("protocolVersion") in {1, 2}, f"it answered {result.get('protocolVersion')!r}")


async def only_json_on_stdout(agent: AgentUnderTest) -> None:
    """standard output carries nothing but JSON-RPC"""
    await agent.prompted(await agent.started())
    want(not agent.noise, f"it also wrote {agent.noise[:1]}")


async def unknown_method(agent: AgentUnderTest) -> None:
    """an unknown request gets -32601"""
    await agent.initialize()
    code = await agent.error_of("no/such_method", {})
    want(code == -32601, f"the code is {code}")


async def unknown_notification(agent: AgentUnderTest) -> None:
    """an unknown notification is ignored"""
    await agent.initialize()
    agent.send(method="no/such_notification", params={})
    await agent.new_session()
    want(all("id" not in m or m["id"] is not None for m in agent.seen), "it was answered")


async def broken_json(agent: AgentUnderTest) -> None:
    """a line that is not JSON gets -32700 with id null, and the agent keeps running"""
    agent.send_line(b'{"jsonrpc": "2.0", "id": 1, ')
    message = await agent.receive()
    want(message.get("id", 0) is None, f"the id is {message.get('id')!r}")
    want(message.get("error", {}).get("code") == -32700, f"it answered {message}")
    await agent.initialize()


async def batch(agent: AgentUnderTest) -> None:
    """a batch gets an error, and the agent keeps running"""
    agent.send_line(b'[{"jsonrpc": "2.0", "id": 1, "method": "initialize"}]')
    message = await agent.receive()
    want("error" in message, f"it answered {message}")
    await agent.initialize()


async def ids_are_echoed(agent: AgentUnderTest) -> None:
    """string, negative and null ids are echoed unchanged"""
    await agent.initialize()
    for id_ in ("a-string", -7, None):
        agent.send(id=id_, method="no/such_method", params={})
        want("error" in await agent.answer_to(id_), f"no error for id {id_!r}")


async def relative_cwd(agent: AgentUnderTest) -> None:
    """session/new refuses a relative cwd with -32602"""
    await agent.initialize()
    code = await agent.error_of("session/new", {"cwd": "relative", "mcpServers": []})
    want(code == -32602, f"the code is {code}")


async def unknown_session(agent: AgentUnderTest) -> None:
    """a prompt to an unknown session is an error"""
    await agent.initialize()
    await agent.error_of("session/prompt", agent.prompt_params("no-such-session"))


async def answer_before_updates(agent: AgentUnderTest) -> None:
    """no update names a session before session/new has answered"""
    session = await agent.started()
    order = [m for m in agent.seen if m.get("method") == "session/update" or "result" in m]
    answered = [(m.get("result") or {}).get("sessionId") == session for m in order].index(True)
    want(all("result" in m for m in order[:answered]), "an update came first")


async def prompt_ends_once(agent: AgentUnderTest) -> None:
    """session/prompt ends with exactly one answer, with a stop reason"""
    id_ = agent.begin_prompt(await agent.started())
    message = await agent.answer_to(id_)
    reason = _stop_reason(message)
    want(reason in {"end_turn", "max_tokens", "max_turn_requests", "refusal"}, f"it answered {message}")
    want(agent.updates, "nothing was shown")
    await agent.error_of("no/such_method", {})
    want(sum(m.get("id") == id_ for m in agent.seen if "method" not in m) == 1, "it was answered twice")


async def cards_begin_before_they_change(agent: AgentUnderTest) -> None:
    """each tool_call_update follows a tool_call with its id, and ids are unique"""
    session = await agent.started()
    for _ in range(2):
        await agent.prompted(session)
    begun: list[str] = []
    for update in agent.updates:
        if update.get("sessionUpdate") == "tool_call":
            want(update["toolCallId"] not in begun, f"id {update['toolCallId']!r} is used twice")
            begun.append(update["toolCallId"])
        if update.get("sessionUpdate") == "tool_call_update":
            want(update["toolCallId"] in begun, f"{update['toolCallId']!r} was never begun")


async def cancel_while_idle(agent: AgentUnderTest) -> None:
    """session/cancel without a turn has no effect, not even on the next turn"""
    session = await agent.started()
    agent.send(method="session/cancel", params={"sessionId": session})
    message = await agent.prompted(session)
    want(_stop_reason(message) not in {None, "cancelled"}, f"the next turn ended with {message}")


async def cancel_while_busy(agent: AgentUnderTest) -> None:
    """a cancelled turn ends with stop reason cancelled, and the session can be prompted again"""
    session = await agent.started()
    id_ = agent.begin_prompt(session)
    agent.send(method="session/cancel", params={"sessionId": session})
    message = await agent.answer_to(id_)
    want(_stop_reason(message) == "cancelled", f"the turn ended with {message}")
    await agent.prompted(session)


async def load_replays_first(agent: AgentUnderTest) -> None:
    """session/load replays the whole conversation before it answers"""
    before, after = await _reopened(agent, "session/load", "loadSession")
    shown = _kinds(before)
    replayed = _kinds(after)
    want("user_message_chunk" in replayed, "the user's message was not replayed")
    for kind in ("agent_message_chunk", "agent_thought_chunk", "tool_call"):
        want(kind not in shown or kind in replayed, f"no {kind} was replayed")


async def resume_does_not_replay(agent: AgentUnderTest) -> None:
    """session/resume does not replay"""
    _, after = await _reopened(agent, "session/resume", "resume")
    replayed = _kinds(after) & {"user_message_chunk", "agent_message_chunk", "tool_call"}
    want(not replayed, f"it replayed {sorted(replayed)}")


async def listing(agent: AgentUnderTest) -> None:
    """session/list knows a session that was prompted, filters by cwd, and refuses a bad cursor"""
    await _needs(agent, "list")
    session = await agent.new_session()
    await agent.prompted(session)
    result = await agent.call("session/list", cwd=str(agent.cwd))
    want(session in [entry.get("sessionId") for entry in result["sessions"]], "the session is not listed")
    elsewhere = await agent.call("session/list", cwd="/no/such/directory")
    want(elsewhere["sessions"] == [], "cwd does not filter")
    await agent.error_of("session/list", {"cursor": "no such cursor"})


async def delete_unknown(agent: AgentUnderTest) -> None:
    """session/delete of an unknown session succeeds"""
    await _needs(agent, "delete")
    await agent.call("session/delete", sessionId="no-such-session")


async def close_frees(agent: AgentUnderTest) -> None:
    """after session/close a prompt is an error"""
    await _needs(agent, "close")
    session = await agent.new_session()
    await agent.call("session/close", sessionId=session)
    await agent.error_of("session/prompt", agent.prompt_params(session))


async def modes(agent: AgentUnderTest) -> None:
    """each mode offered can be set, an unknown one is an error"""
    await agent.initialize()
    result = await agent.call("session/new", cwd=str(agent.cwd), mcpServers=[])
    if not result.get("modes"):
        raise NotOffered
    session = result["sessionId"]
    offered = [mode["id"] for mode in result["modes"]["availableModes"]]
    want(result["modes"]["currentModeId"] in offered, "the current mode is not among the available ones")
    for mode in offered:
        await agent.call("session/set_mode", sessionId=session, modeId=mode)
    await agent.error_of("session/set_mode", {"sessionId": session, "modeId": "no-such-mode"})


async def options(agent: AgentUnderTest) -> None:
    """session/set_config_option returns the complete list, with the new value"""
    await agent.initialize()
    result = await agent.call("session/new", cwd=str(agent.cwd), mcpServers=[])
    offered = [option for option in result.get("configOptions") or [] if option.get("type") == "select"]
    if not offered:
        raise NotOffered
    option = offered[0]
    values = [e["value"] for item in option["options"] for e in item.get("options", [item])]
    want(option["currentValue"] in values, "the current value is not among the options")
    answer = await agent.call(
        "session/set_config_option",
        sessionId=result["sessionId"],
        configId=option["id"],
        value=values[-1],
    )
    now = {o["id"]: o["currentValue"] for o in answer["configOptions"]}
    want(now.get(option["id"]) == values[-1], "the new value is not in the answer")
    want(len(now) >= len(offered), "the answer is not complete")


async def ends_with_its_input(agent: AgentUnderTest) -> None:
    """the agent ends when its input does"""
    await agent.started()
    if agent.process.stdin is not None:
        agent.process.stdin.close()
    try:
        async with asyncio.timeout(agent.timeout_s):
            await agent.process.wait()
    except TimeoutError:
        raise BrokenRule("it was still running") from None


RULES: tuple[Rule, ...] = (
    initialize_answers,
    unknown_version,
    only_json_on_stdout,
    unknown_method,
    unknown_notification,
    broken_json,
    batch,
    ids_are_echoed,
    relative_cwd,
    unknown_session,
    answer_before_updates,
    prompt_ends_once,
    cards_begin_before_they_change,
    cancel_while_idle,
    cancel_while_busy,
    load_replays_first,
    resume_does_not_replay,
    listing,
    delete_unknown,
    close_frees,
    modes,
    options,
    ends_with_its_input,
)


def _stop_reason(message: dict[str, Any]) -> Any:
    return (message.get("result") or {}).get("stopReason")


def _kinds(updates: list[dict[str, Any]]) -> set[str]:
    return {update["sessionUpdate"] for update in updates}


async def _needs(agent: AgentUnderTest, capability: str) -> None:
    capabilities = (await agent.initialize()).get("agentCapabilities", {})
    if capability not in capabilities.get("sessionCapabilities", {}):
        raise NotOffered


async def _reopened(
    agent: AgentUnderTest, method: str, capability: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the updates of a prompted session before and after it is opened again by `method`."""
    capabilities = (await agent.initialize()).get("agentCapabilities", {})
    if not capabilities.get(capability) and capability not in capabilities.get("sessionCapabilities", {}):
        raise NotOffered
    session = await agent.new_session()
    await agent.prompted(session)
    before = agent.updates
    agent.seen.clear()
    await agent.call(method, sessionId=session, cwd=str(agent.cwd), mcpServers=[])
    return before, agent.updates
