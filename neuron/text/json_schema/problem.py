"""What is wrong with a schema, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a client's schema: its JSON pointer, and the URI that references there are relative to."""

    pointer: str = ""
    base: str = ""
    depth: int = 0

    @property
    def keyword(self) -> str:
        """The last step."""
        return self.pointer.rpartition("/")[2]

    def __truediv__(self, step: str | int) -> Place:
        escaped = str(step).replace("~", "~0").replace("/", "~1")
        return Place(f"{self.pointer}/{escaped}", self.base, self.depth + 1)


class SchemaError(Exception):
    """A schema that cannot be enforced as asked for: the JSON pointer of the keyword, and the reason."""

    def __init__(self, pointer: str, reason: str) -> None:
        super().__init__(f"{pointer}: {reason}")
        self.pointer = pointer
        self.reason = reason
