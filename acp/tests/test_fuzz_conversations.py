"""Whole conversations with a model that says anything at all."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import httpx
from acp_testing.inprocess import Conversation
from acp_testing.process import fold, prompt, without_user
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from helexa_acp.agent.modes import Mode

STOPS = {"end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled"}
TOOLS = ["read", "write", "edit", "list", "search", "shell", "background", "fetch", "plan", "ask", "task"]

# A model that says anything

WORDS = st.sampled_from(
    ["", "hi", "</think>", "<think>", "<tool_call>{}</tool_call>", "\u2028", "\ud83d", "é" * 50]
)
PATHS = st.sampled_from(
    [
        "a.txt",
        "new/b",
        "../outside/kept",
        "/etc/passwd",
        "out/kept",
        "out",
        "~",
        "$HOME/x",
        "",
        "\0",
        ".",
        "a" * 300,
    ]
)
ARGUMENTS = st.one_of(
    st.fixed_dictionaries({"path": PATHS}),
    st.fixed_dictionaries({"path": PATHS, "content": WORDS}),
    st.fixed_dictionaries({"path": PATHS, "old_text": st.sampled_from(["one", "", "x"]), "new_text": WORDS}),
    st.fixed_dictionaries({"pattern": st.sampled_from(["one", "(", "-e", "\0"]), "path": PATHS}),
    st.fixed_dictionaries({"glob": st.sampled_from(["**/*", "../*", "/etc/*", "[", ""])}),
    st.sampled_from(["true", "cat a.txt", "exit 3", "echo x > made", "kill -9 $$", ""]).map(
        lambda command: {"command": command}
    ),
    st.sampled_from(["file:///etc/passwd", "http://127.0.0.1:9/", "x"]).map(lambda url: {"url": url}),
    st.sampled_from(["list", "wait", "stop"]).map(lambda action: {"action": action, "id": "bg1"}),
    st.just({"command": "sleep 300", "background": True}),
    st.just({"questions": [{"question": "why?", "options": ["a", "b"]}]}),
    st.just({"title": "t", "prompt": "do it"}),
    st.just({"entries": [{"content": "x", "status": "pending"}]}),
    st.sampled_from([{}, [], 3, None, "{", '{"path": "a.txt"', '{"path": "a.txt"}}', "[" * 2000]),
)
CALLS = st.fixed_dictionaries(
    {
        "index": st.sampled_from([0, 0, 1, 7, None]),
        "id": st.sampled_from(["same", "other", "", None]),
        "function": st.fixed_dictionaries(
            {
                "name": st.sampled_from([*TOOLS, *TOOLS, "nope", "", None]),
                "arguments": ARGUMENTS.map(lambda a: a if isinstance(a, str) else json.dumps(a)) | ARGUMENTS,
            }
        ),
    }
)
REASONS = st.sampled_from([None, "stop", "tool_calls", "length", "content_filter", "error", "whatever"])
PAYLOADS = st.one_of(
    WORDS.map(lambda text: {"choices": [{"delta": {"content": text}}]}),
    WORDS.map(lambda text: {"choices": [{"delta": {"reasoning_content": text}}]}),
    *[CALLS.map(lambda call: {"choices": [{"delta": {"tool_calls": [call]}}]})] * 3,
    REASONS.map(lambda reason: {"choices": [{"delta": {}, "finish_reason": reason}]}),
    st.integers(-1, 10**6).map(
        lambda n: {"choices": [], "usage": {"prompt_tokens": n, "completion_tokens": n}}
    ),
    st.sampled_from([{"error": "went wrong"}, {"error": {"message": "context_length_exceeded"}}, [], "junk"]),
)
ANSWERS = st.one_of(
    *[st.tuples(st.just(200), st.lists(PAYLOADS, max_size=8), st.booleans())] * 4,
    st.tuples(st.sampled_from([400, 401, 404, 429, 500]), st.lists(PAYLOADS, max_size=1), st.just(True)),
)
CHOICES = st.sampled_from(
    [
        "allow_once",
        "allow_always",
        "reject_once",
        "reject_always",
        "cancelled",
        "nonsense",
        "error",
    ]
)


def response(status, payloads, done):
    if status != 200:
        return httpx.Response(status, headers={"retry-after": "0"}, text=json.dumps(payloads))
    body = "".join(f"data: {json.dumps(payload)}\n\n" for payload in payloads)
    headers = {"content-type": "text/event-stream"}
    return httpx.Response(200, headers=headers, text=": loading m 5 %\n\n" + body + "data: [DONE]\n\n" * done)


LAST_WORDS = response(200, [{"choices": [{"delta": {"content": "bye"}, "finish_reason": "stop"}]}], True)


def choose(choice):
    if choice == "error":
        return {"error": {"code": -32603, "message": "no"}}
    if choice == "cancelled":
        return {"result": {"outcome": {"outcome": "cancelled"}}}
    return {"result": {"outcome": {"outcome": "selected", "optionId": choice}}}


def lay_out(folder: Path) -> Path:
    """Return a project, beside which lies a directory that must not be touched."""
    project, outside = folder / "project", folder / "outside"
    project.mkdir()
    outside.mkdir()
    (project / "a.txt").write_text("one\n")
    (outside / "kept").write_text("untouched\n")
    (project / "out").symlink_to(outside)
    return project


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def cards(updates):
    """Return each card's states, after checking that ids are unique and that cards begin before they change."""
    states: dict[str, list[str]] = {}
    for update in updates:
        if update["sessionUpdate"] == "tool_call":
            assert update["toolCallId"] not in states
            states[update["toolCallId"]] = [update["status"]]
        if update["sessionUpdate"] == "tool_call_update":
            states[update["toolCallId"]] += [update["status"]] if "status" in update else []
    return states


