"""The environment of the programs that a session runs: the agent's own, without the keys of its endpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class CommandEnvironment:
    """Which variables programs get. A key passes only if its whole name is listed, not by a pattern."""

    passed: tuple[str, ...] = ("*",)  # patterns of names
    key_names: frozenset[str] = frozenset()
    key_values: frozenset[str] = field(default=frozenset(), repr=False)

    def variables(self, env: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the variables that a program gets."""
        return {name: value for name, value in env.items() if self._passes(name, value)}

    def withheld(self, env: Mapping[str, str] = os.environ) -> list[str]:
        """Return the names of those that it does not get, and of keys that another process may have."""
        absent = self.key_names - env.keys() - set(self.passed)
        return sorted([*absent, *(name for name, value in env.items() if not self._passes(name, value))])

    def _passes(self, name: str, value: str) -> bool:
        if name in self.key_names or value in self.key_values:
            return name in self.passed
        return any(fnmatchcase(name, pattern) for pattern in self.passed)
