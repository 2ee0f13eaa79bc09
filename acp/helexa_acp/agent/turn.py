"""One turn, from a prompt to its stop reason. It holds the lock of the session's log."""

from __future__ import annotations

import asyncio
from typing import Any

from helexa_acp.agent import slash_commands
from helexa_acp.agent.replay import replay
from helexa_acp.agent.reply import new_id
from helexa_acp.agent.rounds import Rounds
from helexa_acp.agent.session import Session
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.rpc.framing import INTERNAL_ERROR, NOT_FOUND, RpcError
from helexa_acp.storage.log import SessionBusyError, SessionGoneError
from helexa_acp.storage.records import UserSaid
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.content import prompt_text

MAX_TITLE_CHARS = 80


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
    """A slash command that is answered without the model, or the rounds that answer a prompt."""

    def __init__(self, session: Session, cancel: CancelToken) -> None:
        self._session = session
        self._cancel = cancel
        self._message_id = new_id("user")

    async def run(self, blocks: list[dict[str, Any]]) -> str:
        if self._cancel.cancelled:
            return "cancelled"
        session = self._session
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
        session.budget.begin_turn()
        session.checkpoints.begin(self._message_id, session.keep)
        try:
            stop = await Rounds(session, self._cancel, self._message_id, blocks).run()
            await self._cancel.race(session.checkpoints.ready())
        except Cancelled:
            return "cancelled"
        finally:
            session.checkpoints.drop()
        session.publish_info()
        return stop
