"""What a session does for its MCP servers: its directories, questions to the user, answers of its model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from helexa_acp.agent.reply import new_id, spent_on
from helexa_acp.agent.session import Session
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.provider import failover
from helexa_acp.provider.errors import ProviderError
from helexa_acp.provider.types import (
    CompletionRequest,
    ImagePart,
    Message,
    Part,
    Role,
    TextDelta,
    TextPart,
    Usage,
)
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.mcp.contents import text_of
from helexa_acp.tools.tool import Asking, Outcome, Permission, PermissionRule, PreparedCall, spec
from helexa_acp.tools.truncation import clip
from helexa_acp.v1 import updates

if TYPE_CHECKING:
    import mcp_types

MAX_SAMPLE_TOKENS = 16_000
REFUSED = -1  # the code that the protocol uses for a request that the user refused


class _Sampling:
    kind = "other"
    read_only = False
    spec = spec("sampling", "An MCP server asks the model.", ())


SAMPLING: Asking = _Sampling()


class SessionHost:
    """The host of a session's servers. `changed` is called when their tools and prompts have changed."""

    def __init__(self, session: Session, changed: Callable[[], None]) -> None:
        self._session = session
        self._sampling = asyncio.Lock()  # one question to the model at a time
        self.servers_changed = changed
        self.notice = session.notice

    @property
    def can_fill_forms(self) -> bool:
        return self._session.client.can_fill_forms

    @property
    def can_open_urls(self) -> bool:
        return self._session.client.can_open_urls

    def directories(self) -> list[str]:
        return [self._session.cwd, *self._session.additional]

    async def elicit(
        self, server: str, params: mcp_types.ElicitRequestParams
    ) -> mcp_types.ElicitResult | mcp_types.ErrorData:
        from mcp_types import ElicitResult  # noqa: PLC0415 - the servers have imported it

        session = self._session
        message = f"{server}: {params.message}"
        try:
            if params.mode == "url":
                id_ = params.elicitation_id or new_id("elicit")
                asked = session.client.open_url(session.id, message, params.url, id_)
            else:
                asked = session.client.fill_form(session.id, message, params.requested_schema)
            action, content = await self._token().race(asked)
        except (RpcError, Cancelled):
            return ElicitResult(action="cancel")
        return ElicitResult.model_validate({"action": action, "content": content})

    async def sample(
        self, server: str, params: mcp_types.CreateMessageRequestParams
    ) -> mcp_types.CreateMessageResult | mcp_types.ErrorData:
        from mcp_types import CreateMessageResult, ErrorData, TextContent  # noqa: PLC0415

        messages = [Message(Role(m.role), _parts(m.content)) for m in params.messages]
        if params.system_prompt:
            messages.insert(0, Message.of(Role.SYSTEM, params.system_prompt))
        card = self._card(server, messages)
        try:
            async with self._sampling:
                model, text = await self._answer(server, params, messages, card)
        except (ToolError, ProviderError, Cancelled) as error:
            self._session.keep(card.done("", Outcome(f"ERROR: {error or 'cancelled'}", is_error=True)))
            return ErrorData(code=REFUSED, message=str(error) or "cancelled")
        self._session.keep(card.done("", Outcome(text, [updates.text_content(clip(text))])))
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=text), model=model)

    def _card(self, server: str, messages: list[Message]) -> ToolCard:
        asked = clip("\n\n".join(f"{message.role.value}: {message.text}" for message in messages), 4000)
        state = {
            "toolCallId": new_id("sample"),
            "title": f"{server} asks the model",
            "kind": "other",
            "status": "pending",
            "content": [updates.text_content(asked)],
        }
        return ToolCard.begun(state, self._session.show)

    async def _answer(
        self,
        server: str,
        params: mcp_types.CreateMessageRequestParams,
        messages: list[Message],
        card: ToolCard,
    ) -> tuple[str, str]:
        """Return the model and its answer. Raises ToolError, ProviderError, Cancelled."""
        session, token = self._session, self._token()
        choice = session.choice
        if choice is None:
            raise ToolError("no model is known")
        name = f"{server}: sampling"
        prepared = PreparedCall(name, _nothing, (Permission(name, "", (PermissionRule(name, "any"),)),))
        verdict = await session.approvals.decide(session.mode, SAMPLING, prepared, card.state, token)
        if not verdict.allowed:
            raise ToolError(verdict.reason)
        card.change(status="in_progress")
        request = CompletionRequest(
            choice.model,
            tuple(messages),
            temperature=params.temperature,
            max_tokens=min(params.max_tokens, MAX_SAMPLE_TOKENS),
        )
        pieces: list[str] = []
        async with aclosing(failover.complete(session.endpoints, choice, request, token)) as events:
            async for event in events:
                match event:
                    case TextDelta(text):
                        pieces.append(text)
                    case Usage(stats):
                        session.keep(spent_on(session.endpoints.config, choice.tag, stats))
        if token.cancelled:
            raise Cancelled
        return choice.tag, "".join(pieces)

    def _token(self) -> CancelToken:
        """Return the cancellation of the turn in progress, without which no server may ask anything."""
        token = self._session.running
        if token is None:
            token = CancelToken()
            token.cancel()
        return token


async def _nothing() -> Outcome:
    return Outcome("")


def _parts(content: Any) -> tuple[Part, ...]:
    blocks = content if isinstance(content, list) else [content]
    return tuple(
        ImagePart(block.mime_type, block.data) if block.type == "image" else TextPart(text_of(block))
        for block in blocks
    )
