"""Results: one JSON line each, from the processes that measure to the file that keeps them, and the table."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PIPE = "BENCH_GPU_PIPE"  # the environment variable with the descriptor that results are written to
_WIDTH = 60  # characters of a column in the table


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement. `ok` is False for a failure and None for what was left out, with the reason in `note`;
    `how` names the path that ran."""

    part: str
    name: str
    value: float | None = None
    unit: str = ""
    how: str = ""
    ok: bool | None = True
    note: str = ""

    @property
    def verdict(self) -> str:
        return {True: "", False: "FAILED: ", None: "left out: "}[self.ok] + self.note

    @property
    def title(self) -> str:
        return f"{self.part}: {self.name}" + (f" ({self.how})" if self.how else "")


def send(message: Result | dict[str, Any]) -> None:
    """Write a result, or where the measuring stands, to the process that collects them."""
    data = asdict(message) if isinstance(message, Result) else message
    os.write(int(os.environ[PIPE]), json.dumps(data).encode() + b"\n")


class Journal:
    """The results so far, also in a file that has each of them as soon as it is known."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.results: list[Result] = []
        self._file = path.open("w")

    def add(self, result: Result) -> None:
        self.results.append(result)
        self._file.write(json.dumps(asdict(result)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of a short table: tests that passed, and those left out for one reason, are counted."""
    tests = Counter(result.note for result in results if result.part == "tests" and result.ok is not False)
    for note, count in tests.items():
        yield f"{count} tests left out: {note}" if note else f"{count} tests passed"
    rows = [_row(result) for result in results if result.part != "tests" or result.ok is False]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(result: Result) -> tuple[str, str, str, str, str]:
    value = "" if result.value is None else f"{result.value:,.4g} {result.unit}"
    return result.part, result.name[:_WIDTH], value.strip(), result.how, result.verdict[:_WIDTH]


def failed(results: Iterable[Result]) -> list[str]:
    return [f"{result.title}: {result.note}" for result in results if result.ok is False]


def left_out(results: Iterable[Result]) -> list[str]:
    return [f"{result.title}: {result.note}" for result in results if result.ok is None]
