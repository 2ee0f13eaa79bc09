"""The sandbox of commands: what it keeps a command from, what is said of it, and what is asked."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from acp_testing.process import FULL_CLIENT, choose

from helexa_acp.agent import modes
from helexa_acp.agent.modes import Mode
from helexa_acp.agent.permission_rules import covers
from helexa_acp.config import ConfigError, parse_config
from helexa_acp.tools.sandbox import (
    CONFINE,
    NONE_WORKS,
    Bounds,
    Bubblewrap,
    CommandAccess,
    Confinement,
    Landlock,
    find_sandbox,
)
from helexa_acp.tools.shell import ShellTool, permissions
from helexa_acp.tools.tool import PermissionRule

# The real ones, where they are


@pytest.fixture(params=["bubblewrap", "landlock"])
def sandbox(request):
    found = find_sandbox((request.param,))
    if found is None:
        pytest.skip(f"{request.param} does not work here")
    return found


@pytest.fixture
def confined(sandbox, project, tmp_path):
    """Run a command in the sandbox, which can write in the project, and return its code and output."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("kept")

    def run(command, *, network=False, timeout_s=20):
        bounds = Bounds((str(project),), str(tmp_path / "tmp"), network)
        argv = sandbox.wrap(["/bin/sh", "-c", command], str(project), bounds)
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=project
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_confined_command_writes_in_the_project_and_in_its_tmp(confined, project, tmp_path):
    code, output = confined(
        "pwd; echo x > a; mkdir b; mv a b/a; echo y > $TMPDIR/t; cat $TMPDIR/t; echo z > /dev/null; cat b/a; echo err >&2"
    )
    assert (code, output) == (0, f"{project}\ny\nx\nerr\n")
    assert (project / "b" / "a").read_text() == "x\n"
    assert (tmp_path / "tmp" / "t").read_text() == "y\n"


@pytest.mark.parametrize(
    "command",
    [
        "echo x > {out}/file",
        "echo x > {out}/new",
        ": > {out}/file",
        "rm {out}/file",
        "mv {out}/file .",
        "mkdir {out}/d",
        "ln -s /etc {out}/l",
        "ln {out}/file hard && echo x > hard",
        "ln -s {out} l && echo x > l/new",
        "touch ~/x",
        "truncate -s 0 {out}/file",
    ],
)
def test_a_confined_command_writes_nowhere_else(confined, tmp_path, command):
    out = tmp_path / "outside"
    (tmp_path / "home").mkdir()
    confined(command.format(out=out))
    assert [path.name for path in out.iterdir()] == ["file"]
    assert (out / "file").read_text() == "kept"
    assert not list((tmp_path / "home").iterdir())


CONNECT = "import socket,sys; s=socket.socket(socket.AF_INET, socket.{kind}); s.settimeout(5); s.connect(('127.0.0.1', {port})); s.send(b'x')"


@pytest.mark.parametrize("network", [False, True])
def test_the_network_is_off_unless_allowed(confined, network):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = CONNECT.format(kind="SOCK_STREAM", port=port)
        code, output = confined(shlex.join([sys.executable, "-c", command]), network=network)
        assert (code == 0) is network, output


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode != 0,
    reason="network namespaces cannot be made here",
)
def test_a_confined_command_has_a_loopback_of_its_own(confined):
    script = "import socket; s=socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()).send(b'x'); print(s.accept()[0].recv(1))"
    assert confined(shlex.join([sys.executable, "-c", script])) == (0, "b'x'\n")


