"""A tool card: shown while it changes, kept in its final state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helexa_acp.storage.records import CardDone
from helexa_acp.tools.tool import Outcome
from helexa_acp.v1 import updates

MAX_RAW_CHARS = 100_000


class ToolCard:
    def __init__(self, state: dict[str, Any], show: Callable[[updates.Update], None]) -> None:
        self.state = state
        self._show = show

    @property
    def id(self) -> str:
        return str(self.state["toolCallId"])

    def change(self, **changes: Any) -> None:
        self.state.update(changes)
        self._show(updates.tool_call_update(self.id, **changes))

    def done(self, call: str, outcome: Outcome) -> CardDone:
        """Close the card, and say what it looks like from now on."""
        changes: dict[str, Any] = {"status": "failed" if outcome.is_error else "completed"}
        if outcome.raw is not None:
            changes["rawOutput"] = outcome.raw
        content = self._final_content(outcome)
        if content is not None:
            changes["content"] = content
        self.change(**changes)
        kept = dict(self.state)
        if outcome.content is None and outcome.kept is not None:  # a terminal's id means nothing later
            kept["content"] = outcome.kept
        result: list[dict[str, Any]] = [{"text": outcome.text}]
        result += [{"mime_type": image.mime_type, "data": image.data} for image in outcome.images]
        return CardDone(kept, call, result, outcome.is_error)

    def _final_content(self, outcome: Outcome) -> list[dict[str, Any]] | None:
        """None leaves what is shown, as arrays replace each other."""
        shown = self.state.get("content", [])
        if outcome.content is not None:
            return outcome.content
        has_terminal = any(item.get("type") == "terminal" for item in shown)
        if outcome.kept is not None:
            return None if has_terminal else outcome.kept
        return [*shown, updates.text_content(outcome.text)] if outcome.is_error else None


def raw_input(args: dict[str, Any]) -> dict[str, Any]:
    """What the client may show of the arguments; long ones are in the card's content already."""
    return {
        key: value
        if not isinstance(value, str) or len(value) <= MAX_RAW_CHARS
        else f"{len(value)} characters"
        for key, value in args.items()
    }
