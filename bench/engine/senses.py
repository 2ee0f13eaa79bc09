"""The group `senses`: what an engine does besides reading and writing plain text, token by token."""

from __future__ import annotations

from typing import Any

from bench import command
from bench.engine import adapters, drafts, heads, ranking, sight
from bench.engine.parts import measure_parts

PARTS: dict[str, Any] = {
    "drafts": drafts,
    "adapters": adapters,
    "sight": sight,
    "ranking": ranking,
    "heads": heads,
}
FIGURES = tuple(key for part in PARTS.values() for key in part.FIGURES)


def measure(run: command.Run) -> dict[str, Any]:
    runs = measure_parts(run, PARTS)
    figures = {key: runs[name].get(key) for name, part in PARTS.items() for key in part.FIGURES}
    return figures | {"runs": runs}
