"""May this job run? By mode, by what the person said before, or by asking."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from helexa_acp.agent.modes import Mode, Refusal, policy
from helexa_acp.agent.permission_rules import Rules, describe
from helexa_acp.provider.base import CancelToken
from helexa_acp.rpc.framing import RpcError
from helexa_acp.tools.tool import Grant, Job, Rule, Tool
from helexa_acp.tools.truncation import one_line
from helexa_acp.v1.client import Client


@dataclass(frozen=True, slots=True)
class Verdict:
    allowed: bool
    reason: str = ""  # for the model, where it is not
    cancelled: bool = False  # the client ended the turn instead of answering


ALLOWED = Verdict(allowed=True)
REJECTED = "the user rejected this call; do not try it again another way, ask what they want"


class Permissions:
    """One per session: questions are put one at a time."""

    def __init__(self, client: Client, session_id: str, rules: Rules) -> None:
        self._client = client
        self._session_id = session_id
        self.rules = rules
        self._asking = asyncio.Lock()

    async def decide(
        self, mode: Mode, tool: Tool, job: Job, card: dict[str, Any], cancel: CancelToken
    ) -> Verdict:
        """Raises Cancelled."""
        verdicts = {grant: self.rules.decide(grant) for grant in job.grants}
        if any(verdict is False for verdict in verdicts.values()):
            return Verdict(allowed=False, reason="a rule of the user's rejects this call")
        by_mode = policy(mode, tool, job)
        if isinstance(by_mode, Refusal):
            return Verdict(allowed=False, reason=by_mode.reason)
        if by_mode or all(verdicts.values()):
            return ALLOWED
        return await cancel.race(self._ask(job, card))

    async def _ask(self, job: Job, card: dict[str, Any]) -> Verdict:
        async with self._asking:
            # An answer to the question before may have settled this one.
            open_grants = [grant for grant in job.grants if not self.rules.decide(grant)]
            if not open_grants:
                return ALLOWED
            options = _options(open_grants)
            try:
                chosen = await self._client.ask(
                    self._session_id, card, [option for option, _ in options.values()]
                )
            except RpcError as error:
                return Verdict(allowed=False, reason=f"the client could not ask the user: {error}")
        if chosen is None:
            return Verdict(allowed=False, reason="cancelled", cancelled=True)
        return self._apply(chosen, options)

    def _apply(self, chosen: str, options: dict[str, tuple[dict[str, Any], tuple[Rule, ...]]]) -> Verdict:
        if chosen not in options:
            return Verdict(allowed=False, reason=f"the client chose {chosen!r}, which was not offered")
        option, rules = options[chosen]
        allowed = option["kind"].startswith("allow")
        if rules:
            self.rules.remember("allow" if allowed else "reject", rules)
        return ALLOWED if allowed else Verdict(allowed=False, reason=REJECTED)


def _options(grants: list[Grant]) -> dict[str, tuple[dict[str, Any], tuple[Rule, ...]]]:
    narrow = tuple(grant.rules[0] for grant in grants)
    wide = tuple(grant.rules[-1] for grant in grants)
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


def _always(rules: tuple[Rule, ...]) -> str:
    return f"Always allow {_names(rules)} in this project"


def _names(rules: tuple[Rule, ...]) -> str:
    return one_line(", ".join(map(describe, rules)))
