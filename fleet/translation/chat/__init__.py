"""OpenAI chat, the dialect of upstreams: their answers as neutral events."""

from __future__ import annotations

from fleet.translation.chat.failures import failure_alone
from fleet.translation.chat.reader import ChatReader, read_completion

__all__ = ["ChatReader", "failure_alone", "read_completion"]
