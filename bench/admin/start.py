"""How long a second start of `cortex up` takes: the first one makes its database and its secrets."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.processes import clean_environment, free_ports

PORTS = 4
READY = "cortex is ready"
LAST_S = 120


def second_start_s() -> float:
    """Seconds from the command to the line that says that it is ready."""
    with tempfile.TemporaryDirectory(prefix="cx-up-") as home:
        _start(Path(home))
        return _start(Path(home))


def _start(home: Path) -> float:
    base = next(port for port in free_ports() if port % 10 == 0)
    command = (sys.executable, "-c", "from cortex_site.cli.app import main; main()", "up")
    options = ("--home", str(home), "--base-port", str(base))
    started = time.monotonic()
    with subprocess.Popen(
        (*command, *options),
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where it says so
        text=True,
    ) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if READY in line:
                    return time.monotonic() - started
                if time.monotonic() - started > LAST_S:
                    break
            raise TimeoutError(f"cortex up: not ready within {LAST_S} s")
        finally:
            process.terminate()
            process.wait(60)
