"""Checkpoints before each turn, `/rewind`, and forks of sessions."""

from __future__ import annotations

import subprocess

import pytest
from acp_testing.process import RpcFailureError
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage import fold, said, user

from helexa_acp.storage.records import Compacted, Undone
from helexa_acp.storage.shadow_git import MAX_FILE_BYTES, ShadowGit, ShadowGitError


@pytest.fixture
def git(project, tmp_path):
    return ShadowGit(tmp_path / "shadow.git", str(project), "s1")


def contents(folder):
    return {
        str(path.relative_to(folder)): (path.is_symlink() and str(path.readlink()))
        or (path.read_bytes(), path.stat().st_mode & 0o111)
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_files_are_restored_byte_for_byte_whatever_the_project_says_of_line_ends(project, git):
    (project / ".gitattributes").write_text("* text=auto eol=lf\n*.x filter=lfs\n")
    (project / "crlf").write_bytes(b"a\r\nb\r\n")
    (project / "latin").write_bytes(b"caf\xe9")
    (project / "big.x").write_bytes(b"\0\1")
    (project / "sub").mkdir()
    (project / "sub" / "run").write_text("x")
    (project / "sub" / "run").chmod(0o755)
    (project / "link").symlink_to("crlf")
    before = contents(project)
    commit = git.save("one")
    (project / "crlf").write_text("changed")
    (project / "sub" / "run").unlink()
    (project / "link").unlink()
    (project / "link").write_text("a file now")
    (project / "new").mkdir()
    (project / "new" / "file").write_text("new")
    after = contents(project)
    now, changed = git.restore(commit)
    assert contents(project) == before
    assert not (project / "new").exists()
    assert changed == ["crlf", "link", "new/file", "sub/run"]
    git.restore(now)
    assert contents(project) == after


FILES = st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/e/f"]), st.binary(max_size=4))


def lay(project, files):
    subprocess.run(["rm", "-rf", project], check=True)
    project.mkdir()
    for name, data in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(data)


@settings(max_examples=15)
@given(st.lists(FILES, min_size=2, max_size=3))
def test_any_state_is_restored_from_any_other(tmp_path_factory, states):
    folder = tmp_path_factory.mktemp("git")
    project = folder / "project"
    git = ShadowGit(folder / "shadow.git", str(project), "s")
    saved = []
    for files in states:
        lay(project, files)
        saved.append((git.save("x"), contents(project)))
    for commit, files in saved:
        git.restore(commit)
        assert contents(project) == files


def test_ignored_and_long_files_and_inner_repositories_stay_as_they_are(project, git):
    (project / ".gitignore").write_text("secret\n")
    (project / "secret").write_text("1")
    (project / "long").write_bytes(b"1" * (MAX_FILE_BYTES + 1))
    (project / "inner").mkdir()
    subprocess.run(["git", "init", "-q", project / "inner"], check=True)
    (project / "inner" / "file").write_text("1")
    commit = git.save("one")
    for name in ("secret", "long", "inner/file"):
        (project / name).write_text("2")
    assert git.restore(commit)[1] == ["long"]  # it is short now, and was not kept before
    assert (project / "secret").read_text() == "2"
    assert (project / "inner" / "file").read_text() == "2"


def test_the_projects_own_repository_is_not_touched(project, git):
    subprocess.run(["git", "init", "-q", project], check=True)
    (project / "a").write_text("1")
    subprocess.run(["git", "-C", project, "add", "a"], check=True)
    before = contents(project / ".git")
    commit = git.save("one")
    (project / "a").write_text("2")
    git.restore(commit)
    assert contents(project / ".git") == before
    assert (project / "a").read_text() == "1"


def test_sessions_share_a_repository_and_forget_their_own_states(project, tmp_path, git):
    other = ShadowGit(tmp_path / "shadow.git", str(project), "s2")
    (project / "a").write_text("1")
    mine, theirs = git.save("x"), other.save("y")
    git.keep([theirs])
    git.forget()
    refs = (tmp_path / "shadow.git" / "refs" / "sessions").rglob("*")
    assert {path.name for path in refs if path.is_file()} == {theirs}
    (project / "a").write_text("2")
    other.restore(theirs)
    assert (project / "a").read_text() == "1"
    assert mine


def test_what_cannot_be_kept_is_refused(project, tmp_path, monkeypatch, git):
    monkeypatch.setenv("HOME", str(project))
    with pytest.raises(ShadowGitError, match="too large a directory"):
        git.save("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ShadowGitError, match="diff-tree failed"):
        git.restore("0" * 40)
    git.abort()
    with pytest.raises(ShadowGitError, match="the session is closed"):
        git.save("x")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ShadowGitError, match="git is not installed"):
        ShadowGit(tmp_path / "other.git", str(project), "s").save("x")


def test_a_rewind_past_a_summary_brings_back_what_it_stands_for():
    records = [user("u1", "one"), said("a"), user("u2", "two"), said("b"), Compacted("sum", 3)]
    transcript = fold(*records, user("u3", "three"), said("c"), Undone("u3"), Undone("u2"))
    assert [message.text for message in transcript.view()] == ["one", "a"]
    assert transcript.summary is None
    twice = fold(
        user("u1", "one"),
        said("a"),
        Compacted("first", 1),
        user("u2"),
        said("b"),
        Compacted("second", 3),
        Undone("u2"),
    )
    assert [message.text for message in twice.view()][1:] == ["a"]
    assert twice.summary == "first"


STEPS = "".join(
    f'[[turn]]\nmatch = "^{name}"\n[[turn.reply]]\nsteps = [{{ call = "shell", args = {{ command = "{command}" }} }}]\n'
    f'[[turn.reply]]\nsteps = [{{ text = "{name} is done. " }}]\n'
    for name, command in (("one", "echo 1 > a"), ("two", "echo 2 > a; echo 2 > b"), ("three", "rm a"))
)


@pytest.fixture
async def talk(script, start, project):
    script(STEPS)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)

        async def say(text):
            agent.messages.clear()
            assert await agent.prompt(session, text) == "end_turn"
            return agent.text()

        say.agent, say.session = agent, session
        yield say


