"""No byte of a file is lost by an edit, and an undo gives all of them back."""

from __future__ import annotations

import pytest
from acp_testing.fakes import FakeClient, ToolHarness
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.storage.copies import FileCopies, LostCopyError
from helexa_acp.tools.changes import MAX_WHOLE_CHARS, changed_region, shown_change
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.text_file import FileText, decode

LATIN = "caf\xe9 na\xefve".encode("latin-1")
EDIT = '[[turn]]\nmatch = "edit"\n[[turn.reply]]\nsteps = [{ call = "edit", args = { path = "a", old_text = "two", new_text = "2" } }]\n[[turn.reply]]\nsteps = [{ text = "done" }]\n'


@given(st.binary(max_size=60))
def test_what_is_read_as_text_is_written_back_byte_for_byte(data):
    text = decode(data)
    if text is not None:
        assert text.data == data


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"plain", "utf-8"),
        ("é\r\n".encode(), "utf-8"),
        (b"\xef\xbb\xbfx", "utf-8"),
        (LATIN, "windows-1252"),
        (b"\x81\xe9", "latin-1"),
        ("\ufeffé".encode("utf-16-le"), "utf-16-le"),
        ("\ufeffé".encode("utf-16-be"), "utf-16-be"),
    ],
)
def test_the_encoding_is_found(data, encoding):
    assert decode(data).encoding == encoding


def test_bytes_that_are_no_text_are_none():
    assert decode(b"a\0b") is None
    assert decode(b"\xff\xfe\0\xd8x\0") is None


@pytest.mark.parametrize("files", [False, True])
async def test_an_edit_keeps_the_other_bytes_of_a_file(project, files):
    (project / "a").write_bytes(LATIN + b"\r\ntwo\r\n\x80")
    client = FakeClient(files=files)
    tools = ToolHarness(project, client)
    prepared = await tools.prepare("edit", path="a", old_text="two", new_text="f\xfcnf")
    assert "windows-1252" in prepared.title
    await prepared.run()
    assert (project / "a").read_bytes() == LATIN + b"\r\nf\xfcnf\r\n\x80"
    assert client.written == []  # the protocol carries text only


@pytest.mark.parametrize(
    ("name", "args"),
    [("edit", {"old_text": "two", "new_text": "✓"}), ("write", {"content": "✓"})],
)
async def test_a_character_that_the_encoding_lacks_is_refused_by_name(project, name, args):
    (project / "a").write_bytes(LATIN + b" two")
    tools = ToolHarness(project)
    with pytest.raises(ToolError, match=r"windows-1252, which has no '\\u2713'"):
        await tools.prepare(name, path="a", **args)
    assert (project / "a").read_bytes() == LATIN + b" two"


async def test_half_a_surrogate_pair_is_refused(project):
    with pytest.raises(ToolError, match="utf-8, which has no"):
        await ToolHarness(project).prepare("write", path="a", content="\ud83d")


async def test_read_tells_the_encoding(project):
    (project / "a").write_bytes(LATIN)
    assert (await ToolHarness(project).run("read", path="a")).text.startswith(
        "café naïve\n[the file is in windows-1252"
    )


