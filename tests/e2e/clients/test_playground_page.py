"""The playground in a browser, by keyboard, in front of the admin, a gateway and a scripted node."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fleet.admin import playground
from fleet.snapshot import ProfileView
from tests.e2e.clients.browser import Page, browser, serving_admin
from tests.e2e.clients.running import WEATHER
from tests.gateway.conftest import House
from tests.stubs.fake_node import STREAM_HEAD, Request, chunk, framed, sse
from tests.stubs.script import follow

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume"),  # static files
]

SCHEMA = '{"type": "object"}'
TOOLS = json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": {}}}])
READY = "document.querySelector('#columns select option')"
FACTS = "[...document.querySelectorAll('.facts')]"
ENDED = f"{FACTS}.length && {FACTS}.every((each) => each.querySelector('a'))"


@dataclass
class Playground:
    page: Page
    house: House

    async def ask(self, question: str) -> None:
        """Type a question where the focus is, and send it."""
        await self.page.type(question)
        await self.page.press("Enter")

    async def fill(self, fields: dict[str, str]) -> None:
        """Open the settings and fill fields of theirs, in the page's order."""
        await self.page.tab_to("#settings summary")
        await self.page.press("Enter")
        for selector, text in fields.items():
            await self.page.tab_to(selector)
            await self.page.type(text)

    async def turns(self, selector: str = ".turn > div:not(.facts)") -> list[str]:
        """The texts that are shown, empty ones left out."""
        shown = f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.textContent)"
        return [text for text in await self.page.value(shown) if text]

    def asked(self) -> list[dict]:
        """The bodies of chats that the node was asked for."""
        return [each.json for each in self.house.node.requests if each.path.endswith("/chat/completions")]


@pytest.fixture
async def shown(staff, house, tmp_path, monkeypatch) -> AsyncIterator[Playground]:
    """The page, open and filled with the gateway's models."""
    gateway = f"http://127.0.0.1:{house.port}"
    monkeypatch.setattr(playground, "_api_url", lambda: gateway)
    async with serving_admin() as url, browser(tmp_path) as page:
        await page.open(f"{url}fleet/playground/", staff.cookies["cortex_session"].value)
        await page.until(READY)
        yield Playground(page, house)
        assert await page.errors() == []


async def test_an_answer_is_shown_while_it_comes_and_explained_after(shown: Playground):
    is_loaded, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(b": loading m on n0: 40 %\n\n"))
        await is_loaded.wait()
        writer.write(framed(chunk({"content": "Hello"})))
        await go_on.wait()
        writer.write(framed(chunk({"content": " there."})) + framed(chunk({}, "stop")))
        writer.write(framed(sse(b"[DONE]")) + b"0\r\n\r\n")

    shown.house.node.answer = answer
    await shown.page.tab_to("#question")
    await shown.page.type("One")
    await shown.page.press("Shift", "Enter")
    await shown.ask("two?")
    await shown.page.until("document.querySelector('.facts')?.textContent === 'loading m on n0: 40 %'")
    is_loaded.set()
    await shown.page.until("document.querySelector('.turn:last-child')?.textContent.includes('Hello')")
    assert not await shown.page.value("document.querySelector('#stop').disabled")
    go_on.set()
    await shown.page.until(ENDED)
    assert await shown.turns() == ["Hello there."]
    assert shown.asked()[0]["messages"] == [{"role": "user", "content": "One\ntwo?"}]
    assert await shown.page.value("document.querySelector('#stop').disabled")
    assert await shown.page.value("document.activeElement.id") == "question"
    record = await shown.house.record()
    link = await shown.page.value("document.querySelector('.facts a').href")
    assert link.endswith(f"/{record.request_id}/")


async def test_stop_ends_the_request(shown: Playground):
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(chunk({"content": "Hello"})))
        await request.gone.wait()

    shown.house.node.answer = answer
    await shown.page.tab_to("#question")
    await shown.ask("Hi")
    await shown.page.until("document.querySelector('.turn:last-child')?.textContent.includes('Hello')")
    await shown.page.tab_to("#stop")
    await shown.page.press("Enter")
    assert await shown.page.until("document.querySelector('[role=alert]')?.textContent") == "stopped"
    (request,) = (each for each in shown.house.node.requests if each.path.endswith("/chat/completions"))
    async with asyncio.timeout(60):
        await request.gone.wait()


