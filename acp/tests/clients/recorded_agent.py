"""recorded_agent.py FILE COMMAND...: passes lines between a client and the agent COMMAND, and records them.

Each line of FILE is a JSON array: who sent it (`client` or `agent`), and what.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TextIO


def main() -> int:
    with Path(sys.argv[1]).open("a", buffering=1) as record:
        agent = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sides = ("client", sys.stdin.buffer, agent.stdin, record)
        threading.Thread(target=pass_on, args=sides, daemon=True).start()
        pass_on("agent", agent.stdout, sys.stdout.buffer, record)
        return agent.wait()


def pass_on(who: str, source: IO[bytes], target: IO[bytes], record: TextIO) -> None:
    for line in source:
        record.write(json.dumps([who, line.decode()]) + "\n")
        try:
            target.write(line)
            target.flush()
        except BrokenPipeError:
            return
    target.close()


if __name__ == "__main__":
    sys.exit(main())
