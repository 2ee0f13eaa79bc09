"""May this job run? By mode, by what the person said before, or by asking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from helexa_acp.agent.modes import Forbidden, Mode, policy
from helexa_acp.agent.permission_rules import PermissionRules, describe
from helexa_acp.cancellation import CancelToken
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.tool import Permission, PermissionRule, PreparedCall, Tool
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.client import Client


@dataclass(frozen=True, slots=True)
class PermissionDecision:
    allowed: bool
    reason: str = ""  # for the model, where it is not
    cancelled: bool = False  # the client ended the turn instead of answering


ALLOWED = PermissionDecision(allowed=True)
REJECTED = "the user rejected this call; do not try it again another way, ask what they want"


class Approvals:
    """One per session: questions are put one at a time."""

    def __init__(self, client: Client, session_id: str, rules: PermissionRules) -> None:
        self._client = client
        self._session_id = session_id
        self.rules = rules
        self._asking = asyncio.Lock()

    async def decide(
        self, mode: Mode, tool: Tool, prepared: PreparedCall, card: dict[str, Any], cancel: CancelToken
    ) -> PermissionDecision:
        """Raises Cancelled."""
        verdicts = {permission: self.rules.decide(permission) for permission in prepared.permissions}
        if any(verdict is False for verdict in verdicts.values()):
            return PermissionDecision(allowed=False, reason="a rule of the user's rejects this call")
        by_mode = policy(mode, tool, prepared)
        if isinstance(by_mode, Forbidden):
            return PermissionDecision(allowed=False, reason=by_mode.reason)
        if by_mode or all(verdicts.values()):
            return ALLOWED
        return await cancel.race(self._ask(prepared, card))

    async def _ask(self, prepared: PreparedCall, card: dict[str, Any]) -> PermissionDecision:
        async with self._asking:
            # An answer to the question before may have settled this one.
            open_permissions = [
                permission for permission in prepared.permissions if not self.rules.decide(permission)
            ]
            if not open_permissions:
                return ALLOWED
            options = _options(open_permissions)
            try:
                chosen = await self._client.ask(
                    self._session_id, card, [option for option, _ in options.values()]
                )
            except RpcError as error:
                return PermissionDecision(allowed=False, reason=f"the client could not ask the user: {error}")
        if chosen is None:
            return PermissionDecision(allowed=False, reason="cancelled", cancelled=True)
        return self._apply(chosen, options)

    def _apply(
        self, chosen: str, options: dict[str, tuple[dict[str, Any], tuple[PermissionRule, ...]]]
    ) -> PermissionDecision:
        if chosen not in options:
            return PermissionDecision(
                allowed=False, reason=f"the client chose {chosen!r}, which was not offered"
            )
        option, rules = options[chosen]
        allowed = option["kind"].startswith("allow")
        if rules:
            self.rules.remember("allow" if allowed else "reject", rules)
        return ALLOWED if allowed else PermissionDecision(allowed=False, reason=REJECTED)


def _options(permissions: list[Permission]) -> dict[str, tuple[dict[str, Any], tuple[PermissionRule, ...]]]:
    narrow = tuple(permission.rules[0] for permission in permissions)
    wide = tuple(permission.rules[-1] for permission in permissions)
    offered = [
        ("allow_once", "allow_once", "Allow once", ()),
        ("allow_always", "allow_always", _always(narrow), narrow),
    ]
    if wide != narrow:
        offered.append(("allow_always_wide", "allow_always", _always(wide), wide))
    offered += [
        ("reject_once", "reject_once", "Reject", ()),
        ("reject_always", "reject_always", f"Always reject {_names(narrow)}", narrow),
    ]
    return {id_: ({"optionId": id_, "kind": kind, "name": name}, rules) for id_, kind, name, rules in offered}


def _always(rules: tuple[PermissionRule, ...]) -> str:
    return f"Always allow {_names(rules)} in this project"


def _names(rules: tuple[PermissionRule, ...]) -> str:
    return one_line(", ".join(map(describe, rules)))
