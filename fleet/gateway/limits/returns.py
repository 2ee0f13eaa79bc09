"""What a worker tells Redis of keys' limits without waiting, and keeps until it is confirmed."""

from __future__ import annotations

from dataclasses import dataclass

from ext.prefetch import Grant
from fleet.key_limits import Remainder
from fleet.snapshot import KeyView


@dataclass(slots=True)
class Settlement:
    """A request that ended."""

    key: KeyView
    grant: Grant
    used: int
    again: bool = False  # it was sent before, and may have arrived


@dataclass(slots=True)
class Release:
    """What is left of a prefetch."""

    key: KeyView
    remainder: Remainder
    again: bool = False


Return = Settlement | Release