async def test_thoughts_are_folded_and_results_of_tools_are_sent(shown: Playground):
    shown.house.node.answer = follow(WEATHER, reasoning="Hm, Oslo.")
    await shown.fill({"#system": "Be brief.", "#temperature": "0.5", "#schema": SCHEMA, "#tools": TOOLS})
    await shown.page.tab_to("#question")
    await shown.ask("How is it?")
    await shown.page.until("document.querySelector('form.results')")
    (body,) = shown.asked()
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["tools"]) == (0.5, json.loads(TOOLS))
    assert body["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
    assert await shown.turns(".tool") == ['get_weather({"city": "Oslo"})']
    assert await shown.page.value("document.querySelector('.turn details').open") is False
    assert await shown.turns(".turn details div") == ["Hm, Oslo."]
    await shown.page.press("Shift", "Tab")
    while not await shown.page.value("document.activeElement.matches('form.results textarea')"):
        await shown.page.press("Shift", "Tab")
    await shown.page.type("Rain.")
    await shown.page.tab_to("form.results button")
    await shown.page.press("Enter")
    await shown.page.until("document.querySelector('#columns').textContent.includes('All done.')")
    last = shown.asked()[-1]["messages"][-1]
    assert (last["role"], last["content"]) == ("tool", "Rain.")


async def test_what_is_not_json_is_not_sent(shown: Playground):
    await shown.fill({"#schema": "{no"})
    await shown.page.tab_to("#question")
    await shown.ask("Hi")
    assert "not JSON" in await shown.page.until("document.querySelector('#schema').validationMessage")
    assert shown.asked() == []


async def test_two_models_answer_beside_each_other(shown: Playground):
    house = shown.house
    profiles = {"m": ProfileView("m", context=4096), "other": ProfileView("other", context=4096)}
    house.control.change(profiles=profiles)
    await house.node.set_model("other")
    await house.until_routable("other")
    await shown.page.value("location.reload()")
    await shown.page.until("document.querySelectorAll('#columns option').length === 2")
    await shown.page.tab_to("#beside")
    await shown.page.press("Space")
    await shown.page.press("Shift", "Tab")
    while await shown.page.value("document.activeElement.id") != "question":
        await shown.page.press("Shift", "Tab")
    await shown.ask("Hi")
    await shown.page.until(f"{FACTS}.length === 2 && {ENDED}")
    assert sorted(body["model"] for body in shown.asked()) == ["m", "other"]
    assert await shown.turns() == ["Hello there.", "Hello there."]


async def test_a_picture_is_sent_with_the_question(shown: Playground, tmp_path: Path):
    await shown.house.node.set_model("m", capabilities=["chat", "vision"])
    await shown.house.until(lambda snapshot: "vision" in snapshot.replicas("m")[0][1].capabilities)
    path = tmp_path / "dot.png"
    path.write_bytes(_png())
    await shown.page.upload("#picture", path)
    await shown.page.until("document.querySelector('#pictures img')")
    await shown.page.tab_to("#question")
    await shown.ask("What is it?")
    await shown.page.until(ENDED)
    assert await shown.page.value("document.querySelector('.turn.user img').src.length") > 0
    text, picture = shown.asked()[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")


def _png() -> bytes:
    """One white pixel."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", size)
        + part(b"IDAT", zlib.compress(b"\0\xff"))
        + part(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["curl", "python", "claude"])
async def test_a_chat_is_copied_as_what_runs_elsewhere(shown: Playground, tmp_path: Path, kind: str):
    await shown.page.tab_to("#question")
    await shown.page.type("It's 5 o'clock, \"so\"")
    await shown.page.tab_to("#copy")
    await shown.page.type({"curl": "c", "python": "P", "claude": "Claude"}[kind])
    await shown.page.until("document.querySelector('#told').textContent === 'copied'")
    text = await shown.page.value("navigator.clipboard.readText()")
    printed = await asyncio.to_thread(_run, kind, text, tmp_path)
    if kind == "claude":
        assert printed.split() == [f"http://127.0.0.1:{shown.house.port}", "secret", "m", "m"]
        return
    assert "Hello" in printed
    assert shown.asked()[-1]["messages"] == [{"role": "user", "content": "It's 5 o'clock, \"so\""}]


def _run(kind: str, text: str, home: Path) -> str:
    """What the copied text prints where a key is given; Claude Code's stand-in prints its settings."""
    names = ("BASE_URL", "AUTH_TOKEN", "MODEL", "SMALL_FAST_MODEL")
    stand_in = home / "claude"
    stand_in.write_text("#!/bin/sh\necho " + " ".join(f"$ANTHROPIC_{name}" for name in names) + "\n")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    environment = {
        "PATH": f"{home}:{os.environ['PATH']}",
        "CORTEX_KEY": "secret",
        "HOME": str(home),
        "NO_PROXY": "*",
    }
    command = ["sh", "-c", text] if kind != "python" else [sys.executable, "-c", text.replace("…", "secret")]
    return _output(command, environment)


def _output(command: Sequence[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
