"""The log files that are kept of each process: a bounded part of each, from its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MAX_BYTES = 4 << 20  # of a file, that are read at once
MAX_LINES = 1000
BAD = frozenset({"warning", "error", "critical"})


class LogPart(NamedTuple):
    """Lines of a log, oldest first; the next part begins at `end`: a file's byte, else a line's number."""

    lines: list[str]
    end: int


def names(folder: Path) -> list[str]:
    """Return the processes that have a log there, in order."""
    return sorted(path.stem for path in folder.glob("*.log") if path.is_file())


def read(folder: Path, name: str, *, after: int | None = None, match: str = "") -> LogPart:
    """Return the last lines with `match` in them, or those from the byte `after` on.

    A file that is shorter than `after` was begun anew, and is read from its end. Raises FileNotFoundError for
    a name that is none of `names`.
    """
    if name not in names(folder):
        raise FileNotFoundError(name)
    path = folder / f"{name}.log"
    size = path.stat().st_size
    start = max(0, size - MAX_BYTES)
    if after is not None and after <= size:
        start = max(start, after)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size - start)
    whole = data.rfind(b"\n") + 1  # a line that is being written is left for the next time
    lines = data[:whole].decode(errors="replace").splitlines()
    if start and start != after:
        lines = lines[1:]  # it begins in the middle of one
    return LogPart([line for line in lines if match in line][-MAX_LINES:], start + whole)


def errors(folder: Path, most: int) -> Iterator[dict[str, Any]]:
    """Yield the last warnings and errors of each process."""
    for name in names(folder):
        entries = [entry for line in read(folder, name).lines if (entry := _entry(line))]
        yield from [entry for entry in entries if entry.get("level") in BAD][-most:]


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
