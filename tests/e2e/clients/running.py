"""Runs other people's programs against a gateway of this process."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.gateway.conftest import House
from tests.stubs.fake_node import USAGE

DEADLINE_S = 300  # some take a minute on a busy machine; only a hang takes longer
WEATHER = [("get_weather", {"city": "Oslo"})]  # the call that libraries are told to make
TOLD = {  # and what they are to make of it
    "name": "get_weather",
    "arguments": {"city": "Oslo"},
    "streamed": {"city": "Oslo"},
    "text": "All done.",
    "tokens": USAGE["total_tokens"],
}


async def run(command: list[str | Path], cwd: Path, home: Path, **env: str) -> str:
    """What it printed; a client that fails or does not end fails the test."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "NO_PROXY": "*"} | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, f"{out.decode()[-3000:]}\n{err.decode()[-3000:]}"
    return out.decode()


def results(house: House) -> list[str]:
    """What the tools gave back, as the node was told."""
    messages = house.node.requests[-1].json["messages"]
    return [str(message["content"]) for message in messages if message["role"] == "tool"]


def last_line(told: str) -> Any:
    """The JSON that a script prints last, behind what its libraries may say."""
    return json.loads(told.strip().splitlines()[-1])
