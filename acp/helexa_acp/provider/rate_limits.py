"""Rate limits, as servers tell them in the headers of their answers: OpenAI's, cortex's, Anthropic's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

UNITS = ("requests", "tokens", "input-tokens", "output-tokens")
LOW_SHARE = 0.1
MAX_DIGITS = 15

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:([\d.]{1,15})s)?(?:([\d.]{1,15})ms)?")
_SECONDS = (3600.0, 60.0, 1.0, 0.001)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What is left of a limit. `unit` says of what."""

    unit: str
    limit: int
    remaining: int
    reset_s: float | None = None  # until all of it is there again

    @property
    def is_low(self) -> bool:
        return self.remaining <= self.limit * LOW_SHARE

    def __str__(self) -> str:
        again = "" if self.reset_s is None else f", all of them again in {self.reset_s:.0f} s"
        return f"{self.remaining:,} of {self.limit:,} {self.unit.replace('-', ' ')} left{again}"


def parse_rate_limits(headers: Mapping[str, str], now: datetime | None = None) -> tuple[RateLimit, ...]:
    """Return the limits that the headers tell; those that cannot be read are left out."""
    found = []
    for unit in UNITS:
        for names in _names(unit):
            limit, remaining = (_number(headers.get(name)) for name in names[:2])
            if limit is not None and remaining is not None:
                found.append(RateLimit(unit, limit, remaining, _reset(headers.get(names[2]), now)))
                break
    return tuple(found)


def _names(unit: str) -> tuple[tuple[str, str, str], ...]:
    return (
        (f"x-ratelimit-limit-{unit}", f"x-ratelimit-remaining-{unit}", f"x-ratelimit-reset-{unit}"),
        (
            f"anthropic-ratelimit-{unit}-limit",
            f"anthropic-ratelimit-{unit}-remaining",
            f"anthropic-ratelimit-{unit}-reset",
        ),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def _reset(text: str | None, now: datetime | None) -> float | None:
    """Return the seconds of a duration such as 6m0s, of a plain number, or until an RFC 3339 time."""
    if not text:
        return None
    try:
        match = _DURATION.fullmatch(text)
        if match is not None:
            return sum(
                float(part) * size for part, size in zip(match.groups(), _SECONDS, strict=True) if part
            )
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text):
            return float(text)
        at = datetime.fromisoformat(text)
        return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
