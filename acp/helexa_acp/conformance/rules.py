"""The rules of the protocol as examinations. Each gets a fresh agent, raises BrokenRule, and says what it
wants in its docstring."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helexa_acp.conformance.peer import BrokenRule, Peer


class NotOffered(Exception):  # noqa: N818 - a finding, not a fault
    """The agent does not claim what this rule is about."""


@dataclass(frozen=True, slots=True)
class Case:
    peer: Peer
    cwd: Path
    prompt: str

    def text(self, session_id: str) -> dict[str, Any]:
        return {"sessionId": session_id, "prompt": [{"type": "text", "text": self.prompt}]}


Rule = Callable[[Case], Awaitable[None]]


def want(condition: object, complaint: str) -> None:
    if not condition:
        raise BrokenRule(complaint)


async def initialize_answers(case: Case) -> None:
    """initialize tells version 1, capabilities and who the agent is"""
    result = await case.peer.initialize()
    want(result.get("protocolVersion") == 1, f"protocolVersion is {result.get('protocolVersion')!r}")
    want(isinstance(result.get("agentCapabilities"), dict), "agentCapabilities is missing")
    info = result.get("agentInfo")
    want(
        isinstance(info, dict) and info.get("name") and info.get("version"), "agentInfo lacks name or version"
    )


async def unknown_version(case: Case) -> None:
    """an unknown protocol version is answered with a supported one"""
    result = await case.peer.call("initialize", protocolVersion=4711, clientCapabilities={})
    want(result.get("protocolVersion") in {1, 2}, f"it answered {result.get('protocolVersion')!r}")


async def only_json_on_stdout(case: Case) -> None:
    """standard output carries nothing but JSON-RPC"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))
    want(not case.peer.noise, f"it also wrote {case.peer.noise[:1]}")


async def unknown_method(case: Case) -> None:
    """an unknown request gets -32601"""
    await case.peer.initialize()
    code = await case.peer.error_of("no/such_method", {})
    want(code == -32601, f"the code is {code}")


async def unknown_notification(case: Case) -> None:
    """an unknown notification is ignored"""
    await case.peer.initialize()
    case.peer.send(method="no/such_notification", params={})
    await case.peer.new_session(case.cwd)
    want(all("id" not in m or m["id"] is not None for m in case.peer.seen), "it was answered")


async def broken_json(case: Case) -> None:
    """a line that is not JSON gets -32700 with id null, and the agent lives on"""
    case.peer.send_line(b'{"jsonrpc": "2.0", "id": 1, ')
    message = await case.peer.receive()
    want(message.get("id", 0) is None, f"the id is {message.get('id')!r}")
    want(message.get("error", {}).get("code") == -32700, f"it answered {message}")
    await case.peer.initialize()


async def batch(case: Case) -> None:
    """a batch gets an error, and the agent lives on"""
    case.peer.send_line(b'[{"jsonrpc": "2.0", "id": 1, "method": "initialize"}]')
    message = await case.peer.receive()
    want("error" in message, f"it answered {message}")
    await case.peer.initialize()


async def ids_are_echoed(case: Case) -> None:
    """string, negative and null ids come back as they were"""
    await case.peer.initialize()
    for id_ in ("a-string", -7, None):
        case.peer.send(id=id_, method="no/such_method", params={})
        want("error" in await case.peer.answer_to(id_), f"no error for id {id_!r}")


async def relative_cwd(case: Case) -> None:
    """session/new refuses a relative cwd with -32602"""
    await case.peer.initialize()
    code = await case.peer.error_of("session/new", {"cwd": "relative", "mcpServers": []})
    want(code == -32602, f"the code is {code}")


async def unknown_session(case: Case) -> None:
    """a prompt to an unknown session is an error"""
    await case.peer.initialize()
    await case.peer.error_of("session/prompt", case.text("no-such-session"))


async def answer_before_updates(case: Case) -> None:
    """no update names a session before session/new has answered"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    order = [m for m in case.peer.seen if m.get("method") == "session/update" or "result" in m]
    early = order[
        : next(i for i, m in enumerate(order) if (m.get("result") or {}).get("sessionId") == session)
    ]
    want(all("result" in m for m in early), "an update came first")


async def prompt_ends_once(case: Case) -> None:
    """session/prompt ends with exactly one answer, with a stop reason"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    id_ = case.peer.begin("session/prompt", case.text(session))
    message = await case.peer.answer_to(id_)
    reason = (message.get("result") or {}).get("stopReason")
    want(reason in {"end_turn", "max_tokens", "max_turn_requests", "refusal"}, f"it answered {message}")
    want(case.peer.updates(), "nothing was shown")
    await case.peer.error_of("no/such_method", {})
    want(sum(m.get("id") == id_ for m in case.peer.seen if "method" not in m) == 1, "it was answered twice")


async def cards_begin_before_they_change(case: Case) -> None:
    """each tool_call_update follows a tool_call with its id, and ids are unique"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    for _ in range(2):
        await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))
    begun: list[str] = []
    for update in case.peer.updates():
        if update.get("sessionUpdate") == "tool_call":
            want(update["toolCallId"] not in begun, f"id {update['toolCallId']!r} is used twice")
            begun.append(update["toolCallId"])
        if update.get("sessionUpdate") == "tool_call_update":
            want(update["toolCallId"] in begun, f"{update['toolCallId']!r} was never begun")


async def cancel_while_idle(case: Case) -> None:
    """session/cancel without a turn does nothing, also not to the next turn"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    case.peer.send(method="session/cancel", params={"sessionId": session})
    message = await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))
    reason = (message.get("result") or {}).get("stopReason")
    want(reason not in {None, "cancelled"}, f"the next turn ended with {message}")


