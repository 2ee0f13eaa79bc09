"""The model's reply as it arrives: shown piece by piece, and collected into the record for the log."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helexa_acp.agent.context_budget import CHARS_PER_TOKEN
from helexa_acp.config import Config
from helexa_acp.provider.types import (
    CompletionEvent,
    Finish,
    FinishReason,
    ReasoningDelta,
    ReasoningState,
    TextDelta,
    ToolCall,
    ToolCallArgsDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
    UsageStats,
)
from helexa_acp.storage.records import AssistantSaid, Spent
from helexa_acp.tools.tool import Tool
from helexa_acp.v1 import updates


def new_id(prefix: str) -> str:
    """Return an id that is unique in all sessions. Providers repeat their ids, so none of those is used."""
    return f"{prefix}_{uuid.uuid4().hex[:20]}"


@dataclass(slots=True)
class PendingCall:
    card_id: str
    id: str
    name: str
    arguments: str = ""
    ended: bool = False

    @property
    def call(self) -> ToolCall:
        return ToolCall(self.id, self.name, self.arguments)


class Reply:
    """Takes the events of one completion. `show` sends an update to the client."""

    def __init__(
        self, model: str, wire: str, tools: dict[str, Tool], show: Callable[[updates.Update], None]
    ) -> None:
        self.model = model  # "endpoint:model"; changes if another endpoint takes over
        self.wire = wire
        self.calls: dict[int, PendingCall] = {}
        self.reason: FinishReason | None = None
        self.usage: UsageStats | None = None
        self.is_estimated = False  # the usage, as the endpoint has not told it
        self._tools = tools
        self._show = show
        self._items: list[dict[str, Any]] = []

    @property
    def is_empty(self) -> bool:
        return not self._items

    @property
    def text(self) -> str:
        return "".join(item["text"] for item in self._items if item["type"] == "text")

    def feed(self, event: CompletionEvent) -> None:
        match event:
            case TextDelta(text):
                item = self._open("text", "msg")
                item["text"] += text
                self._show(updates.message_chunk(item["id"], text))
            case ReasoningDelta(text):
                item = self._open("thought", "think")
                item["text"] += text
                self._show(updates.thought_chunk(item["id"], text))
            case ReasoningState(state):
                self._close_thought(state)
            case ToolCallStart(index, id_, name):
                self._start(index, id_, name)
            case ToolCallArgsDelta(index, delta):
                self.calls[index].arguments += delta
            case ToolCallEnd(index):
                self.calls[index].ended = True
            case Finish(reason):
                self.reason = reason
            case Usage(stats):
                self.usage = stats

    def estimate_usage(self, prompt_tokens: int) -> None:
        """Estimate what the reply took, if the endpoint has not told it."""
        if self.usage is None:
            said = len(self.text) + sum(len(call.arguments) for call in self.calls.values())
            self.usage = UsageStats(prompt_tokens, int(said / CHARS_PER_TOKEN))
            self.is_estimated = True

    def record(self, config: Config, *, interrupted: bool = False) -> AssistantSaid:
        """Return the record of the reply; `config` has the price of its tokens."""
        items = [self._kept(item) for item in self._items]
        if self.usage is None:
            return AssistantSaid(items, self.model, interrupted=interrupted)
        spent = spent_on(config, self.model, self.usage)
        counts = {**spent.usage, "estimated": 1} if self.is_estimated else spent.usage
        return AssistantSaid(items, self.model, counts, spent.cost, interrupted)

    def _kept(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["type"] != "call":
            return {name: value for name, value in item.items() if name != "closed"}
        pending = self.calls[item["index"]]
        return {
            "type": "call",
            "card": pending.card_id,
            "id": pending.id,
            "name": pending.name,
            "arguments": pending.arguments,
        }

    def _open(self, kind: str, prefix: str) -> dict[str, Any]:
        """Return the open block of this kind, or a new one. Each contiguous block is a message of its own."""
        last = self._items[-1] if self._items else None
        if last is not None and last["type"] == kind and not last.get("closed"):
            return last
        item: dict[str, Any] = {"type": kind, "id": new_id(prefix), "text": ""}
        if kind == "thought":
            item |= {"wire": self.wire, "state": None}
        self._items.append(item)
        return item

    def _close_thought(self, state: Any) -> None:
        thought = next(
            (i for i in reversed(self._items) if i["type"] == "thought" and not i.get("closed")), None
        )
        if thought is None:
            thought = self._open("thought", "think")
        thought |= {"state": state, "closed": True}

    def _start(self, index: int, id_: str, name: str) -> None:
        pending = PendingCall(new_id("call"), id_, name)
        self.calls[index] = pending
        self._items.append({"type": "call", "index": index})
        self._show(updates.tool_call(pending_card(pending, self._tools)))


def pending_card(pending: PendingCall, tools: dict[str, Tool]) -> dict[str, Any]:
    """Return the first state of a call's card."""
    tool = tools.get(pending.name)
    return {
        "toolCallId": pending.card_id,
        "title": pending.name or "Tool call",
        "name": pending.name,
        "kind": tool.kind if tool else "other",
        "status": "pending",
    }


def spent_on(config: Config, model: str, usage: UsageStats) -> Spent:
    """Return the record of what a reply took."""
    counts = {"prompt": usage.prompt_tokens, "completion": usage.completion_tokens}
    return Spent(model, counts, cost_of(config, model, usage))


def cost_of(config: Config, model: str, usage: UsageStats) -> dict[str, float]:
    """Return the cost by currency, at the endpoint's price; empty if it has none."""
    endpoint = config.endpoint(model.partition(":")[0])
    if endpoint is None or endpoint.price is None:
        return {}
    price = endpoint.price
    cached_price = price.input if price.cached_input is None else price.cached_input
    fresh = usage.prompt_tokens - usage.cached_tokens
    amount = fresh * price.input + usage.cached_tokens * cached_price + usage.completion_tokens * price.output
    return {price.currency: amount / 1_000_000}
