"""What a part consists of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class LeftOutError(Exception):
    """A case cannot be measured here; the message says why."""


class WrongError(Exception):
    """A case was measured, and its value is one that must not be."""

    def __init__(self, value: float, message: str) -> None:
        super().__init__(message)
        self.value = value


class Case(NamedTuple):
    """One measurement. `measure` returns a value, or a text for a fact; `how` names the path that runs."""

    name: str
    unit: str
    how: str
    measure: Callable[[], float | str]
