"""Tool cards: what a client shows of a tool call (the protocol's `tool_call` and `tool_call_update`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helexa_acp.storage.records import CardDone
from helexa_acp.tools.tool import Outcome
from helexa_acp.v1 import updates

MAX_RAW_CHARS = 100_000


class ToolCard:
    """A card on the client's screen. `state` is what the client shows now; `show` sends it an update."""

    def __init__(self, state: dict[str, Any], show: Callable[[updates.Update], None]) -> None:
        self.state = state
        self._show = show

    @classmethod
    def begun(cls, state: dict[str, Any], show: Callable[[updates.Update], None]) -> ToolCard:
        """Show a card that is no call of the model's, and return it."""
        show(updates.tool_call(dict(state)))
        return cls(state, show)

    @property
    def id(self) -> str:
        return str(self.state["toolCallId"])

    def change(self, **changes: Any) -> None:
        self.state.update(changes)
        meta = {
            key: value for key, value in self.state.items() if key == "_meta"
        }  # as each update replaces it
        self._show(updates.tool_call_update(self.id, **{**changes, **meta}))

    def done(self, call: str, outcome: Outcome) -> CardDone:
        """Show the outcome, and return the record of the closed card for the call of this id."""
        changes: dict[str, Any] = {"status": "failed" if outcome.is_error else "completed"}
        if outcome.raw is not None:
            changes["rawOutput"] = outcome.raw
        content = self._final_content(outcome)
        if content is not None:
            changes["content"] = content
        self.change(**changes)
        kept = dict(self.state)
        if outcome.content is None and outcome.kept is not None:  # the terminal's id will mean nothing
            kept["content"] = outcome.kept
        result: list[dict[str, Any]] = [{"text": outcome.text}]
        result += [{"mime_type": image.mime_type, "data": image.data} for image in outcome.images]
        return CardDone(kept, call, result, outcome.is_error)

    def _final_content(self, outcome: Outcome) -> list[dict[str, Any]] | None:
        """Return the content that replaces what is shown, or None to leave it."""
        shown = self.state.get("content", [])
        if outcome.content is not None:
            return outcome.content
        if outcome.kept is not None:
            has_terminal = any(item.get("type") == "terminal" for item in shown)
            return None if has_terminal else outcome.kept
        if outcome.is_error:
            return [*shown, updates.text_content(outcome.text)]
        return None


def raw_input(args: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for the client, without long texts, which the card's content holds already."""
    return {key: _raw_value(value) for key, value in args.items()}


def _raw_value(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_RAW_CHARS:
        return f"{len(value)} characters"
    return value