async def test_search_finds_and_shows_text_of_other_encodings(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # without ripgrep
    (project / "a").write_bytes(LATIN)
    found = await ToolHarness(project).run("search", pattern="caf\u00e9")
    assert found.text == f"{project}/a:1:café naïve"


async def test_the_bytes_before_the_change_are_kept(project):
    (project / "a").write_bytes(b"one\r\ntwo\r\n")
    client = FakeClient(files=True)
    client.buffers[str(project / "a")] = "one\ntwo\n"  # an editor that reads without carriage returns
    tools = ToolHarness(project, client)
    await tools.run("edit", path="a", old_text="two", new_text="2")
    await tools.run("write", path="new", content="x")
    assert tools.copies == [(project / "a", b"one\r\ntwo\r\n"), (project / "new", None)]


async def test_an_unsaved_buffer_is_what_an_undo_restores(project):
    (project / "a").write_text("saved")
    client = FakeClient(files=True)
    client.buffers[str(project / "a")] = "unsaved two"
    tools = ToolHarness(project, client)
    await tools.run("edit", path="a", old_text="two", new_text="2")
    assert tools.copies == [(project / "a", b"unsaved two")]


def test_copies_are_kept_once_and_checked(tmp_path):
    copies = FileCopies(tmp_path / "copies")
    name = copies.keep(b"x")
    assert copies.keep(b"x") == name
    assert copies.read(name) == b"x"
    (tmp_path / "copies" / name).write_bytes(b"y")
    for bad in (name, "../../etc/passwd", "0" * 64):
        with pytest.raises(LostCopyError):
            copies.read(bad)
    copies.delete()
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("data", [LATIN + b"\ntwo\n", b"one\r\ntwo\r\n", b"\xef\xbb\xbftwo"])
async def test_undo_restores_the_bytes(script, start, project, data):
    script(EDIT)
    (project / "a").write_bytes(data)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "edit")
        assert (project / "a").read_bytes() == data.replace(b"two", b"2")
        await agent.prompt(session, "/undo")
        assert "restored: `a`" in agent.text()
        assert (project / "a").read_bytes() == data


async def test_undo_after_a_restart_uses_the_copy_and_delete_removes_it(
    script, start, project, env, tmp_path
):
    script(EDIT)
    (project / "a").write_bytes(LATIN + b" two")
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "edit")
    async with start() as agent:
        await agent.initialize()
        await agent.request("session/load", sessionId=session, cwd=str(project), mcpServers=[])
        await agent.prompt(session, "/undo")
        assert (project / "a").read_bytes() == LATIN + b" two"
        sessions = tmp_path / "home" / ".local" / "share" / "helexa-acp" / "sessions"
        assert list(sessions.glob("*.copies/*"))
        await agent.request("session/delete", sessionId=session)
        assert not list(sessions.glob("*"))


# Diffs


def test_a_short_file_is_shown_whole_and_a_long_one_by_its_region():
    lines = [f"line {n}\n" for n in range(100_000)]
    new = [*lines]
    new[50_000] = "changed\n"
    shown = shown_change("/a", "".join(lines), "".join(new))
    (diff,) = shown.content
    assert diff["oldText"] == "".join(lines[49_980:50_021])
    assert diff["newText"] == "".join(new[49_980:50_021])
    assert shown.locations == [{"path": "/a", "line": 50_001}]
    (small,) = shown_change("/a", "one\ntwo\n", "one\n2\n").content
    assert (small["oldText"], small["newText"]) == ("one\ntwo\n", "one\n2\n")


def test_a_change_in_one_endless_line_is_shown_with_its_neighbourhood():
    old = "x" * 1_000_000 + "one" + "y" * 1_000_000
    region = changed_region(old, old.replace("one", "two"))
    assert [len(part) for part in region] == [2003, 2003]


@given(st.text(alphabet="ab\n", max_size=40), st.text(alphabet="ab\n", max_size=40))
def test_the_region_turns_the_old_text_into_the_new(old, new):
    before, after = changed_region(old, new)
    assert old.count(before) >= 1
    assert any(
        old[:at] + after + old[at + len(before) :] == new
        for at in range(len(old) - len(before) + 1)
        if old.startswith(before, at)
    )


def test_a_rewrite_of_a_long_file_is_bounded():
    (diff,) = shown_change("/a", "x\n" * 500_000, "y\n" * 500_000).content
    assert len(diff["oldText"]) + len(diff["newText"]) < 3 * MAX_WHOLE_CHARS


async def test_a_change_is_sent_once(script, start, project):
    script(EDIT)
    (project / "a").write_text("x\n" * 50_000 + "two\n" + "y\n" * 50_000)
    async with start() as agent:
        await agent.initialize()
        session = await agent.new_session(project)
        await agent.prompt(session, "edit")
        sent = sum(len(repr(m)) for m in agent.messages)
        assert sent < 20_000
        edited = [u for u in agent.updates if u.get("locations")]
        assert edited[0]["locations"] == [{"path": str(project / "a"), "line": 50_001}]


def test_the_text_of_a_file_knows_its_note():
    assert FileText("x").note == ""
    assert FileText("x", "latin-1").note == " (latin-1)"
