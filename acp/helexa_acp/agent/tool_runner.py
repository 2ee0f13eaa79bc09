"""Execution of the tool calls of one reply. Each call gets exactly one result, whatever happens to it."""

from __future__ import annotations

import asyncio
import logging
from itertools import groupby
from pathlib import Path
from typing import Any

from helexa_acp.agent import deferred_tools
from helexa_acp.agent.approvals import PermissionDecision
from helexa_acp.agent.reply import PendingCall, pending_card
from helexa_acp.agent.session import Session
from helexa_acp.agent.tool_card import ToolCard, raw_input
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.provider.tool_arguments import BadArgumentsError, parse_arguments
from helexa_acp.storage.copies import digest
from helexa_acp.storage.records import Edited, Planned
from helexa_acp.tools import schema
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.call import McpTool
from helexa_acp.tools.tool import Outcome, PreparedCall, Tool, ToolContext
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1 import updates

log = logging.getLogger(__name__)

MAX_PARALLEL = 8
CANCELLED = "ERROR: cancelled by the user"
TRUNCATED = (
    "the reply was cut at its token limit before this call was complete; split the work into smaller calls"
)


class ToolRunner:
    """Runs calls in the model's order; neighbouring read-only calls run concurrently."""

    def __init__(self, session: Session, cancel: CancelToken, *, sees_images: bool) -> None:
        self._session = session
        self._cancel = cancel
        self._sees_images = sees_images
        self._slots = asyncio.Semaphore(MAX_PARALLEL)
        self.ends_turn = False  # a call waits for what the user says next

    async def run(self, calls: list[PendingCall], *, truncated: bool) -> None:
        for read_only, group in groupby(calls, key=self._is_read_only):
            batch = list(group)
            if read_only:
                await asyncio.gather(*(self._one(call, truncated=truncated) for call in batch))
                continue
            for call in batch:
                await self._one(call, truncated=truncated)

    def _is_read_only(self, call: PendingCall) -> bool:
        tool = self._session.tools.get(call.name)
        return tool is not None and tool.read_only

    async def _one(self, call: PendingCall, *, truncated: bool) -> None:
        card = ToolCard(pending_card(call, self._session.tools), self._session.show)
        async with self._slots:
            try:
                outcome = await self._outcome(call, card, truncated=truncated)
            except Cancelled:
                outcome = Outcome(CANCELLED, is_error=True)
            except ToolError as error:
                outcome = Outcome(f"ERROR: {error}", is_error=True)
            except Exception as error:  # a bug in a tool must not leave the call without a result
                log.exception("tool %s failed", call.name)
                outcome = Outcome(
                    f"ERROR: {call.name} failed: {type(error).__name__}: {error}", is_error=True
                )
        self.ends_turn = self.ends_turn or outcome.ends_turn
        self._session.keep(card.done(call.id, outcome))
        await self._session.client.drain()

    async def _outcome(self, called: PendingCall, card: ToolCard, *, truncated: bool) -> Outcome:
        if self._cancel.cancelled:
            raise Cancelled
        call = deferred_tools.unwrapped(called, self._session.tools)
        if isinstance(call, Outcome):
            return call
        tool = self._session.tools.get(call.name)
        if tool is None:
            raise ToolError(f"there is no tool {call.name!r}; the tools are {', '.join(self._session.tools)}")
        args = _arguments(call, tool, truncated=truncated)
        context = self._context(card)
        prepared = await self._cancel.race(tool.prepare(args, context))  # changes nothing yet
        card.change(**_described(prepared, args, self._session.label))
        hooks = self._session.hooks
        objection = await hooks.before(call.name, args, self._cancel)
        if objection is not None:
            raise ToolError(f"a hook of the user's refuses this call: {objection}")
        verdict = await self._permitted(tool, prepared, card)
        if not verdict.allowed:
            raise ToolError(verdict.reason)
        card.change(status="in_progress")
        if not tool.read_only:
            await self._cancel.race(self._session.checkpoints.ready())
        outcome = await prepared.run()
        words = await hooks.after(call.name, args, outcome, self._cancel)
        return outcome if words is None else outcome.with_words(f"A hook of the user's says: {words}")

    async def _permitted(self, tool: Tool, prepared: PreparedCall, card: ToolCard) -> PermissionDecision:
        session = self._session
        verdict = await session.approvals.decide(session.mode, tool, prepared, card.state, self._cancel)
        if verdict.cancelled:
            self._cancel.cancel()
            raise Cancelled
        return verdict

    def _context(self, card: ToolCard) -> ToolContext:
        session = self._session
        return ToolContext(
            session_id=session.place,
            client=session.client,
            roots=session.roots,
            files=session.files,
            processes=session.processes,
            background=session.background,
            cancel=self._cancel,
            show=card.change,
            set_plan=self._set_plan,
            say=session.say,
            keep_copy=self._keep_copy,
            diagnose=self._diagnose,
            sees_images=self._sees_images,
            card_id=card.id,
        )

    def _set_plan(self, entries: list[dict[str, Any]]) -> None:
        self._session.keep(Planned(entries))
        self._session.show(updates.plan(entries))

    async def _diagnose(self, path: Path, text: str) -> str:
        session = self._session
        if session.language_servers is None or session.roots.is_plan(path):
            return ""
        have_run = session.files.commands_have_run
        return await session.language_servers.report(path, text, self._cancel, commands_have_run=have_run)

    async def _keep_copy(self, path: Path, before: bytes | None, after: bytes) -> None:
        session = self._session
        try:
            name = None if before is None else await asyncio.to_thread(session.copies.keep, before)
        except OSError as error:
            raise ToolError(f"not changed, as no copy of {path} can be kept: {error}") from error
        session.keep(Edited(str(path), name, digest(after)))


def _arguments(call: PendingCall, tool: Tool, *, truncated: bool) -> dict[str, Any]:
    """Return the arguments of a call, checked against the tool's schema. Raises ToolError."""
    try:
        args = parse_arguments(call.arguments)
    except BadArgumentsError as error:
        raise ToolError(TRUNCATED if truncated else str(error)) from error
    if truncated and not call.arguments.rstrip().endswith("}"):
        raise ToolError(TRUNCATED)
    if not isinstance(tool, McpTool):  # an MCP server checks its own
        schema.check(tool.spec.parameters, args)
    return args


def _described(prepared: PreparedCall, args: dict[str, Any], label: str) -> dict[str, Any]:
    changes: dict[str, Any] = {"title": one_line(label + prepared.title), "rawInput": raw_input(args)}
    if prepared.content:
        changes["content"] = prepared.content
    if prepared.locations:
        changes["locations"] = prepared.locations
    return changes
