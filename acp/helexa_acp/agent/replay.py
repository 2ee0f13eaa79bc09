"""Replay of a session: the updates that show a client what was shown when its records were written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from helexa_acp.storage.records import (
    AgentSaid,
    AssistantSaid,
    CardBegun,
    CardDone,
    Compacted,
    HookSaid,
    Planned,
    Record,
    UserSaid,
)
from helexa_acp.v1 import updates
from helexa_acp.v1.subagents import in_session, shown_in, subagent

INTERRUPTED = "This call was interrupted before it had a result."


def replay(records: Iterable[Record]) -> Iterator[updates.Update]:
    """Yield the updates of the records.

    A card is shown in its final state, in the place of its call, or where a sub-agent's began. A call without
    a card was interrupted.
    """
    records = list(records)
    cards = {str(record.card.get("toolCallId")): record for record in records if isinstance(record, CardDone)}
    called = {
        item.get("card")
        for record in records
        if isinstance(record, AssistantSaid)
        for item in record.items
        if item.get("type") == "call"
    }
    placed = called | {record.card for record in records if isinstance(record, CardBegun)}
    for record in records:
        match record:
            case UserSaid(message_id, blocks):
                yield from (updates.user_chunk(message_id, block) for block in blocks)
            case AssistantSaid(items):
                yield from (update for item in items for update in _item(item, cards))
            case CardBegun(id_) if id_ in cards and id_ not in called:
                yield from _card(cards[id_].card)
            case CardDone(card) if card.get("toolCallId") not in placed:
                yield from _card(card)
            case Planned(entries):
                yield updates.plan(entries)
            case AgentSaid(message_id, text) | HookSaid(message_id, text):
                yield updates.message_chunk(message_id, text)
            case Compacted(summary, compaction_id=id_) if id_:
                yield updates.compaction(id_, "completed", summary=summary)


def _item(item: dict[str, Any], cards: dict[str, CardDone]) -> Iterator[updates.Update]:
    match item.get("type"):
        case "text":
            yield updates.message_chunk(str(item.get("id")), str(item.get("text")))
        case "thought" if item.get("text"):
            yield updates.thought_chunk(str(item.get("id")), str(item.get("text")))
        case "call":
            done = cards.get(str(item.get("card")))
            yield from _card(done.card if done else _interrupted(item))


def report_id(child_id: str) -> str:
    """Return the id of the message that shows a sub-agent's report in its own session."""
    return f"{child_id}-report"


def _card(card: dict[str, Any]) -> Iterator[updates.Update]:
    """Yield a card, and if it ran a sub-agent, that one's session with its report."""
    yield updates.tool_call(card)
    child = card.get("_meta", {}).get("subagentSessionId")
    match card.get("content"):
        case [{"content": {"text": str(report)}}] if child:
            told = subagent(child, str(card["title"]), {"state": "idle"})
            yield in_session(shown_in(card), told)
            yield in_session(child, updates.message_chunk(report_id(child), report))


def _interrupted(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "toolCallId": str(item.get("card")),
        "title": str(item.get("name")) or "Tool call",
        "kind": "other",
        "status": "failed",
        "content": [updates.text_content(INTERRUPTED)],
    }
