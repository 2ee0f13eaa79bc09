"""The state of a session, built by applying its records, live or from the log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from helexa_acp.provider.types import ImagePart, Message, Part, ReasoningPart, Role, TextPart, ToolCall
from helexa_acp.storage.records import (
    AssistantSaid,
    Budgeted,
    CardDone,
    Checkpointed,
    Chose,
    Compacted,
    Edited,
    HookSaid,
    Planned,
    Record,
    Spent,
    Titled,
    Undone,
    UserSaid,
)
from helexa_acp.v1.content import text_block, to_parts

SUMMARY_INTRO = "The conversation so far, summarised:\n\n"


@dataclass(slots=True)
class TurnSpan:
    """Where a turn stands in the history."""

    message_id: str
    start: int  # index of its first message
    edits: list[Edited] = field(default_factory=list)


class Transcript:
    """Every record may be applied once; a choice or a title also twice, which changes nothing.

    `messages` is the whole history; `view` returns what the next request carries.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.messages: list[Message] = []
        self.turns: list[TurnSpan] = []
        self.cards: dict[str, CardDone] = {}
        self.chose = Chose()
        self.title: str | None = None
        self.plan: list[dict[str, Any]] = []
        self.cost: dict[str, float] = {}
        self.used_tokens = 0  # by the last request and its reply
        self.num_tokens = 0  # in all
        self.budget: Budgeted | None = None
        self.checkpoints: dict[str, str] = {}  # by message id
        self.compactions: list[Compacted] = []  # the last one counts

    @property
    def summary(self) -> str | None:
        return self.compactions[-1].summary if self.compactions else None

    @property
    def keep_from(self) -> int:
        return self.compactions[-1].keep_from if self.compactions else 0

    def view(self) -> list[Message]:
        """Return the messages for the model: all, or the summary and those that it does not replace."""
        if self.summary is None:
            return list(self.messages)
        return [Message.of(Role.USER, SUMMARY_INTRO + self.summary), *self.messages[self.keep_from :]]

    def apply(self, record: Record) -> None:
        self.records.append(record)
        match record:
            case UserSaid(local=False):
                self.turns.append(TurnSpan(record.message_id, len(self.messages)))
                self.messages.append(Message(Role.USER, user_parts(record)))
            case AssistantSaid():
                self._assistant(record)
            case Spent() | Edited() | Checkpointed():
                self._beside(record)
            case CardDone():
                self._card(record)
            case HookSaid(text=text):
                self.messages.append(Message.of(Role.USER, text))
            case Planned():
                self.plan = record.entries
            case Chose():
                before = self.chose
                self.chose = Chose(
                    mode=record.mode or before.mode,
                    model=record.model or before.model,
                    effort=record.effort or before.effort,
                )
            case Titled():
                self.title = record.title
            case Budgeted():
                self.budget = record
            case Compacted():
                self.compactions.append(record)
                self.used_tokens = record.used_tokens or self.used_tokens
            case Undone():
                self._undo(record)

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
        self.used_tokens = self._spent(record) or self.used_tokens

    def _spent(self, record: AssistantSaid | Spent) -> int:
        """Add what a reply took to the totals. Return its tokens."""
        used = record.usage.get("prompt", 0) + record.usage.get("completion", 0)
        self.num_tokens += used
        for currency, amount in record.cost.items():
            self.cost[currency] = self.cost.get(currency, 0.0) + amount
        return used

    def _card(self, record: CardDone) -> None:
        self.cards[str(record.card.get("toolCallId"))] = record
        if record.call:
            parts = tuple(_result_part(part) for part in record.result)
            self.messages.append(
                Message(Role.TOOL, parts, tool_call_id=record.call, is_error=record.is_error)
            )

    def _beside(self, record: Spent | Edited | Checkpointed) -> None:
        """Apply a record of which no model reads."""
        match record:
            case Spent():
                self._spent(record)
            case Checkpointed(message_id, commit):
                self.checkpoints[message_id] = commit
            case Edited() if self.turns:
                self.turns[-1].edits.append(record)

    def _undo(self, record: Undone) -> None:
        if not self.turns or self.turns[-1].message_id != record.message_id:
            return
        turn = self.turns.pop()
        del self.messages[turn.start :]
        while self.keep_from > turn.start:  # a summary that tells of the turn
            self.compactions.pop()


def user_parts(record: UserSaid) -> tuple[Part, ...]:
    """Return what the model reads of a prompt: an expansion takes the place of its slash command."""
    if record.expanded is None:
        return to_parts(record.blocks)
    expanded = text_block(record.expanded)
    return to_parts([expanded if i == record.command else block for i, block in enumerate(record.blocks)])


def _result_part(part: dict[str, Any]) -> Part:
    if "data" in part:
        return ImagePart(str(part.get("mime_type", "image/png")), str(part["data"]))
    return TextPart(str(part.get("text", "")))
