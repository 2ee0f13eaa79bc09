"""The tokens of an answer, wherever and however often an upstream reports them."""

from __future__ import annotations

from typing import Any

from fleet.translation.events import Usage


def merge_usage(totals: dict[str, Any], usage: Any) -> None:
    """Update the totals with the fields of one usage object."""
    if isinstance(usage, dict):
        totals.update((name, value) for name, value in usage.items() if value is not None)


def usage_of(totals: dict[str, Any]) -> Usage | None:
    """The totals as `Usage`; None where the upstream reported none."""
    if not totals:
        return None
    prompt = _detail(totals, "prompt_tokens_details", "cached_tokens")
    return Usage(
        prompt=_count(totals.get("prompt_tokens")),
        completion=_count(totals.get("completion_tokens")),
        cached=prompt or _count(totals.get("prompt_cache_hit_tokens")),  # DeepSeek's name
        reasoning=_detail(totals, "completion_tokens_details", "reasoning_tokens"),
    )


def _detail(totals: dict[str, Any], group: str, name: str) -> int:
    details = totals.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0
