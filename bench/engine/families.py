"""The group `families`: a small model of each kind of layers that is not the common one."""

from __future__ import annotations

from typing import Any

from bench import command
from bench.engine import hybrid, mla, moe
from bench.engine.parts import measure_parts

PARTS = {"hybrid": hybrid, "moe": moe, "mla": mla}
FIGURES = tuple(f"{name}_{key}" for name, part in PARTS.items() for key in part.FIGURES)


def measure(run: command.Run) -> dict[str, Any]:
    runs = measure_parts(run, PARTS)
    figures = {f"{name}_{key}": runs[name].get(key) for name, part in PARTS.items() for key in part.FIGURES}
    return figures | {"runs": runs}
