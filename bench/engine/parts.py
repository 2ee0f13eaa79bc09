"""Groups that are made of parts, each of which has its share of the group's time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import command


def measure_parts(run: command.Run, parts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each part measured, by its name. Parts are modules with `measure(run, folder, budget)`."""
    runs = {}
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = part.measure(run, Path(folder), run.budget.share(1 / len(parts)))
        run.say(f"{name}: {runs[name]}")
    return runs
