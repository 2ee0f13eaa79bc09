"""The tool `task`, which gives a task to a sub-agent and returns its report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from helexa_acp.agent.reply import new_id
from helexa_acp.agent.rounds import Rounds
from helexa_acp.agent.session import Session
from helexa_acp.agent.subagent import Subagent
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.extensions import AgentKind
from helexa_acp.provider.endpoints import UnknownModelError
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.tool import Outcome, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

MAX_DEPTH = 2
MAX_AT_ONCE = 4
MAX_IN_A_SESSION = 200
MAX_REPORT_CHARS = 30_000
TIME_LIMIT = "time"


@dataclass(slots=True)
class Tally:
    """How many sub-agents a session has started, at any depth."""

    num_started: int = 0


class TaskTool:
    """Runs sub-agents of one session. At the greatest depth they have no such tool themselves."""

    kind = "think"
    read_only = True  # each call that the sub-agent makes is approved by itself

    def __init__(self, session: Session, depth: int = 1, tally: Tally | None = None) -> None:
        self._session = session
        self._depth = depth
        self._tally = tally or Tally()
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)  # not shared: those above wait for those below
        self._kinds = {kind.name: kind for kind in session.endpoints.config.extensions.agents}
        self.spec = spec(
            "task",
            "Give a task to a sub-agent with a fresh context, and get its report. Several at once if they do "
            "not depend on each other. "
            + "; ".join(f"{kind.name}: {kind.description}" for kind in self._kinds.values()),
            ("title", "prompt"),
            title={"type": "string", "description": "a few words"},
            prompt={"type": "string", "description": "all that the sub-agent needs to know"},
            agent={"type": "string", "enum": list(self._kinds), "description": "general if absent"},
        )

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        kind = self._kinds[args.get("agent", "general")]
        if not args["prompt"].strip():
            raise ToolError("prompt is empty")

        async def run() -> Outcome:
            if self._tally.num_started >= MAX_IN_A_SESSION:
                raise ToolError(f"this session has started {MAX_IN_A_SESSION} sub-agents, which is the most")
            self._tally.num_started += 1
            await ctx.cancel.race(self._slots.acquire())
            try:
                return await self._run(kind, args["prompt"], title, ctx)
            finally:
                self._slots.release()

        title = f"{kind.name}: {one_line(args['title'])}"
        return PreparedCall(title, run)

    async def _run(self, kind: AgentKind, prompt: str, title: str, ctx: ToolContext) -> Outcome:
        cancel = CancelToken()
        ctx.cancel.on_cancel(cancel.cancel)
        try:
            subagent = Subagent(self._session, kind, ctx.card_id, cancel)
        except UnknownModelError as error:
            raise ToolError(f"agent {kind.name}: {error}") from error
        if self._depth < MAX_DEPTH:
            subagent.added_tools["task"] = TaskTool(subagent, self._depth + 1, self._tally)
        subagent.begin(prompt)
        ctx.show(_meta={"subagentSessionId": subagent.child_id})
        subagent.announce(title, "running")
        timer = asyncio.get_running_loop().call_later(kind.time_limit_s, subagent.stop_at_limit, TIME_LIMIT)
        stop = "error"
        try:
            stop = await Rounds(subagent, cancel, new_id("task"), []).run()
        except RpcError as error:
            raise ToolError(f"the sub-agent failed: {error}") from error
        finally:
            timer.cancel()
            await subagent.processes.kill_all()
            subagent.announce(title, "idle", stopReason=stop)
        if stop == "cancelled" and not subagent.limit:  # by the user, perhaps in a request for permission
            ctx.cancel.cancel()
            raise Cancelled
        outcome = _outcome(subagent, stop)
        subagent.show_report(outcome.text)
        return outcome


def _outcome(subagent: Subagent, stop: str) -> Outcome:
    report = clip(subagent.report, MAX_REPORT_CHARS)
    if stop == "end_turn" and report:
        return Outcome(report, [text_content(report)])
    why = f"reached its limit of {subagent.limit}" if subagent.limit else f"stopped: {stop}"
    text = f"The sub-agent {why}. Its last words: {report or 'none'}"
    return Outcome(text, [text_content(text)], is_error=True)
