"""Characters that would not be seen, or would make others seem different, shown as escapes.

They are control characters (a terminal may obey them), marks of direction (they reorder what stands around
them), and invisible format characters. What a user permits must be what the user has read.
"""

from __future__ import annotations

import re
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    "|\r(?!\n)"  # of a line end it is no news
    "|[\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    "|[\U000e0000-\U000e007f\ud800-\udfff]"
)
# What a client takes literally: it opens, compares or decodes it.
_LITERAL = frozenset(
    ("_meta", "path", "uri", "data", "blob", "mimeType", "toolCallId", "terminalId", "type", "kind", "status")
)


def visible(text: str) -> str:
    """Return the text with hidden characters as `\\\\x1b` or `\\\\u202e`. Tabs and line ends stay."""
    return _HIDDEN.sub(_escape, text)


def visible_card(card: Any) -> Any:
    """Return what is shown of a tool call, every text in it made visible."""
    match card:
        case str():
            return visible(card)
        case list():
            return [visible_card(item) for item in card]
        case dict():
            return {
                key: value if key in _LITERAL and not isinstance(value, dict) else visible_card(value)
                for key, value in card.items()
            }
    return card


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
