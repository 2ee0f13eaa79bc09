# cython: language_level=3, annotation_typing=False
"""The tokens of an answer, wherever and however often an upstream reports them."""

from __future__ import annotations

from typing import Any

from fleet.translation.events import Usage

_NUMBERS = (int, float)


class UsageTotals:
    """What an upstream has reported so far."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._usage: Usage | None = None  # once somebody asked for it

    def merge(self, usage: Any) -> None:
        """Update the totals with the fields of one usage object."""
        if isinstance(usage, dict):
            self._fields |= {name: value for name, value in usage.items() if value is not None}
            self._usage = None

    @property
    def usage(self) -> Usage | None:
        """The totals; None where the upstream reported none."""
        if self._usage is None and self._fields:
            self._usage = _usage_of(self._fields)
        return self._usage


def _usage_of(totals: dict[str, Any]) -> Usage:
    prompt = _detail(totals.get("prompt_tokens_details"), "cached_tokens")
    return Usage(
        prompt=_count(totals.get("prompt_tokens")),
        completion=_count(totals.get("completion_tokens")),
        cached=prompt or _count(totals.get("prompt_cache_hit_tokens")),  # DeepSeek's name
        reasoning=_detail(totals.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _detail(details: Any, name: str) -> int:
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: Any) -> int:
    return int(value) if isinstance(value, _NUMBERS) and value > 0 else 0
