"""The rounds of a turn: ask the model, run its calls, and ask again until it makes no more calls.

A round is on disk before the next one begins, and however the rounds end, each call of the history has its
result.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from helexa_acp.agent import compaction, context_budget, deferred_tools, system_prompt
from helexa_acp.agent.budget_guard import Verdict
from helexa_acp.agent.progress_card import ProgressCard
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
from helexa_acp.rpc.framing import AUTH_REQUIRED, INTERNAL_ERROR, RpcError
from helexa_acp.storage.records import Chose, HookSaid, Undone
from helexa_acp.tools.tool import Outcome
from helexa_acp.v1 import updates
from helexa_acp.v1.content import unreadable

MAX_ROUNDS = 100
MAX_OBJECTIONS = 3  # of hooks to the end of one turn
UNREAD = "It answers without that. Choose another model for it, or send it as text"
NO_MODEL = "no model is known: set default_model for an endpoint, or choose a model"


class Rounds:
    """The rounds that answer one message, whose blocks are the user's."""

    def __init__(
        self, session: Session, cancel: CancelToken, message_id: str, blocks: list[dict[str, Any]]
    ) -> None:
        self._session = session
        self._cancel = cancel
        self._message_id = message_id
        self._blocks = blocks
        self._unread: tuple[str, ...] = ()  # what the user was told that the model cannot read
        self._num_objections = 0
        self._compacted = False

    async def run(self) -> str:
        """Return the stop reason. Raises RpcError, Cancelled."""
        for _ in range(MAX_ROUNDS):
            match await self._session.budget.check(self._cancel):
                case Verdict.STOP:
                    return "max_turn_requests"
                case Verdict.CANCELLED:
                    self._cancel.cancel()
                    return "cancelled"
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
        reply.estimate_usage(context_budget.estimate_request(request))
        return await self._after(reply, choice)

    async def _request(self, choice: ModelChoice) -> CompletionRequest:
        session = self._session
        try:
            system = session.system_text()
        except system_prompt.PromptError as error:
            raise RpcError(INTERNAL_ERROR, str(error), {"details": str(error)}) from error
        request = CompletionRequest(
            choice.model,
            (Message.of(Role.SYSTEM, system), *session.transcript.view()),
            deferred_tools.offered(session.tools),
            effort=session.effort,
        )
        return await compaction.fit_to_window(session, choice, request, self._cancel)

    async def _stream(self, choice: ModelChoice, request: CompletionRequest, reply: Reply) -> None:
        session = self._session
        progress = ProgressCard(session)
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
                            progress.show(text)
                        case _:
                            progress.end(choice)
                            reply.feed(event)
                    await session.client.drain()
        finally:
            progress.end(choice)
        session.tell_low_limits(choice.endpoint)

    async def _after(self, reply: Reply, choice: ModelChoice) -> str | None:
        session = self._session
        interrupted = self._cancel.cancelled
        session.keep(reply.record(session.endpoints.config, interrupted=interrupted))
        runner = ToolRunner(session, self._cancel, sees_images=session.sees_images(choice))
        await runner.run(list(reply.calls.values()), truncated=reply.reason is FinishReason.LENGTH)
        if runner.ends_turn:
            return "end_turn"
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


def _rpc_error(error: ProviderError) -> RpcError:
    """Return the error for the client. Some clients show only its `details`."""
    code = AUTH_REQUIRED if isinstance(error, AuthFailedError) else INTERNAL_ERROR
    return RpcError(code, str(error), {**error.data, "details": str(error)})