async def test_rewind_goes_back_in_the_conversation_and_in_the_files(talk, project):
    for text in ("one", "two", "three"):
        await talk(text)
    listed = await talk("/rewind")
    assert "1. one\n2. two\n3. three" in listed
    assert "no checkpoint" not in listed
    told = await talk("/rewind 2")
    assert told.startswith(
        "2 turns are no longer part of the conversation. Files that are as before: `a`, `b`"
    )
    assert contents(project) == {"a": (b"1\n", 0)}
    assert "1. one" in await talk("/rewind")
    assert "2. two" not in talk.agent.text()
    await talk("/rewind back")
    assert contents(project) == {"b": (b"2\n", 0)}


async def test_rewind_after_a_restart_and_without_a_checkpoint(talk, start, project, env):
    await talk("one")
    await talk("two")
    async with start() as again:
        await again.initialize()
        await again.request("session/load", sessionId=talk.session, cwd=str(project), mcpServers=[])
        await again.prompt(talk.session, "/rewind 1")
        assert contents(project) == {}
    said = await talk("/rewind 9")
    assert "There is no turn '9'" in said
    assert "There is no turn to go back to" in await talk("/rewind")


async def test_without_git_a_turn_runs_and_rewind_says_why_not(script, start, project, env, tmp_path):
    script(STEPS)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to("/bin/bash")
    env["PATH"] = str(tmp_path / "bin")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "one") == "end_turn"
        await agent.prompt(session, "/rewind 1")
        assert "no checkpoint was taken. The last checkpoint failed: git is not installed." in agent.text()
        assert (project / "a").exists()


async def test_deleting_a_session_forgets_its_states(talk, tmp_path):
    await talk("one")
    (repository,) = (tmp_path / "home/.local/share/helexa-acp/checkpoints").glob("*.git")
    assert list((repository / "refs" / "sessions").rglob("*"))
    await talk.agent.request("session/delete", sessionId=talk.session)
    assert not [path for path in (repository / "refs").rglob("*") if path.is_file()]


async def test_a_fork_has_the_history_and_its_own_future(talk, project):
    agent = talk.agent
    await talk("one")
    forked = await agent.request("session/fork", sessionId=talk.session, cwd=str(project), mcpServers=[])
    fork = forked["sessionId"]
    assert forked["modes"]["currentModeId"] == "default"
    await agent.prompt(fork, "two")
    await talk("/rewind")
    assert "two" not in agent.text()
    await agent.request("session/delete", sessionId=talk.session)
    agent.messages.clear()
    await agent.prompt(fork, "/rewind 1")
    assert contents(project) == {}
    listed = (await agent.request("session/list"))["sessions"]
    assert [(s["sessionId"], s["title"]) for s in listed] == [(fork, "one (fork)")]
    with pytest.raises(RpcFailureError) as error:
        await agent.request("session/fork", sessionId="none", cwd=str(project), mcpServers=[])
    assert error.value.error["code"] == -32002
