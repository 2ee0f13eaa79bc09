"""tap.py FILE COMMAND...: passes lines between a client and the agent COMMAND, and writes them down.

Each line of FILE is a JSON array: the time (`time.monotonic`), who sent it, and the line. `start` is the
start of the agent's process; `rss` is the resident memory of it and all of its children, in KiB, taken at the
end of each turn, before the client learns of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TextIO


def main() -> int:
    with Path(sys.argv[1]).open("a", buffering=1) as record:
        note(record, "start", "")
        agent = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        forward = threading.Thread(target=to_agent, args=(agent.stdin, record), daemon=True)
        forward.start()
        to_client(agent, record)
        return agent.wait()


def note(record: TextIO, who: str, what: str) -> None:
    record.write(json.dumps([time.monotonic(), who, what]) + "\n")


def to_agent(target: IO[bytes], record: TextIO) -> None:
    for line in sys.stdin.buffer:
        note(record, "client", line.decode())
        try:
            target.write(line)
            target.flush()
        except BrokenPipeError:
            return
    target.close()


def to_client(agent: subprocess.Popen[bytes], record: TextIO) -> None:
    assert agent.stdout is not None
    for line in agent.stdout:
        note(record, "agent", line.decode())
        if b'"stopReason"' in line:
            note(record, "rss", str(rss_kib(agent.pid)))
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def rss_kib(pid: int) -> int:
    """Return the resident memory of a process and its children; those that end meanwhile do not count."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = [
            child for of in Path(f"/proc/{pid}/task").glob("*/children") for child in of.read_text().split()
        ]
    except OSError:
        return 0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    return own + sum(rss_kib(int(child)) for child in children)


if __name__ == "__main__":
    sys.exit(main())
