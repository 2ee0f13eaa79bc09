#!/usr/bin/env bash
# asyncio, CPython 3.11.2, 3.11.7, 3.12.1 and 3.13.0: `Process.wait()` of a process whose output is
# `asyncio.subprocess.PIPE` returns when everybody has closed that pipe, not when the process has ended. A grandchild
# that inherited the pipe keeps a supervisor waiting. 3.10.13 returns at once; so do all with a pipe of `os.pipe()`.
# Seen: "PIPE: exit status 3 after 2 s, os.pipe(): exit status 3 after 0 s".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" - > seen <<'PYTHON'
import asyncio
import os
import time

COMMAND = ("/bin/sh", "-c", "sleep 2 & sleep 0.3; exit 3")  # the grandchild has its output


async def seconds(output):
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(*COMMAND, stdout=output)
    status = await process.wait()
    waited = time.monotonic() - started
    if process.stdout:
        await process.stdout.read()
    return f"exit status {status} after {waited:.0f} s"


async def main():
    ours, theirs = os.pipe()
    print(f"PIPE: {await seconds(asyncio.subprocess.PIPE)}, os.pipe(): {await seconds(theirs)}")


asyncio.run(main())
PYTHON
cat seen
grep -qx 'PIPE: exit status 3 after 2 s, os.pipe(): exit status 3 after 0 s' seen
