"""One turn, from a prompt to its stop reason: ask the model, run its calls, and ask again.

The turn holds the lock of the session's log. A round is on disk before the next one begins, and however the
turn ends, each call in the history has a result.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

from helexa_acp.agent import compaction, slash_commands, system_prompt
from helexa_acp.agent.replay import replay
from helexa_acp.agent.reply import Reply, new_id, pending_card
from helexa_acp.agent.session import Session
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.agent.tool_runner import ToolRunner
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.provider import failover
from helexa_acp.provider.endpoints import ModelChoice
from helexa_acp.provider.errors import AuthFailedError, ContextTooLongError, ProviderError
from helexa_acp.provider.failover import Switched
from helexa_acp.provider.types import CompletionRequest, FinishReason, Message, ProgressUpdate, Role
from helexa_acp.rpc.framing import AUTH_REQUIRED, INTERNAL_ERROR, NOT_FOUND, RpcError
from helexa_acp.storage.log import SessionBusyError, SessionGoneError
from helexa_acp.storage.records import Chose, HookSaid, Undone, UserSaid
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.tool import Outcome
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1 import updates
from helexa_acp.v1.content import prompt_text, unreadable

log = logging.getLogger(__name__)

MAX_ROUNDS = 100
MAX_OBJECTIONS = 3  # of hooks to the end of one turn
MAX_TITLE_CHARS = 80
UNREAD = "It answers without that. Choose another model for it, or send it as text"
NO_MODEL = "no model is known: set default_model for an endpoint, or choose a model"


async def run_turn(session: Session, blocks: list[dict[str, Any]], cancel: CancelToken) -> str:
    """Run a turn, and return its stop reason. Raises RpcError."""
    try:
        with session.log.hold() as others:
            for record in others:
                session.transcript.apply(record)
            for update in replay(others):
                session.show(update)
            try:
                return await Turn(session, cancel).run(blocks)
            finally:
                await session.log.sync()
    except SessionBusyError as error:
        raise RpcError(INTERNAL_ERROR, str(error)) from error
    except SessionGoneError as error:
        raise RpcError(NOT_FOUND, str(error)) from error


class Turn:
    """Rounds of a reply and its tool calls, until the model makes no more calls or the turn is cancelled."""

    def __init__(self, session: Session, cancel: CancelToken) -> None:
        self._session = session
        self._cancel = cancel
        self._message_id = new_id("user")
        self._blocks: list[dict[str, Any]] = []
        self._unread: tuple[str, ...] = ()  # what the user was told that the model cannot read
        self._num_objections = 0
        self._compacted = False
        self._status: ToolCard | None = None

    async def run(self, blocks: list[dict[str, Any]]) -> str:
        if self._cancel.cancelled:
            return "cancelled"
        session = self._session
        self._blocks = blocks
        await asyncio.to_thread(session.find_skills)
        try:
            if slash_commands.may_be_of_server(blocks):
                await self._cancel.race(session.mcp.settle())
            command = slash_commands.find(session, blocks)
            expanded = await self._cancel.race(command.expand(session)) if command else None
        except Cancelled:
            return "cancelled"
        except ToolError as error:
            raise RpcError(INTERNAL_ERROR, str(error), {"details": str(error)}) from error
        local = command is not None and expanded is None
        session.keep(UserSaid(self._message_id, blocks, expanded, local, command.place if command else 0))
        if session.transcript.title is None and not local:
            session.set_title(one_line(prompt_text(blocks), MAX_TITLE_CHARS) or "Untitled")
        elif not session.is_listed:
            session.publish_info()
        session.say_deferred_notices()
        try:
            if command is not None and local:
                await command.run(session, self._cancel)
                return "cancelled" if self._cancel.cancelled else "end_turn"
            await session.log.sync()
            await self._cancel.race(session.mcp.settle())
        except Cancelled:
            return "cancelled"
        stop = await self._rounds()
        session.publish_info()
        return stop

    async def _rounds(self) -> str:
        for _ in range(MAX_ROUNDS):
            stop = await self._round()
            await self._session.log.sync()
            self._session.show_usage()
            if self._cancel.cancelled:
                return "cancelled"
            if stop is not None:
                return stop
        return "max_turn_requests"

    async def _round(self) -> str | None:
        """Ask the model and run its calls. Return a stop reason, or None to continue."""
        session = self._session
        choice = session.choice
        if choice is None:
            raise RpcError(INTERNAL_ERROR, NO_MODEL, {"details": NO_MODEL})
        self._tell_unread(choice)
        request = await self._request(choice)
        reply = Reply(choice.tag, choice.endpoint.wire_api, session.tools, session.show)
        try:
            await self._stream(choice, request, reply)
        except ProviderError as error:
            await self._abandon(reply)
            if isinstance(error, ContextTooLongError) and await self._made_room(choice):
                return None
            raise _rpc_error(error) from error
        except BaseException:
            await self._abandon(reply)
            raise
        self._tell_unread(session.choice or choice)  # another model may have answered, or this one refused
        return await self._after(reply, choice)

    async def _request(self, choice: ModelChoice) -> CompletionRequest:
        session = self._session
        try:
            system = system_prompt.build(
                session.cwd,
                session.mode,
                session.plan_path,
                session.home.system_prompt_path,
                session.skills.values(),
            )
        except system_prompt.PromptError as error:
            raise RpcError(INTERNAL_ERROR, str(error), {"details": str(error)}) from error
        request = CompletionRequest(
            choice.model,
            (Message.of(Role.SYSTEM, system), *session.transcript.view()),
            tuple(tool.spec for tool in session.tools.values()),
            effort=session.effort,
        )
        return await compaction.fit_to_window(session, choice, request, self._cancel)

    async def _stream(self, choice: ModelChoice, request: CompletionRequest, reply: Reply) -> None:
        session = self._session
        try:
            async with aclosing(
                failover.complete(session.endpoints, choice, request, self._cancel)
            ) as events:
                async for event in events:
                    match event:
                        case Switched(other, reason):
                            self._switch(choice, other, reason, reply)
                            choice = other
                        case ProgressUpdate(text):
                            self._progress(text)
                        case _:
                            self._end_progress(choice)
                            reply.feed(event)
                    await session.client.drain()
        finally:
            self._end_progress(choice)

    async def _after(self, reply: Reply, choice: ModelChoice) -> str | None:
        session = self._session
        interrupted = self._cancel.cancelled
        session.keep(reply.record(session.endpoints.config, interrupted=interrupted))
        runner = ToolRunner(session, self._cancel, sees_images=session.sees_images(choice))
        await runner.run(list(reply.calls.values()), truncated=reply.reason is FinishReason.LENGTH)
        if reply.calls or reply.reason is FinishReason.PAUSE:
            return None
        if reply.reason is FinishReason.REFUSAL:
            session.keep(Undone(self._message_id))  # later requests do not contain a refused turn
            return "refusal"
        if reply.reason is FinishReason.LENGTH:
            return "max_tokens"
        return None if await self._must_go_on(reply) else "end_turn"

    async def _must_go_on(self, reply: Reply) -> bool:
        """Return whether a hook objects to the end of the turn, which it may do a few times."""
        session = self._session
        if self._num_objections == MAX_OBJECTIONS or self._cancel.cancelled:
            return False
        self._num_objections += 1
        try:
            words = await session.hooks.stop(reply.text, self._cancel)
        except Cancelled:
            return False
        if words is None:
            return False
        said = HookSaid(new_id("hook"), f"A hook of the user's objects to the end of the turn:\n\n{words}")
        session.keep(said)
        session.show(updates.message_chunk(said.message_id, said.text))
        return True

    async def _abandon(self, reply: Reply) -> None:
        """Keep what was shown of a reply whose stream broke, and close the cards of its calls."""
        if reply.is_empty:
            return
        session = self._session
        session.keep(reply.record(session.endpoints.config, interrupted=True))
        for call in reply.calls.values():
            state = pending_card(call, session.tools)
            outcome = Outcome("ERROR: the reply broke off before this call was complete", is_error=True)
            session.keep(ToolCard(state, session.show).done(call.id, outcome))

    async def _made_room(self, choice: ModelChoice) -> bool:
        """Compact a conversation that the endpoint refused as too long, once in a turn."""
        if self._compacted:
            return False
        self._compacted = True
        known = self._session.window(choice)
        target = known // 2 if known else compaction.UNKNOWN_WINDOW_TOKENS
        return await compaction.summarise(self._session, choice, target, self._cancel)

    def _tell_unread(self, choice: ModelChoice) -> None:
        """Tell the user what of the prompt this model cannot read, unless it has been told."""
        session = self._session
        unread = unreadable(self._blocks, images=session.sees_images(choice))
        if set(unread) > set(self._unread):
            self._unread = unread
            session.notice("warning", f"{choice.tag} cannot read {', '.join(unread)}", UNREAD)

    def _switch(self, choice: ModelChoice, other: ModelChoice, reason: str, reply: Reply) -> None:
        session = self._session
        reply.model = other.tag
        reply.wire = other.endpoint.wire_api
        session.keep(Chose(model=other.tag))
        session.notice("warning", f"{choice.tag} does not answer, using {other.tag}", reason)
        session.show_options()

    def _progress(self, text: str) -> None:
        """Show the endpoint's progress in one card, which is updated in place."""
        title = one_line(text)
        if self._status is None:
            state = {"toolCallId": new_id("status"), "title": title, "kind": "other", "status": "in_progress"}
            self._status = ToolCard(state, self._session.show)
            self._session.show(updates.tool_call(dict(state)))
        elif self._status.state["title"] != title:
            self._status.change(title=title)

    def _end_progress(self, choice: ModelChoice) -> None:
        if self._status is not None:
            self._session.keep(self._status.done("", Outcome("")))
            self._status = None
            self._session.endpoints.refresh(choice.endpoint)  # the model's state has changed


def _rpc_error(error: ProviderError) -> RpcError:
    code = AUTH_REQUIRED if isinstance(error, AuthFailedError) else INTERNAL_ERROR
    return RpcError(
        code, str(error), {**error.data, "details": str(error)}
    )  # some clients show only `details`
