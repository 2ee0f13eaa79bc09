"""A session's state as the fold of its records: the same code runs live and after a restart.

`messages` is the whole history in neutral form; `view` is what the next request carries. Applying a choice
or a title twice changes nothing, so a record that was both written and read back does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from helexa_acp.provider.types import ImagePart, Message, Part, ReasoningPart, Role, TextPart, ToolCall
from helexa_acp.storage.records import (
    AgentSaid,
    AssistantSaid,
    CardDone,
    Chose,
    Compacted,
    Opened,
    Planned,
    Record,
    Titled,
    Undone,
    UserSaid,
)
from helexa_acp.v1.content import to_parts

SUMMARY_INTRO = "The conversation so far, summarised:\n\n"


@dataclass(slots=True)
class TurnSpan:
    message_id: str
    start: int  # index of its first message
    cards: list[CardDone]


class Transcript:
    def __init__(self) -> None:
        self.records: list[Record] = []
        self.messages: list[Message] = []
        self.turns: list[TurnSpan] = []
        self.cards: dict[str, CardDone] = {}
        self.chose = Chose()
        self.title: str | None = None
        self.plan: list[dict[str, Any]] = []
        self.cost: dict[str, float] = {}
        self.used_tokens = 0
        self.summary: str | None = None
        self.keep_from = 0

    def view(self) -> list[Message]:
        """The messages that go to the model: all, or a summary and what came after it."""
        if self.summary is None:
            return list(self.messages)
        return [Message.of(Role.USER, SUMMARY_INTRO + self.summary), *self.messages[self.keep_from :]]

    def apply(self, record: Record) -> None:
        self.records.append(record)
        match record:
            case UserSaid(local=False):
                self.turns.append(TurnSpan(record.message_id, len(self.messages), []))
                self.messages.append(Message(Role.USER, user_parts(record)))
            case AssistantSaid():
                self._assistant(record)
            case CardDone():
                self._card(record)
            case Planned():
                self.plan = record.entries
            case Chose():
                old = self.chose
                mode, model, effort = (
                    record.mode or old.mode,
                    record.model or old.model,
                    record.effort or old.effort,
                )
                self.chose = Chose(mode, model, effort)
            case Titled():
                self.title = record.title
            case Compacted():
                self.summary, self.keep_from = record.summary, record.keep_from
                self.used_tokens = record.used_tokens or self.used_tokens
            case Undone():
                self._undo(record)
            case UserSaid() | AgentSaid() | Opened():
                pass

    def _assistant(self, record: AssistantSaid) -> None:
        parts: list[Part] = []
        calls: list[ToolCall] = []
        for item in record.items:
            text = str(item.get("text", ""))
            match item.get("type"):
                case "text":
                    parts.append(TextPart(text))
                case "thought":
                    parts.append(
                        ReasoningPart(text, str(item.get("wire", "")), record.model, item.get("state"))
                    )
                case "call":
                    calls.append(ToolCall(str(item["id"]), str(item["name"]), str(item["arguments"])))
        self.messages.append(Message(Role.ASSISTANT, tuple(parts), tuple(calls)))
        self.used_tokens = (
            sum(record.usage.get(name, 0) for name in ("prompt", "completion")) or self.used_tokens
        )
        for currency, amount in record.cost.items():
            self.cost[currency] = self.cost.get(currency, 0.0) + amount

    def _card(self, record: CardDone) -> None:
        self.cards[str(record.card.get("toolCallId"))] = record
        if self.turns:
            self.turns[-1].cards.append(record)
        if record.call:
            parts = tuple(_result_part(part) for part in record.result)
            self.messages.append(
                Message(Role.TOOL, parts, tool_call_id=record.call, is_error=record.is_error)
            )

    def _undo(self, record: Undone) -> None:
        if not self.turns or self.turns[-1].message_id != record.message_id:
            return
        turn = self.turns.pop()
        del self.messages[turn.start :]
        if self.keep_from > len(self.messages):
            self.keep_from = len(self.messages)


def user_parts(record: UserSaid) -> tuple[Part, ...]:
    if record.expanded is None:
        return to_parts(record.blocks)
    others = tuple(part for part in to_parts(record.blocks) if not isinstance(part, TextPart))
    return (TextPart(record.expanded), *others)


def _result_part(part: dict[str, Any]) -> Part:
    if "data" in part:
        return ImagePart(str(part.get("mime_type", "image/png")), str(part["data"]))
    return TextPart(str(part.get("text", "")))
