"""The budget of a session, as configured: what it may use before the agent asks whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helexa_acp.config_values import BadValueError, currency, positive_int, positive_number


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens are those of prompts and replies; None is no limit."""

    tokens: int | None = None
    cost: float | None = None
    currency: str = "USD"


def parse_budget(value: Any) -> Budget:
    """Return the budget of a parsed `[budget]` table. Raises BadValueError."""
    if not isinstance(value, dict):
        raise BadValueError("budget: must be a table with tokens or cost")
    unknown = value.keys() - _KEYS.keys()
    if unknown:
        raise BadValueError(f"budget: unknown key {min(unknown)!r}; the keys are {', '.join(_KEYS)}")
    return Budget(**{key: check(f"budget.{key}", value[key]) for key, check in _KEYS.items() if key in value})


_KEYS: dict[str, Callable[[str, Any], Any]] = {
    "tokens": positive_int,
    "cost": positive_number,
    "currency": currency,
}
