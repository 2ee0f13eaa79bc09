"""OpenAI chat, the dialect of upstreams: their answers as neutral events."""

from __future__ import annotations

from fleet.translation.chat.reader import ChatReader, read_completion

__all__ = ["ChatReader", "read_completion"]
