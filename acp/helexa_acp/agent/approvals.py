"""Approval of tool calls: by the session's mode, by a remembered rule, or by asking the user."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from helexa_acp.agent.modes import Forbidden, Mode, policy
from helexa_acp.agent.permission_rules import PermissionRules, describe
from helexa_acp.cancellation import CancelToken
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.tool import Asking, Permission, PermissionRule, PreparedCall
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.client import Client

REJECTED = "the user rejected this call; do not try it again another way, ask what they want"


@dataclass(frozen=True, slots=True)
class PermissionDecision:
    allowed: bool
    reason: str = ""  # for the model, if the call is not allowed
    cancelled: bool = False  # the client cancelled the turn instead of answering

    @classmethod
    def refused(cls, reason: str) -> PermissionDecision:
        return cls(allowed=False, reason=reason)


ALLOWED = PermissionDecision(allowed=True)


@dataclass(frozen=True, slots=True)
class _Option:
    """An answer that the user may choose, and the rules that it makes permanent."""

    id: str
    kind: str
    name: str
    rules: tuple[PermissionRule, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {"optionId": self.id, "kind": self.kind, "name": self.name}


class Approvals:
    """The approvals of one session, which asks its user one question at a time."""

    def __init__(self, client: Client, session_id: str, rules: PermissionRules) -> None:
        self._client = client
        self._session_id = session_id
        self.rules = rules
        self.wider: dict[PermissionRule, None] = {}  # would have covered what was asked, oldest first
        self._asking = asyncio.Lock()

    def within(self, session_id: str) -> Approvals:
        """Return these approvals, with the questions asked in another session of the client's."""
        other = Approvals(self._client, session_id, self.rules)
        other.wider, other._asking = self.wider, self._asking
        return other

    async def decide(
        self, mode: Mode, tool: Asking, prepared: PreparedCall, card: dict[str, Any], cancel: CancelToken
    ) -> PermissionDecision:
        """Decide whether a call may run; `card` is what the client shows of it. Raises Cancelled."""
        by_rules = [self.rules.decide(permission) for permission in prepared.permissions]
        if any(allowed is False for allowed in by_rules):
            return PermissionDecision.refused("a rule of the user's rejects this call")
        by_mode = policy(mode, tool, prepared)
        if isinstance(by_mode, Forbidden):
            return PermissionDecision.refused(by_mode.reason)
        if by_mode or all(by_rules):
            return ALLOWED
        return await cancel.race(self._ask(prepared, card))

    async def _ask(self, prepared: PreparedCall, card: dict[str, Any]) -> PermissionDecision:
        async with self._asking:
            # The answer to the previous question may cover this call as well.
            missing = [p for p in prepared.permissions if not self.rules.decide(p)]
            if not missing:
                return ALLOWED
            self.wider |= {p.rules[-1]: None for p in missing if len(p.rules) > 1}
            options = {option.id: option for option in _options(missing)}
            offered = [option.as_json() for option in options.values()]
            try:
                chosen = await self._client.ask(self._session_id, card, offered)
            except RpcError as error:
                return PermissionDecision.refused(f"the client could not ask the user: {error}")
        if chosen is None:
            return PermissionDecision(allowed=False, reason="cancelled", cancelled=True)
        if chosen not in options:
            return PermissionDecision.refused(f"the client chose {chosen!r}, which was not offered")
        return self._apply(options[chosen])

    def _apply(self, option: _Option) -> PermissionDecision:
        allowed = option.kind.startswith("allow")
        if option.rules:
            self.rules.remember("allow" if allowed else "reject", option.rules)
        return ALLOWED if allowed else PermissionDecision.refused(REJECTED)


def _options(permissions: list[Permission]) -> list[_Option]:
    """Return one option of each kind: clients label and pick options by their kind.

    What is offered to keep is the narrowest rule; `agent.permission_command` takes wider ones.
    """
    rules = tuple(permission.rules[0] for permission in permissions)
    names = _names(rules)
    return [
        _Option("allow_once", "allow_once", "Allow once"),
        _Option("allow_always", "allow_always", f"Always allow {names} in this project", rules),
        _Option("reject_once", "reject_once", "Reject"),
        _Option("reject_always", "reject_always", f"Always reject {names}", rules),
    ]


def _names(rules: tuple[PermissionRule, ...]) -> str:
    return one_line(", ".join(map(describe, rules)))
