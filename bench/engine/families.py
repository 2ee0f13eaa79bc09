"""The group `families`: a small model of each kind of layers that is not the common one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench import command
from bench.engine import hybrid, mla, moe

PARTS = {"hybrid": hybrid, "moe": moe, "mla": mla}
FIGURES = tuple(f"{name}_{key}" for name, part in PARTS.items() for key in part.FIGURES)


def measure(run: command.Run) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = part.measure(run, Path(folder), run.budget.share(1 / len(PARTS)))
        run.say(f"{name}: {runs[name]}")
        figures |= {f"{name}_{key}": runs[name].get(key) for key in part.FIGURES}
    return figures | {"runs": runs}
