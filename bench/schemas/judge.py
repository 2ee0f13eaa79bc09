"""A process that compiles schemas, bounded in memory and stopped when it takes too long."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.processes import clean_environment

ROOT = Path(__file__).parents[2]
SCHEMA_S = 10.0


class Judge:
    """Asks a child process about schemas, one at a time; a child that is lost is replaced."""

    def __init__(self) -> None:
        self.runaways = 0
        self._process = _start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def ask(
        self, schema: dict[str, Any], tests: list[dict[str, Any]], *, is_strict: bool = True
    ) -> dict[str, Any]:
        """`problem`, None if the schema is taken; and `admitted`, which of the tests' instances then are."""
        question = {"schema": schema, "instances": [test["data"] for test in tests], "is_strict": is_strict}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SCHEMA_S)
        answer = self._process.stdout.readline() if ready else ""
        if not answer:
            self._end()
            self.runaways += 1
            self._process = _start()
            return {"problem": "it takes too long or too much memory", "admitted": []}
        found: dict[str, Any] = json.loads(answer)
        return found

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.schemas.child"],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
