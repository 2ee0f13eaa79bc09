"""What language servers say of an edit: within a bounded time, whatever they do, and not after the session."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from acp_testing.process import choose, fold, without_user

from helexa_acp.cancellation import CancelToken
from helexa_acp.language_servers import KNOWN, DiagnosticsSettings, LanguageServer
from helexa_acp.tools.lsp import server
from helexa_acp.tools.lsp.servers import LanguageServers

STAND_IN = Path(__file__).parent / "lsp_server.py"
LONG_S = 60.0  # nothing waits so long
SHORT_S = 0.3

# Servers


class House:
    """The language servers of a session, which talk to the stand-in, and what they tell."""

    def __init__(
        self, folder: Path, log: Path, mode: str, timeout_s: float, *, permitted: bool = True
    ) -> None:
        self.folder, self.log = folder, log
        self.notices: list[str] = []
        self.asked: list[str] = []
        self._permitted = permitted
        server = LanguageServer(
            "stand-in", sys.executable, (str(STAND_IN), str(log), mode), {".x": "xlang"}, settings={"s": 5}
        )
        env = {"PATH": os.environ["PATH"]}
        settings = DiagnosticsSettings((server,), timeout_s)
        self.servers = LanguageServers(settings, [folder], env, permit=self._permit, notice=self._notice)
        self.cancel = CancelToken()

    async def _permit(self, found, cancel):
        self.asked.append(found.server.name)
        return self._permitted

    def _notice(self, severity, title, description):
        self.notices.append(f"{title}: {description}")

    async def edit(self, name: str, text: str, *, commands: bool = False) -> str:
        path = self.folder / name
        path.write_text(text)
        async with asyncio.timeout(LONG_S / 2):
            return await self.servers.report(path, text, self.cancel, commands_have_run=commands)

    def messages(self, method: str) -> list[dict]:
        return [m["params"] for m in self.entries() if m.get("method") == method]

    def entries(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    async def until(self, found) -> None:
        async with asyncio.timeout(LONG_S):
            while not found():
                await asyncio.sleep(0.01)


@pytest.fixture
async def house(project, tmp_path):
    houses = []

    def build(mode, timeout_s=LONG_S, **more):
        houses.append(House(project, tmp_path / "log", mode, timeout_s, **more))
        return houses[-1]

    yield build
    for built in houses:
        await built.servers.aclose()


@pytest.mark.parametrize("mode", ["pull", "push", "unversioned", "sparing"])
async def test_the_problems_of_each_version_are_told(house, mode):
    it = house(mode)
    assert await it.edit("a.x", "fine\n  BAD\n") == "stand-in says of this file:\n2:3 error: it is BAD (7)"
    assert await it.edit("a.x", "fine\n") == ""
    assert await it.edit("b.x", "BAD\n") == "stand-in says of this file:\n1:1 error: it is BAD (7)"
    assert await it.edit("a.x", "BAD\n") == "stand-in says of this file:\n1:1 error: it is BAD (7)"
    assert await it.edit("c.other", "BAD\n") == ""
    assert it.notices == []
    assert [o["textDocument"]["version"] for o in it.messages("textDocument/didChange")] == [2]
    closed = [c["textDocument"]["uri"].rpartition("/")[2] for c in it.messages("textDocument/didClose")]
    assert closed == ["a.x", "b.x"]
    answers = {str(e["id"]): e for e in it.entries() if "method" not in e and "id" in e}
    assert answers["c"]["result"] == [5, None]
    assert answers["9"]["error"]["code"] == -32601
    assert len([e for e in it.entries() if "pid" in e]) == 1


async def test_what_a_server_does_not_publish_again_still_holds(house, monkeypatch):
    monkeypatch.setattr(server, "SILENCE_S", 0.3)
    it = house("sparing")
    for text in ("BAD\n", "BAD \n", "fine\n", "finer\n", "BAD\n"):
        assert ("it is BAD" in await it.edit("a.x", text)) is text.startswith("BAD")
    assert it.notices == []


@pytest.mark.parametrize("mode", ["hang-at-start", "hang"])
async def test_a_server_that_hangs_is_waited_for_once(house, mode):
    it = house(mode, SHORT_S)
    assert await it.edit("a.x", "BAD\n") == ""
    it.servers._settings = DiagnosticsSettings(it.servers._settings.servers, LONG_S)
    assert await it.edit("a.x", "BAD again\n") == ""
    assert await it.edit("b.x", "BAD\n") == ""
    assert len(it.notices) == 1
    assert "stand-in is late with its diagnostics: It has not answered within 0.3 s" in it.notices[0]


async def test_edits_at_the_same_time_get_each_their_own_problems(house):
    it = house("push")
    said = await asyncio.gather(it.edit("a.x", "BAD\n"), it.edit("b.x", "\nBAD\n"), it.edit("c.x", ""))
    assert [words.rpartition("file:\n")[2] for words in said] == [
        "1:1 error: it is BAD (7)",
        "2:1 error: it is BAD (7)",
        "",
    ]


async def test_a_late_server_counts_again_once_it_has_answered(house):
    it = house("late", SHORT_S)
    assert await it.edit("a.x", "BAD\n") == ""
    Path(f"{it.log}.go").touch()
    it.servers._settings = DiagnosticsSettings(it.servers._settings.servers, LONG_S)
    await it.until(lambda: all(slot.is_free for slot in it.servers._slots.values()))
    assert "1:1 error" in await it.edit("a.x", "BAD\n")
    assert len(it.notices) == 1


@pytest.mark.parametrize(
    ("mode", "why"), [("die", "it ended with exit code 3"), ("nonsense", "a head without a usable length")]
)
async def test_a_server_that_fails_is_told_once_and_not_started_again(house, mode, why):
    it = house(mode)
    for name in ("a.x", "a.x", "b.x"):
        assert await it.edit(name, "BAD\n") == ""
    assert len(it.notices) == 1
    assert f"stand-in gives no diagnostics in this session: {why}" in it.notices[0]
    assert len([e for e in it.entries() if "pid" in e]) == 1


async def test_a_program_that_cannot_run_is_a_server_that_fails(project, tmp_path):
    it = House(project, tmp_path / "log", "push", LONG_S)
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF")
    broken.chmod(0o755)
    it.servers._settings = DiagnosticsSettings((LanguageServer("b", str(broken), (), {".x": "x"}),), LONG_S)
    assert await it.edit("a.x", "BAD\n") == ""
    assert len(it.notices) == 1


@pytest.mark.parametrize("mode", ["push", "stubborn", "hang-at-start"])
async def test_servers_end_with_the_session_and_their_children_too(house, mode):
    it = house(mode, SHORT_S if mode == "hang-at-start" else LONG_S)
    await it.edit("a.x", "BAD\n")
    started = next(e for e in it.entries() if "pid" in e)
    await it.servers.aclose()
    for pid in (started["pid"], started["child"]):
        assert not pid or not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


async def test_a_cancelled_turn_does_not_wait(house):
    it = house("hang")
    editing = asyncio.create_task(it.edit("a.x", "BAD\n"))
    await it.until(lambda: it.messages("textDocument/didOpen"))
    it.cancel.cancel()
    assert await editing == ""
    assert it.notices == []


async def test_a_server_that_is_not_permitted_does_not_run(house):
    it = house("push", permitted=False)
    assert await it.edit("a.x", "BAD\n") == ""
    assert await it.edit("b.x", "BAD\n") == ""
    assert it.asked == ["stand-in"]
    assert it.entries() == []


async def test_files_that_commands_have_changed_are_told(house, project):
    it = house("push")
    await it.edit("a.x", "BAD\n")
    (project / "node_modules").mkdir()
    for name in ("new.x", "new.y", "node_modules/new.x"):
        (project / name).write_text("")
    await it.edit("a.x", "BAD\n", commands=True)
    told = [
        c["uri"].rpartition("/")[2]
        for m in it.messages("workspace/didChangeWatchedFiles")
        for c in m["changes"]
    ]
    assert {name for name in told if name != "a.x"} == {"new.x"}


# The whole agent

SCRIPT = """
[[turn]]
[[turn.reply]]
steps = [{ call = "write", args = { path = "a.x", content = "BAD\\n" } }]
[[turn.reply]]
steps = [{ text = "seen" }]
"""


@pytest.fixture
def edit(script, start, project, tmp_path):
    async def run(command, option="allow_once"):
        args = json.dumps([str(STAND_IN), str(tmp_path / "log"), "push"])
        server = f'[[language_servers]]\nname = "stand-in"\ncommand = "{command}"\nargs = {args}\nlanguages = {{ ".x" = "x" }}\n'
        script(SCRIPT, server)
        async with start() as agent:
            agent.answers["session/request_permission"] = choose(option)
            await agent.initialize()
            session = await agent.new_session(project)
            await agent.request("session/set_mode", sessionId=session, modeId="accept_edits")
            assert await agent.prompt(session, "go") == "end_turn"
            live = fold(agent.updates)
            agent.asked = agent.calls("session/request_permission")
            agent.messages.clear()
            await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
            assert dict(without_user(fold(agent.updates))) == dict(live)
            agent.cards = [card for key, card in live if key.startswith("card")]
            agent.log = next(
                (Path(agent.env["HOME"]) / ".local/share/helexa-acp/sessions").glob("*.jsonl")
            ).read_text()
            return agent

    return run


SAID = "stand-in says of this file:\n1:1 error: it is BAD (7)"


async def test_the_card_and_the_model_get_what_is_wrong(edit):
    agent = await edit(sys.executable)
    assert agent.asked == []
    (card,) = agent.cards
    assert [content["type"] for content in card["content"]] == ["diff", "content"]
    assert SAID in card["content"][1]["content"]["text"]
    assert json.dumps(f"a.x is written (1 lines)\n{SAID}")[1:-1] in agent.log


@pytest.mark.parametrize(("option", "runs"), [("allow_always", True), ("reject_once", False)])
async def test_a_server_of_the_project_is_asked_about(edit, project, option, runs):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "stand-in-server").symlink_to(sys.executable)
    agent = await edit("stand-in-server", option)
    (asked,) = agent.asked
    title = "Run stand-in for diagnostics: .venv/bin/stand-in-server"
    assert asked["params"]["toolCall"]["title"] == title
    written, starting = agent.cards
    assert (starting["title"], starting["status"]) == (title, "completed" if runs else "failed")
    assert written["status"] == "completed"
    assert (SAID in json.dumps(written["content"]).replace("\\n", "\n")) is runs
    rules = list((Path(agent.env["HOME"]) / ".local/share/helexa-acp/projects").rglob("permissions.toml"))
    assert [tomllib.loads(rule.read_text())["allow"][0]["tool"] for rule in rules] == [
        "language server"
    ] * runs


@pytest.mark.skipif(shutil.which("ruff") is None, reason="ruff is not installed")
async def test_ruff_is_understood(project):
    (project / "ruff.toml").write_text('lint.select = ["F"]\n')
    notices = []
    settings = DiagnosticsSettings((next(server for server in KNOWN if server.name == "ruff"),), LONG_S)
    servers = LanguageServers(
        settings, [project], os.environ, permit=None, notice=lambda *words: notices.append(words)
    )
    (project / "a.py").write_text("print(x)\n")
    try:
        said = await servers.report(project / "a.py", "print(x)\n", CancelToken(), commands_have_run=False)
    finally:
        await servers.aclose()
    assert said == "ruff says of this file:\n1:7 error: Undefined name `x` (F821)"
    assert notices == []
