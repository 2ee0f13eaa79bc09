"""The arithmetic of the context window: how long a request is, and what may be cut from it.

`cut_for_summary` says which part of a conversation a summary may replace, `elide` leaves old tool results
out of a request. Both only decide; the session's history keeps everything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from helexa_acp.provider.types import (
    CompletionRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolSpec,
)

DEFAULT_REPLY_TOKENS = 2048
SAFETY_TOKENS = 512
CHARS_PER_TOKEN = 3.5
MESSAGE_TOKENS = 8
IMAGE_TOKENS = 1200
MIN_ELIDED_CHARS = 256
KEPT_SHARE = 0.3  # of the budget, for the latest messages, when the rest is summarised
KEPT_MESSAGES = 4

ELIDED = "[an old tool result of {size} characters is left out here; call the tool again if it matters]"

SUMMARY_PROMPT = """\
You condense a conversation between a user and a coding agent, so that the agent can go on without it.
Keep: what the user wants and decided, every constraint, files read and changed with what matters in them,
commands that matter and their results, what is done, what is open, what was tried and failed.
Use short Markdown lists. Invent nothing.
"""


def prompt_budget(window: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have; never negative."""
    return max(0, window - (max_tokens or DEFAULT_REPLY_TOKENS) - SAFETY_TOKENS)


def estimate(messages: Iterable[Message], tools: Iterable[ToolSpec] = ()) -> int:
    """Return about how many tokens the messages and tools take."""
    chars = 0
    fixed = 0
    for message in messages:
        fixed += MESSAGE_TOKENS
        for part in message.parts:
            if isinstance(part, ImagePart):
                fixed += IMAGE_TOKENS
            else:
                chars += len(part.text)
        chars += sum(len(call.name) + len(call.arguments) for call in message.calls)
    chars += sum(len(json.dumps(tool.parameters)) + len(tool.description) for tool in tools)
    return fixed + int(chars / CHARS_PER_TOKEN)


def estimate_request(request: CompletionRequest) -> int:
    return estimate(request.messages, request.tools)


def elide(messages: Sequence[Message], tokens: int, scale: float = 1.0) -> list[Message]:
    """Return the messages without old tool results, then without old text of the assistant, down to `tokens`.

    The user's, system and latest messages stay whole, so the rest may be longer than `tokens`. Each call
    keeps a result. `scale` corrects the estimate: actual tokens for each estimated one.
    """
    kept = list(messages)
    for role in (Role.TOOL, Role.ASSISTANT):
        for place in range(max(0, len(kept) - KEPT_MESSAGES)):
            if estimate(kept) * scale <= tokens:
                return kept
            if kept[place].role is role:
                kept[place] = _elided(kept[place])
    return kept


def _elided(message: Message) -> Message:
    size = len(message.text)
    if size < MIN_ELIDED_CHARS and not any(isinstance(part, ImagePart) for part in message.parts):
        return message
    rest = tuple(part for part in message.parts if isinstance(part, ReasoningPart))
    return replace(message, parts=(*rest, TextPart(ELIDED.format(size=size))))


def cut_for_summary(messages: Sequence[Message], tokens: int) -> int:
    """Return the index of the first message to keep: the latest ones that fit into KEPT_SHARE of `tokens`.

    It is never the index of a result, whose call would be cut off.
    """
    allowed = int(tokens * KEPT_SHARE)
    cut = len(messages)
    for place in range(len(messages) - 1, 0, -1):
        if estimate(messages[place:]) > allowed:
            break
        if messages[place].role is not Role.TOOL:
            cut = place
    return cut


def summary_request(model: str, messages: Sequence[Message], tokens: int) -> CompletionRequest:
    """Return the request for a summary, with the messages as plain text that is cut to fit.

    As plain text it is subject to no wire's rules for calls and results.
    """
    limit = max(2000, int(tokens * CHARS_PER_TOKEN * 0.8))
    per_message = max(400, min(8000, limit // max(1, len(messages))))
    lines = [_as_text(message, per_message) for message in messages]
    text = "\n\n".join(lines)[-limit:]
    asked = Message.of(Role.USER, f"The conversation:\n\n{text}\n\nWrite the summary now.")
    return CompletionRequest(model, (Message.of(Role.SYSTEM, SUMMARY_PROMPT), asked))


def _as_text(message: Message, limit: int) -> str:
    calls = "".join(f"\n[calls {call.name} {call.arguments[:limit]}]" for call in message.calls)
    images = "".join("\n[an image]" for part in message.parts if isinstance(part, ImagePart))
    return f"## {message.role.value}\n{message.text[:limit]}{images}{calls}"
