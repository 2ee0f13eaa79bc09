"""Drives an agent with the official Python SDK, in an environment that has nothing else.

It takes the arguments of ts_sdk_client.mjs, does the same and prints the same report.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import acp
from acp.schema import AllowedOutcome, ClientCapabilities, FileSystemCapabilities


class TestClient(acp.Client):
    def __init__(self) -> None:
        self.seen: dict[str, Any] = {"updates": [], "permissions": 0, "writes": 0, "reads": 0}
        self.spoke = asyncio.Event()
        self.options = asyncio.Event()

    async def request_permission(self, session_id, tool_call, options, **kwargs):
        self.seen["permissions"] += 1
        option = next(o for o in options if o.kind == "allow_once")
        return acp.RequestPermissionResponse(
            outcome=AllowedOutcome(outcome="selected", option_id=option.option_id)
        )

    async def session_update(self, session_id, update, **kwargs):
        self.seen["updates"].append(update.model_dump(mode="json", by_alias=True, exclude_unset=True))
        if update.session_update == "agent_message_chunk":
            self.spoke.set()
        if update.session_update == "config_option_update":
            self.options.set()

    async def read_text_file(self, session_id, path, line=None, limit=None, **kwargs):
        self.seen["reads"] += 1
        return acp.ReadTextFileResponse(content=await asyncio.to_thread(Path(path).read_text))

    async def write_text_file(self, session_id, path, content, **kwargs):
        self.seen["writes"] += 1
        await asyncio.to_thread(Path(path).write_text, content)
        return acp.WriteTextFileResponse()


async def main(cwd: str, let_run: str, to_cancel: str, command: list[str]) -> None:
    client = TestClient()
    seen = client.seen
    async with acp.spawn_agent_process(client, command[0], *command[1:], env=dict(os.environ)) as (agent, _):
        capabilities = ClientCapabilities(
            fs=FileSystemCapabilities(read_text_file=True, write_text_file=True)
        )
        started = await agent.initialize(
            protocol_version=acp.PROTOCOL_VERSION, client_capabilities=capabilities
        )
        seen["protocol"] = started.protocol_version
        session = (await agent.new_session(cwd=cwd, mcp_servers=[])).session_id
        first = await agent.prompt(session_id=session, prompt=[acp.text_block(let_run)])
        seen["first"] = first.stop_reason
        client.spoke.clear()
        turn = asyncio.create_task(agent.prompt(session_id=session, prompt=[acp.text_block(to_cancel)]))
        if os.environ.get("CANCEL_AT_ONCE"):
            await asyncio.sleep(0)  # until the prompt is written
        else:
            await client.spoke.wait()
        await agent.cancel(session_id=session)
        seen["second"] = (await turn).stop_reason
        client.options.clear()
        await agent.set_session_mode(session_id=session, mode_id="plan")
        await client.options.wait()  # the SDK delivers notifications in tasks of their own
        live, seen["updates"] = seen["updates"], []
        await agent.load_session(session_id=session, cwd=cwd, mcp_servers=[])
        seen["replayed"], seen["updates"] = seen["updates"], live
    sys.stdout.write(json.dumps(seen) + "\n")


asyncio.run(main(*sys.argv[1:4], sys.argv[4:]))
