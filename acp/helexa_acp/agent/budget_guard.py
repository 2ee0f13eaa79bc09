"""The guard of a session's budget, which asks the user when it is used up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from helexa_acp.agent.reply import new_id
from helexa_acp.agent.tool_card import ToolCard
from helexa_acp.budget import Budget
from helexa_acp.cancellation import CancelToken
from helexa_acp.rpc.framing import RpcError
from helexa_acp.storage.records import Budgeted, Record
from helexa_acp.storage.transcript import Transcript
from helexa_acp.tools.tool import Outcome
from helexa_acp.v1 import updates
from helexa_acp.v1.client import Client


class Verdict(StrEnum):
    GO_ON = "go on"
    STOP = "stop"
    CANCELLED = "cancelled"  # the client cancelled the turn instead of answering


class BudgetGuard:
    """Guards one session, with all of its sub-agents. `configured` is what the configuration allows now."""

    def __init__(
        self,
        client: Client,
        session_id: str,
        transcript: Transcript,
        *,
        configured: Callable[[], Budget],
        keep: Callable[[Record], None],
        show: Callable[[updates.Update], None],
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._transcript = transcript
        self._configured = configured
        self._keep = keep
        self._show = show
        self._asking = asyncio.Lock()
        self._refused = False  # in this turn

    def begin_turn(self) -> None:
        self._refused = False

    @property
    def limits(self) -> Budgeted:
        """The totals up to which the session may go: as the user has chosen, else as configured."""
        budget = self._configured()
        cost = {} if budget.cost is None else {budget.currency: budget.cost}
        return self._transcript.budget or Budgeted(budget.tokens or 0, cost)

    def used_up(self) -> list[str]:
        """Return in words what is used up; nothing if the session may go on."""
        spent, limits = self._transcript, self.limits
        words = []
        if limits.tokens and spent.num_tokens >= limits.tokens:
            words.append(f"{spent.num_tokens:,} of {limits.tokens:,} tokens")
        words += [
            f"{spent.cost.get(currency, 0):.4g} of {amount:.4g} {currency}"
            for currency, amount in limits.cost.items()
            if spent.cost.get(currency, 0) >= amount
        ]
        return words

    async def check(self, cancel: CancelToken) -> Verdict:
        """Ask the user if the budget is used up, once in a turn. Raises Cancelled."""
        if not self.used_up():
            return Verdict.GO_ON
        async with self._asking:
            words = self.used_up()
            if self._refused or not words:  # as another sub-agent was told meanwhile
                return Verdict.STOP if self._refused else Verdict.GO_ON
            verdict = await cancel.race(self._ask(" and ".join(words)))
            self._refused = verdict is not Verdict.GO_ON
            return verdict

    async def _ask(self, used: str) -> Verdict:
        more = self._more()
        state = {
            "toolCallId": new_id("budget"),
            "title": f"This session has used {used}",
            "kind": "other",
            "status": "pending",
        }
        self._show(updates.tool_call(dict(state)))
        card = ToolCard(state, self._show)
        try:
            chosen = await self._client.ask(self._session_id, card.state, _options(more))
        except RpcError as error:
            return self._end(card, Verdict.STOP, f"Stopped: the client could not ask the user: {error}")
        except asyncio.CancelledError:  # the turn was cancelled meanwhile
            self._end(card, Verdict.CANCELLED, "Cancelled.")
            raise
        match chosen:
            case "more":
                self._keep(more)
                return self._end(card, Verdict.GO_ON, f"Going on, up to {_in_words(more)}.")
            case "unlimited":
                self._keep(Budgeted())
                return self._end(card, Verdict.GO_ON, "Going on without a limit.")
            case None:
                return self._end(card, Verdict.CANCELLED, "Cancelled.")
        return self._end(card, Verdict.STOP, "Stopped. `/budget` changes the limit.")

    def _more(self) -> Budgeted:
        """Return the next limits: as much again, from what is used now."""
        spent, limits, budget = self._transcript, self.limits, self._configured()
        steps = {} if budget.cost is None else {budget.currency: budget.cost}
        cost = {
            currency: spent.cost.get(currency, 0.0) + steps.get(currency, amount)
            for currency, amount in limits.cost.items()
        }
        return Budgeted(limits.tokens and spent.num_tokens + (budget.tokens or limits.tokens), cost)

    def _end(self, card: ToolCard, verdict: Verdict, words: str) -> Verdict:
        content = [updates.text_content(words)]
        self._keep(card.done("", Outcome(words, content, is_error=verdict is not Verdict.GO_ON)))
        return verdict


def _options(more: Budgeted) -> list[dict[str, Any]]:
    return [
        {"optionId": "more", "kind": "allow_once", "name": f"Go on, up to {_in_words(more)}"},
        {"optionId": "unlimited", "kind": "allow_always", "name": "Go on without a limit in this session"},
        {"optionId": "stop", "kind": "reject_once", "name": "Stop here"},
    ]


def _in_words(limits: Budgeted) -> str:
    words = [f"{limits.tokens:,} tokens"] if limits.tokens else []
    words += [f"{amount:.4g} {currency}" for currency, amount in limits.cost.items()]
    return " and ".join(words)