async def cancel_while_busy(case: Case) -> None:
    """a cancelled turn ends with stop reason cancelled, and the session goes on"""
    await case.peer.initialize()
    session = await case.peer.new_session(case.cwd)
    id_ = case.peer.begin("session/prompt", case.text(session))
    case.peer.send(method="session/cancel", params={"sessionId": session})
    message = await case.peer.answer_to(id_)
    reason = (message.get("result") or {}).get("stopReason")
    want(reason == "cancelled", f"the turn ended with {message}")
    await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))


async def load_replays_first(case: Case) -> None:
    """session/load replays the whole conversation before it answers"""
    before, after = await _reopened(case, "session/load", "loadSession")
    kinds = ("user_message_chunk", "agent_message_chunk", "agent_thought_chunk", "tool_call")
    shown = [update["sessionUpdate"] for update in after]
    want("user_message_chunk" in shown, "the user's message was not replayed")
    for kind in kinds[1:]:
        want(kind not in {u["sessionUpdate"] for u in before} or kind in shown, f"no {kind} was replayed")


async def resume_does_not_replay(case: Case) -> None:
    """session/resume does not replay"""
    _, after = await _reopened(case, "session/resume", "resume")
    shown = {update["sessionUpdate"] for update in after}
    want(
        not shown & {"user_message_chunk", "agent_message_chunk", "tool_call"}, f"it replayed {sorted(shown)}"
    )


async def _reopened(
    case: Case, method: str, capability: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    capabilities = (await case.peer.initialize()).get("agentCapabilities", {})
    if not capabilities.get(capability) and capability not in capabilities.get("sessionCapabilities", {}):
        raise NotOffered
    session = await case.peer.new_session(case.cwd)
    await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))
    before = case.peer.updates()
    case.peer.seen.clear()
    await case.peer.call(method, sessionId=session, cwd=str(case.cwd), mcpServers=[])
    return before, case.peer.updates()


async def listing(case: Case) -> None:
    """session/list knows a session that was prompted, filters by cwd, and refuses a bad cursor"""
    await _needs(case, "list")
    session = await case.peer.new_session(case.cwd)
    await case.peer.answer_to(case.peer.begin("session/prompt", case.text(session)))
    result = await case.peer.call("session/list", cwd=str(case.cwd))
    want(session in [entry.get("sessionId") for entry in result["sessions"]], "the session is not listed")
    elsewhere = await case.peer.call("session/list", cwd="/no/such/directory")
    want(elsewhere["sessions"] == [], "cwd does not filter")
    await case.peer.error_of("session/list", {"cursor": "no such cursor"})


async def delete_unknown(case: Case) -> None:
    """session/delete of an unknown session succeeds"""
    await _needs(case, "delete")
    await case.peer.call("session/delete", sessionId="no-such-session")


async def close_frees(case: Case) -> None:
    """after session/close a prompt is an error"""
    await _needs(case, "close")
    session = await case.peer.new_session(case.cwd)
    await case.peer.call("session/close", sessionId=session)
    await case.peer.error_of("session/prompt", case.text(session))


async def _needs(case: Case, capability: str) -> None:
    capabilities = (await case.peer.initialize()).get("agentCapabilities", {})
    if capability not in capabilities.get("sessionCapabilities", {}):
        raise NotOffered


async def modes(case: Case) -> None:
    """each mode offered can be set, an unknown one is an error"""
    await case.peer.initialize()
    result = await case.peer.call("session/new", cwd=str(case.cwd), mcpServers=[])
    if not result.get("modes"):
        raise NotOffered
    offered = [mode["id"] for mode in result["modes"]["availableModes"]]
    want(result["modes"]["currentModeId"] in offered, "the current mode is not among the available ones")
    for mode in offered:
        await case.peer.call("session/set_mode", sessionId=result["sessionId"], modeId=mode)
    await case.peer.error_of("session/set_mode", {"sessionId": result["sessionId"], "modeId": "no-such-mode"})


async def options(case: Case) -> None:
    """session/set_config_option returns the complete list, with the new value"""
    await case.peer.initialize()
    result = await case.peer.call("session/new", cwd=str(case.cwd), mcpServers=[])
    offered = [option for option in result.get("configOptions") or [] if option.get("type") == "select"]
    if not offered:
        raise NotOffered
    option = offered[0]
    entries = [e for item in option["options"] for e in item.get("options", [item])]
    want(
        option["currentValue"] in [e["value"] for e in entries], "the current value is not among the options"
    )
    answer = await case.peer.call(
        "session/set_config_option",
        sessionId=result["sessionId"],
        configId=option["id"],
        value=entries[-1]["value"],
    )
    now = {o["id"]: o["currentValue"] for o in answer["configOptions"]}
    want(now.get(option["id"]) == entries[-1]["value"], "the new value is not in the answer")
    want(len(now) >= len(offered), "the answer is not complete")


async def ends_with_its_input(case: Case) -> None:
    """the agent ends when its input does"""
    await case.peer.initialize()
    await case.peer.new_session(case.cwd)
    if case.peer.process.stdin is not None:
        case.peer.process.stdin.close()
    try:
        async with asyncio.timeout(case.peer.timeout_s):
            await case.peer.process.wait()
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
