"""A page in headless Chromium, by keyboard and JavaScript expressions, and the admin for it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from django.core.asgi import get_asgi_application

from tests.e2e.clients.install import HERE, node, npm_modules

PATIENCE_S = 300  # only a hang takes longer
MOST_TABS = 100


class Page:
    """The only page of a browser. Every method fails the test with what the browser says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def _tell(self, *command: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        answer = json.loads(line or b'{"error": "the browser ended"}')
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer["value"]

    async def open(self, url: str, session: str) -> None:
        """Load the page as who is signed in with the session."""
        await self._tell("open", url, {"name": "cortex_session", "value": session})

    async def press(self, *keys: str) -> None:
        """Press the last key while the others are held."""
        await self._tell("press", *keys)

    async def type(self, text: str) -> None:
        await self._tell("type", text)

    async def upload(self, selector: str, path: Path) -> None:
        await self._tell("upload", selector, str(path))

    async def value(self, expression: str) -> Any:
        return await self._tell("value", expression)

    async def until(self, expression: str) -> Any:
        """The expression's value, once it is true."""
        return await self._tell("until", expression)

    async def errors(self) -> list[str]:
        """What scripts of the page threw."""
        found: list[str] = await self._tell("errors")
        return found

    async def tab_to(self, selector: str) -> None:
        """Go from field to field, as a keyboard does, until one that matches has the focus."""
        for _ in range(MOST_TABS):
            await self.press("Tab")
            if await self.value(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"{selector} is not reached by keyboard")


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """Run a browser, this machine's or npm's, with `folder` for its home."""
    program = await asyncio.to_thread(node)
    await asyncio.to_thread(npm_modules)
    process = await asyncio.create_subprocess_exec(
        program,
        HERE / "browser.mjs",
        shutil.which("chromium") or "",
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "NO_PROXY": "*"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Page(process)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), PATIENCE_S)
        finally:
            if process.returncode is None:
                process.kill()


@asynccontextmanager
async def serving_admin() -> AsyncIterator[str]:
    """Serve the admin in this process; the value is its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options: dict[str, Any] = {
            "lifespan": "off",
            "log_config": None,
            "ws": "none",
            "timeout_graceful_shutdown": 1,
        }
        server = uvicorn.Server(uvicorn.Config(get_asgi_application(), **options))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/admin/"
        finally:
            server.should_exit = True
            await task
