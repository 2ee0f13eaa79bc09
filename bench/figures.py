"""Figures: what is computed from measurements, and how results are shown and kept."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The p50, the p99 and the largest of `values`; empty when there are none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    last = len(ordered) - 1
    return {
        "p50": ordered[round(last * 0.5)],
        "p99": ordered[round(last * 0.99)],
        "max": ordered[-1],
    }


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values that are not None, if any."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """`ours` over `theirs`; None where one of them was not measured."""
    return ours / theirs if ours is not None and theirs else None


def rounded(value: Any, digits: int = 5) -> Any:
    """`value` with every float in it rounded to `digits` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def table(figures: Mapping[str, Any], indent: int = 0) -> Iterator[str]:
    """The lines that show `figures` to a person, one for each key, what it holds indented below it.

    The raw measurements under `runs` are not shown.
    """
    width = max(map(len, figures), default=0)
    for key, value in figures.items():
        if key == "runs":
            continue
        head = " " * indent + key
        if isinstance(value, dict) and value:
            yield head
            yield from table(value, indent + 2)
        elif isinstance(value, list) and value:
            yield head
            yield from (" " * (indent + 2) + str(item) for item in value)
        else:
            yield f"{head:<{indent + width}}  {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None or value in ({}, []):
        return "-"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def save(figures: Mapping[str, Any], path: Path) -> None:
    """Write `figures` to `path`, whose folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