TASK = {"name": "task", "arguments": json.dumps({"title": "t", "prompt": "do it"})}
DELEGATES = (200, [{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": TASK}]}}]}], False)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@example(rounds=[DELEGATES, DELEGATES], mode=Mode.DEFAULT, choices=["allow_once"], cancel_at=None)
@given(
    rounds=st.lists(ANSWERS, max_size=5),
    mode=st.sampled_from(list(Mode)),
    choices=st.lists(CHOICES, min_size=1, max_size=4),
    cancel_at=st.none() | st.integers(0, 20),
)
async def test_a_hostile_model_breaks_nothing(rounds, mode, choices, cancel_at):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        project = lay_out(folder)
        before = contents(project)
        script = [*rounds]

        def serve(request):
            if request.url.path.endswith("/models"):
                return httpx.Response(404)
            return response(*script.pop(0)) if script else LAST_WORDS

        def answer(message):
            choices.append(choices.pop(0))
            return choose(choices[-1])

        talk = Conversation(folder / "data", serve, answer)
        await talk.start({})
        session = await talk.new_session(project)
        await talk.request("session/set_mode", sessionId=session, modeId=mode.value)
        turn = talk.begin("session/prompt", prompt(session, "go"))
        if cancel_at is not None:
            for _ in range(cancel_at):
                await asyncio.sleep(0)
            talk.notify("session/cancel", sessionId=session)
        told = await talk.answered(turn)
        event(told.get("result", {}).get("stopReason", "error"))
        assert (
            told["error"]["code"] in {-32603, -32000}
            if "error" in told
            else told["result"]["stopReason"] in STOPS
        )

        live = fold(talk.updates)
        for states in cards(talk.updates).values():
            assert states[0] in {"pending", "in_progress"}
            assert states[-1] in {"completed", "failed"}
        asked = talk.asked("session/request_permission")
        assert not (asked and mode is Mode.BYPASS)
        assert not (mode is Mode.PLAN and {a["toolCall"]["kind"] for a in asked} - {"fetch"})
        if mode is Mode.PLAN or (mode is Mode.DEFAULT and not any(c.startswith("allow") for c in choices)):
            assert contents(project) == before
        assert contents(folder / "outside") == {"kept": "untouched\n"}
        assert "root:x:0" not in json.dumps(talk.messages)

        talk.messages.clear()
        await talk.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        assert without_user(fold(talk.updates)) == live
        script.clear()
        assert await talk.request("session/prompt", **prompt(session, "hello")) == {"stopReason": "end_turn"}
        await talk.aclose()
