"""Thoughts and tool calls that a model writes as markup in its text, found while the text streams.

The scanners hold back only what may still become a marker, so the result does not depend on how the text is
cut into fragments. A block that never closes or does not parse is returned as text, so nothing is lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from helexa_acp.provider.types import ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Segment:
    kind: str  # "text" or "block"
    text: str


def _held_back(text: str, marker: str) -> int:
    """Return how many characters at the end of `text` may be the start of `marker`."""
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:size]):
            return size
    return 0


class BlockScanner:
    """Splits a stream into text and the contents of `opening`…`closing`."""

    def __init__(self, opening: str, closing: str) -> None:
        self._markers = {False: opening, True: closing}
        self._inside = False
        self._buffer = ""
        self._block: list[str] = []

    def feed(self, text: str) -> list[Segment]:
        self._buffer += text
        pieces: list[Segment] = []
        while (at := self._buffer.find(self._markers[self._inside])) >= 0:
            marker = self._markers[self._inside]
            pieces += self._take(self._buffer[:at])
            self._buffer = self._buffer[at + len(marker) :]
            if self._inside:
                pieces.append(Segment("block", "".join(self._block)))
                self._block = []
            self._inside = not self._inside
        keep = len(self._buffer) - _held_back(self._buffer, self._markers[self._inside])
        pieces += self._take(self._buffer[:keep])
        self._buffer = self._buffer[keep:]
        return pieces

    def close(self) -> list[Segment]:
        rest = self._buffer
        self._buffer = ""
        if not self._inside:
            return [Segment("text", rest)] if rest else []
        return [Segment("text", self._markers[False] + "".join(self._block) + rest)]

    def _take(self, text: str) -> list[Segment]:
        if not text:
            return []
        if self._inside:
            self._block.append(text)
            return []
        return [Segment("text", text)]


class ThinkScanner:
    """Tells a leading `<think>…</think>` from the text. One that comes later belongs to the text."""

    OPENING = "<think>"
    CLOSING = "</think>"

    def __init__(self) -> None:
        self._state = "start"  # start → think → after → text, or start → text
        self._buffer = ""

    def feed(self, text: str) -> list[tuple[str, str]]:
        """Return pairs of "text" or "reasoning" and a fragment of it."""
        if self._state == "text":
            return [("text", text)] if text else []
        self._buffer += text
        out: list[tuple[str, str]] = []
        if self._state == "start":
            self._start(out)
        if self._state == "think":
            self._think(out)
        if self._state == "after":
            self._after(out)
        return out

    def close(self) -> list[tuple[str, str]]:
        rest = self._buffer
        self._buffer = ""
        kind = "reasoning" if self._state == "think" else "text"
        self._state = "text"
        return [(kind, rest)] if rest else []

    def _start(self, out: list[tuple[str, str]]) -> None:
        head = self._buffer.lstrip()
        if head.startswith(self.OPENING):
            self._buffer = head[len(self.OPENING) :]
            self._state = "think"
        elif not self.OPENING.startswith(head):
            self._text(out)

    def _think(self, out: list[tuple[str, str]]) -> None:
        before, closed, after = self._buffer.partition(self.CLOSING)
        keep = 0 if closed else _held_back(before, self.CLOSING)
        if before[: len(before) - keep]:
            out.append(("reasoning", before[: len(before) - keep]))
        self._buffer = after if closed else before[len(before) - keep :]
        if closed:
            self._state = "after"

    def _after(self, out: list[tuple[str, str]]) -> None:
        self._buffer = self._buffer.lstrip("\r\n ")
        if self._buffer:
            self._text(out)

    def _text(self, out: list[tuple[str, str]]) -> None:
        out.append(("text", self._buffer))
        self._buffer = ""
        self._state = "text"


class CallScanner:
    """Finds the calls of Hermes, `<tool_call>{…}</tool_call>`, and of Mistral, `[TOOL_CALLS][…]`."""

    def __init__(self) -> None:
        self._scanner = BlockScanner("<tool_call>", "</tool_call>")
        self._mistral: list[str] | None = None  # what followed [TOOL_CALLS], once that was seen
        self._held = ""

    def feed(self, text: str) -> list[str | ToolCall]:
        """Return texts and calls in their order. A call has no id."""
        return self._route(self._scanner.feed(text))

    def close(self) -> list[str | ToolCall]:
        out = self._route(self._scanner.close())
        if self._mistral is not None:
            rest = "".join(self._mistral)
            return [*out, *_calls_or_text(rest, "[TOOL_CALLS]" + rest)]
        return [*out, self._held] if self._held else out

    def _route(self, pieces: list[Segment]) -> list[str | ToolCall]:
        out: list[str | ToolCall] = []
        for piece in pieces:
            if piece.kind == "block":
                out += _calls_or_text(piece.text, f"<tool_call>{piece.text}</tool_call>")
            else:
                out += self._text(piece.text)
        return out

    def _text(self, text: str) -> list[str | ToolCall]:
        if self._mistral is not None:
            self._mistral.append(text)
            return []
        before, found, after = (self._held + text).partition("[TOOL_CALLS]")
        if found:
            self._mistral = [after]
            self._held = ""
            return [before] if before else []
        keep = len(before) - _held_back(before, "[TOOL_CALLS]")
        self._held = before[keep:]
        return [before[:keep]] if keep else []


def _calls_or_text(block: str, original: str) -> list[str | ToolCall]:
    """Return the calls in a block, or the original text if it does not parse. Surplus braces are ignored."""
    if not block.strip():
        return []
    for repair in (str, lambda text: text.strip().removesuffix("}"), lambda text: text.strip()[:-2]):
        calls = _parse(block, repair)
        if calls:
            return list(calls)
    return [original]


def _parse(block: str, repair: Callable[[str], str]) -> list[ToolCall]:
    try:
        value = json.loads(repair(block), strict=False)
    except (ValueError, RecursionError):
        return []
    items = value if isinstance(value, list) else [value]
    calls = [call for call in map(_call, items) if call]
    return calls if len(calls) == len(items) else []


def _call(item: Any) -> ToolCall | None:
    if not isinstance(item, dict):
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    name = item.get("name")
    if name is None and isinstance(arguments, dict):
        name = arguments.pop("name", None)
    if not isinstance(name, str):
        return None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall("", name, arguments)


def describe_tools(tools: Iterable[ToolSpec]) -> str:
    """Return the part of a system prompt that tells a model its tools and how to write a call."""
    lines = [
        json.dumps(
            {"name": t.name, "description": t.description, "parameters": t.parameters}, ensure_ascii=False
        )
        for t in tools
    ]
    if not lines:
        return ""
    return (
        "\n\n# Tools\nCall a tool by writing one JSON object per call between <tool_call> and </tool_call>,"
        " for example\n"
        '<tool_call>\n{"name": "read", "arguments": {"path": "README.md"}}\n</tool_call>\n'
        "The tools, one per line:\n" + "\n".join(lines)
    )


def render_call(call: ToolCall) -> str:
    """Return a call as a model would write it."""
    try:
        arguments: Any = json.loads(call.arguments or "{}")
    except ValueError:
        arguments = call.arguments
    body = json.dumps({"name": call.name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"