@pytest.mark.parametrize("network", [False, True])
def test_local_services_are_out_of_reach(confined, tmp_path, network):
    """One could do for a command what it may not do itself, as that of Docker or of the user's systemd."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "service"))
        server.listen()
        script = f"import socket; socket.socketpair(); print(1, flush=True); socket.socket(socket.AF_UNIX).connect('{tmp_path}/service')"
        code, output = confined(shlex.join([sys.executable, "-c", script]), network=network)
    assert code != 0
    assert output.startswith("1\n")
    assert "Operation not permitted" in output


def test_without_namespaces_there_are_no_sockets_at_all():
    script = "import runpy, socket, sys; confine = runpy.run_path(sys.argv[1])['confine']; confine.__globals__['leave_network'] = lambda: False; confine([], network=False); print(1, flush=True); socket.socket()"
    done = subprocess.run(
        [sys.executable, "-c", script, CONFINE[-1]], capture_output=True, text=True, check=False
    )
    if "are not known" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "1\n"
    assert "Operation not permitted" in done.stderr


def test_the_agents_own_environment_cannot_be_read(confined):
    code, _ = confined(f"cat /proc/{os.getpid()}/environ")
    assert code != 0


@pytest.mark.skipif(find_sandbox(("landlock",)) is None, reason="Landlock does not work here")
def test_what_cannot_be_restricted_does_not_run(project):
    file = project / "file"
    file.write_text("")
    argv = Landlock(()).wrap(["echo", "ran"], "/", Bounds((str(file),), str(project)))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"add_rule {file}: Invalid argument" in done.stderr


# What is chosen and said


def test_none_is_used_that_is_not_to_be_used():
    assert find_sandbox(()) is None


def test_a_bubblewrap_that_does_not_work_is_not_used(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    find_sandbox.cache_clear()
    try:
        assert find_sandbox(("bubblewrap",)) is None
    finally:
        find_sandbox.cache_clear()


@dataclass(frozen=True)
class FakeSandbox:
    """Marks the commands that run in it, and confines nothing."""

    also: tuple[str, ...] = ()
    name: str = "fake"

    def wrap(self, argv, cwd, bounds):
        return ["env", f"IN_SANDBOX={'net' if bounds.network else 'yes'} {' '.join(bounds.writable)}", *argv]


FAKE = FakeSandbox()


@pytest.mark.parametrize(
    ("sandbox", "network", "said"),
    [
        (FAKE, False, "runs commands without asking, in a sandbox (fake) that writes only below"),
        (FAKE, True, "asks before commands, in a sandbox (fake)"),
        (FakeSandbox(("x can be done",)), False, "without network; x can be done. Asks for more"),
        (None, False, f"As Accept edits. Commands are NOT sandboxed: {NONE_WORKS}"),
    ],
)
def test_the_picker_says_what_holds_here(sandbox, network, said):
    confinement = Confinement(sandbox, ["/p"], network=network)
    described = modes.descriptions(confinement, always=False)
    assert said in described[Mode.SANDBOX][1]
    assert "sandbox" not in described[Mode.DEFAULT][1].lower()
    always = modes.descriptions(confinement, always=True)[Mode.DEFAULT][1]
    assert ("NOT sandboxed" if sandbox is None else "run in a sandbox (fake)") in always


def test_what_is_guaranteed_is_said_and_no_more():
    tight = Confinement(Bubblewrap("bwrap"), ["/p", "/q"], network=False)
    said = tight.guarantee(CommandAccess.CONFINED)
    assert "(bubblewrap): it can write files only below /p, /q and" in said
    assert "it has no network, and it reaches no local services" in said
    assert "it has the network" in tight.guarantee(CommandAccess.NETWORK)
    assert "outside the sandbox" in tight.guarantee(CommandAccess.ALL)
    landlock = Confinement(Landlock(("x can be done",)), ["/p"], network=False)
    assert landlock.guarantee(CommandAccess.CONFINED).endswith(
        "It can read what you can. Beside that, x can be done."
    )
    assert (
        Confinement(None, ["/p"], network=False).guarantee(CommandAccess.CONFINED)
        == f"Runs without a sandbox: {NONE_WORKS}."
    )


# Permissions


def test_a_rule_for_the_sandbox_does_not_permit_the_command_outside_of_it():
    confined, networked, unconfined = (
        permissions("make x", shell)[0] for shell in ("sandboxed-shell", "networked-shell", "shell")
    )
    narrow, wide = (PermissionRule(shell, "exact", "make x") for shell in ("sandboxed-shell", "shell"))
    assert [covers(narrow, p) for p in (confined, networked, unconfined)] == [True, False, False]
    assert [covers(wide, p) for p in (confined, networked, unconfined)] == [True, True, True]


async def prepared(confinement, tools, **args):
    return await ShellTool(confinement=confinement).prepare({"command": "true", **args}, tools.context)


@pytest.mark.parametrize(
    ("sandbox", "args", "confined", "tool"),
    [
        (FAKE, {}, True, "sandboxed-shell"),
        (FAKE, {"access": "network"}, False, "networked-shell"),
        (FAKE, {"access": "all"}, False, "shell"),
        (None, {}, False, "shell"),
    ],
)
async def test_only_what_is_tightly_confined_runs_without_a_question(project, sandbox, args, confined, tool):
    from acp_testing.fakes import ToolHarness

    call = await prepared(Confinement(sandbox, [str(project)], network=False), ToolHarness(project), **args)
    assert (call.is_confined, call.permissions[0].tool) == (confined, tool)
    assert modes.policy(Mode.SANDBOX, ShellTool(), call) is confined
    assert modes.policy(Mode.ACCEPT_EDITS, ShellTool(), call) is False


# The whole agent

SCRIPT = """
[[turn]]
[[turn.reply]]
steps = [{ call = "shell", args = { command = "echo x > %s/a; echo done" } }]
[[turn.reply]]
steps = [{ call = "shell", args = { command = "echo y", access = "all" } }]
[[turn.reply]]
steps = [{ call = "write", args = { path = "w", content = "w" } }]
[[turn.reply]]
steps = [{ text = "x" }]
"""
SANDBOX_MODE = {"modeId": "sandbox"}


@pytest.fixture
def run(script, start, project, tmp_path):
    (tmp_path / "outside").mkdir()

    async def run(config="", mode="sandbox", capabilities=None, answers=None):
        script(SCRIPT % (tmp_path / "outside"), config)
        async with start() as agent:
            agent.answers["session/request_permission"] = choose("allow_once")
            agent.answers |= answers or {}
            await agent.initialize(capabilities)
            new = await agent.request("session/new", cwd=str(project), mcpServers=[])
            agent.modes = {mode["id"]: mode["description"] for mode in new["modes"]["availableModes"]}
            option = next(o for o in new["configOptions"] if o["id"] == "mode")
            assert {o["value"]: o["description"] for o in option["options"]} == agent.modes
            await agent.request("session/set_mode", sessionId=new["sessionId"], modeId=mode)
            assert await agent.prompt(new["sessionId"], "go") == "end_turn"
            agent.asked = [m["params"] for m in agent.calls("session/request_permission")]
            agent.results = [
                u["content"][0]["content"]["text"]
                for u in agent.updates
                if u.get("status") in {"completed", "failed"}
                and u.get("content")
                and "content" in u["content"][0]
            ]
        return agent

    return run


needs_sandbox = pytest.mark.skipif(
    find_sandbox(("bubblewrap", "landlock")) is None, reason="no sandbox works here"
)


@needs_sandbox
async def test_in_its_mode_confined_commands_run_and_others_are_asked_about(run, tmp_path):
    agent = await run()
    name = find_sandbox(("bubblewrap", "landlock")).name
    assert f"without asking, in a sandbox ({name})" in agent.modes["sandbox"]
    (asked,) = agent.asked
    assert asked["toolCall"]["title"] == "echo y"
    assert "Runs outside the sandbox: it can write wherever you can" in json.dumps(
        asked["toolCall"]["content"]
    )
    assert not (tmp_path / "outside" / "a").exists()
    assert "done" in agent.results[0]


@needs_sandbox
async def test_where_it_is_always_used_the_question_says_what_holds(run, project, tmp_path):
    agent = await run("[sandbox]\nalways = true\n", mode="default")
    first, second, _ = agent.asked
    said = first["toolCall"]["content"][0]["content"]["text"]
    assert f"it can write files only below {project} and in a temporary directory" in said
    assert "it has no network" in said
    assert "outside the sandbox" in second["toolCall"]["content"][0]["content"]["text"]
    assert not (tmp_path / "outside" / "a").exists()
    always = next(o["name"] for o in first["options"] if o["kind"] == "allow_always")
    assert always.startswith("Always allow sandboxed-shell `echo x")


@needs_sandbox
async def test_a_terminal_of_the_client_runs_it_in_the_sandbox_too(run):
    answers = {
        "terminal/create": lambda _: {"terminalId": "t"},
        "terminal/wait_for_exit": lambda _: {"exitCode": 0},
        "terminal/output": lambda _: {"output": "", "truncated": False},
        "terminal/release": lambda _: {},
    }
    agent = await run(capabilities=FULL_CLIENT, answers=answers)
    confined, unconfined = (m["params"] for m in agent.calls("terminal/create"))
    argv = [confined["command"], *confined["args"]]
    assert argv[0].endswith("bwrap") or "confine.py" in " ".join(argv)
    assert unconfined["args"] == ["-c", "echo y"]


async def test_without_a_sandbox_nothing_is_claimed_and_commands_are_asked_about(run, tmp_path):
    agent = await run("[sandbox]\nuse = []\n")
    assert "NOT sandboxed" in agent.modes["sandbox"]
    (asked,) = agent.asked  # the other call asks for an access that does not exist, the edit is allowed
    assert asked["toolCall"]["content"][0]["content"]["text"] == f"Runs without a sandbox: {NONE_WORKS}."
    assert (tmp_path / "outside" / "a").exists()


@needs_sandbox
async def test_the_temporary_directory_ends_with_the_session(project):
    confinement = Confinement(FAKE, [str(project)], network=False)
    confinement.wrap(["true"], "/", CommandAccess.CONFINED)
    tmp = Path(confinement._tmp)
    assert tmp.is_dir()
    confinement.remove_tmp()
    assert not tmp.exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"use": ["docker"]}, "sandbox.use: must be a list of bubblewrap and landlock"),
        ({"always": "yes"}, "sandbox.always: must be true or false"),
        ({"allways": True}, "sandbox.unknown key 'allways'"),
        ({"writable": ["cache"]}, "sandbox.writable: 'cache' is not absolute"),
        ([], "sandbox: must be a table"),
    ],
)
def test_a_mistake_in_the_sandbox_ends_the_start(table, said):
    endpoints = [{"name": "e", "base_url": "http://e/v1"}]
    with pytest.raises(ConfigError, match=said):
        parse_config({"endpoints": endpoints, "sandbox": table}, source="c", env={})
