"""The `gpu` tests, a result each: python -m bench.gpu.tests OPTIONS… tests=SECONDS

Only files with such tests are collected, and neither the project's configuration of pytest nor its conftest
for all tests is read: both need packages that a bare machine does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.gpu.results import Result, send

ROOT = Path(__file__).parents[2]
DEVICE = ROOT / "tests" / "device"
PART = "tests"


def files() -> list[Path]:
    """The files that have `gpu` tests."""
    return [path for path in sorted(DEVICE.glob("test_*.py")) if "mark.gpu" in path.read_text()]


class Reporter:
    """A plugin of pytest that sends each test's result."""

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            send(Result(PART, report.nodeid, ok=False, note=_reason(report)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        verdict = {"passed": True, "failed": False, "skipped": None}[report.outcome]
        name = report.nodeid.rpartition("::")[2]
        note = "" if report.passed else _reason(report)
        send(Result(PART, name, report.duration, "s", ok=verdict, note=note))


def _reason(report: Any) -> str:
    """The last line of the traceback, or why a test was skipped."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).strip().splitlines()[0]


def main() -> None:
    send({"begin": PART})
    options = ["-m", "gpu", "-q", "-p", "no:cacheprovider"]
    options += ["-c", str(Path(__file__).with_name("pytest.ini")), f"--rootdir={ROOT}"]
    options += [f"--confcutdir={DEVICE}", "--import-mode=importlib"]
    status = pytest.main([*options, *map(str, files())], plugins=[Reporter()])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        send(Result(PART, "all of them", ok=False, note=f"pytest ended with {status!r}"))
    send({"end": PART})


if __name__ == "__main__":
    main()
