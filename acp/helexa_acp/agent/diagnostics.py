"""The language servers of a session, each of which runs only if its user permits what it may run."""

from __future__ import annotations

from pathlib import Path

from helexa_acp.agent.reply import new_id
from helexa_acp.agent.session import Session
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.cancellation import Cancelled, CancelToken
from helexa_acp.tools.lsp.servers import FoundServer, LanguageServers
from helexa_acp.tools.tool import Asking, Outcome, Permission, PermissionRule, PreparedCall, spec
from helexa_acp.v1 import updates

TOOL = "language server"
WHY = "It says what is wrong in files that are edited. For that it may run code of the project."


class _Starting:
    kind = "execute"
    read_only = False
    spec = spec(TOOL, "A language server starts.", ())


STARTING: Asking = _Starting()


def language_servers(session: Session) -> LanguageServers | None:
    """Return the servers of a session, none of which has started; None if it wants none."""
    config = session.endpoints.config
    settings = config.extensions.diagnostics
    if settings is None:
        return None

    async def permit(found: FoundServer, cancel: CancelToken) -> bool:
        return await _permitted(session, found, cancel)

    folders = [Path(folder) for folder in (session.cwd, *session.additional)]
    return LanguageServers(
        settings, folders, config.command_environment.variables(), permit=permit, notice=session.notice
    )


async def _permitted(session: Session, found: FoundServer, cancel: CancelToken) -> bool:
    """Ask the user, unless a rule or the mode decides. Raises Cancelled."""
    title = f"Run {found.server.name} for diagnostics: {session.roots.shown(Path(found.program))}"
    state = {
        "toolCallId": new_id("server"),
        "title": title,
        "kind": "execute",
        "status": "pending",
        "content": [updates.text_content(WHY)],
    }
    rule = PermissionRule(TOOL, "exact", found.program)
    prepared = PreparedCall(title, _nothing, (Permission(TOOL, found.program, (rule,)),))
    card = ToolCard.begun(state, session.show)
    outcome = Outcome("cancelled", is_error=True)
    try:
        verdict = await session.approvals.decide(session.mode, STARTING, prepared, card.state, cancel)
        outcome = Outcome(verdict.reason, is_error=not verdict.allowed)
    finally:
        session.keep(card.done("", outcome))
    if verdict.cancelled:
        cancel.cancel()
        raise Cancelled
    return verdict.allowed


async def _nothing() -> Outcome:
    return Outcome("")
