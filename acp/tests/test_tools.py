from __future__ import annotations

import asyncio
import os
import shutil
import stat

import pytest
from acp_testing.fakes import FakeClient, ToolHarness
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.tools.builtin import builtin_tools
from helexa_acp.tools.edit import replace_once
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.fetch import host_of, page_text
from helexa_acp.tools.roots import Roots, expand
from helexa_acp.tools.truncation import HeadAndTail, clip, one_line


@pytest.fixture
def tools(project):
    (project / "a.txt").write_text("one\ntwo\nthree\n")
    (project / "sub").mkdir()
    (project / "sub" / "b.py").write_text("import os\nprint('two')\n")
    return ToolHarness(project)


def test_every_tool_takes_an_object_and_nothing_unknown():
    assert list(builtin_tools()) == [
        "read",
        "write",
        "edit",
        "list",
        "search",
        "shell",
        "background",
        "fetch",
        "plan",
        "ask",
    ]
    for tool in builtin_tools().values():
        assert tool.spec.parameters["type"] == "object"
        assert tool.spec.parameters["additionalProperties"] is False


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("read", {}, "'path' is missing"),
        ("read", {"path": 3}, "path must be of type string"),
        ("read", {"path": "a", "line": 0}, "line must be at least 1"),
        ("read", {"path": "a", "lines": 1}, "'lines' is not known"),
        ("plan", {"entries": [{"content": "x", "status": "later"}]}, r"status must be one of"),
        ("shell", {"command": ""}, "command must be"),
    ],
)
async def test_arguments_are_checked_by_name(tools, name, args, words):
    with pytest.raises(ToolError, match=words):
        await tools.run(name, **args)


# Paths


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "sub/../../x", "~/x", "$HOME/x", "link/x", "link", "\0", "  "]
)
async def test_paths_outside_are_refused(tools, project, path):
    (project / "link").symlink_to("/etc")
    for name, args in (("read", {}), ("write", {"content": "x"}), ("list", {})):
        with pytest.raises(ToolError):
            await tools.run(name, path=path, **args)


def test_additional_directories_are_roots(project, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ToolError):
        Roots(str(project)).resolve(str(other / "x"))
    assert Roots(str(project), [str(other)]).resolve(str(other / "x")) == other / "x"


@given(st.lists(st.sampled_from(["..", ".", "sub", "a", "~", "//", "link"]), max_size=8))
def test_no_path_leaves_the_roots(tmp_path_factory, pieces):
    base = tmp_path_factory.mktemp("p")
    (base / "sub").mkdir()
    (base / "link").symlink_to("..")
    try:
        resolved = Roots(str(base)).resolve("/".join(pieces))
    except ToolError:
        return
    assert resolved.is_relative_to(os.path.realpath(base))


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        *(("~", "/h"), ("~/x", "/h/x"), ("$HOME", "/h"), ("$HOME/x", "/h/x"), ("~user/x", "~user/x")),
        *(("$HOMER/x", "$HOMER/x"), ("$OTHER/x", "$OTHER/x"), ("/abs", "/abs"), ("rel/~", "rel/~")),
    ],
)
def test_home_is_expanded_at_the_start_of_a_path(path, expanded):
    assert expand(path, "/h") == expanded
    assert expand(path, None) == path


# Reading


async def test_read_returns_the_lines_asked_for(tools):
    assert (await tools.run("read", path="a.txt")).text == "one\ntwo\nthree"
    assert (await tools.run("read", path="a.txt", line=2, limit=1)).text == "two\n[lines 2 to 2 of 3]"


async def test_read_refuses_files_that_are_not_text(tools, project):
    (project / "bin").write_bytes(b"\0\1")
    for name in ("pipe", "pipe.png"):  # reading them would block
        os.mkfifo(project / name)
    for path in ("bin", "none", "sub", "pipe", "pipe.png"):
        with pytest.raises(ToolError):
            await tools.run("read", path=path)


async def test_read_returns_images_only_to_models_that_see_them(tools, project):
    (project / "x.png").write_bytes(b"\x89PNG")
    outcome = await tools.run("read", path="x.png")
    assert outcome.images[0].mime_type == "image/png"
    tools.context.sees_images = False
    with pytest.raises(ToolError, match="does not read"):
        await tools.run("read", path="x.png")


async def test_read_returns_unsaved_buffers(project):
    (project / "a").write_text("disk")
    client = FakeClient(files=True)
    client.buffers[str(project / "a")] = "buffer"
    tools = ToolHarness(project, client)
    assert (await tools.run("read", path="a")).text == "buffer"


async def test_after_a_command_the_disk_is_fresher(project):
    (project / "a").write_text("disk")
    os.utime(project / "a", (1, 1))
    client = FakeClient(files=True)
    client.buffers[str(project / "a")] = "buffer"
    tools = ToolHarness(project, client)
    await tools.run("shell", command="true")
    assert (await tools.run("read", path="a")).text == "buffer"
    await tools.run("shell", command="echo changed > a")
    assert (await tools.run("read", path="a")).text == "changed"


async def test_read_falls_back_to_the_disk_if_the_client_fails(project):
    (project / "a").write_text("disk")
    tools = ToolHarness(project, FakeClient(files=True, broken=True))
    assert (await tools.run("read", path="a")).text == "disk"
    with pytest.raises(ToolError, match="editor says: no buffer"):
        await tools.run("read", path="none")


async def test_list_shows_entries_and_matches(tools):
    assert (await tools.run("list")).text == "a.txt\nsub/"
    assert (await tools.run("list", glob="**/*.py")).text == "sub/b.py"
    assert (await tools.run("list", glob="*.nope")).text == "[nothing]"
    with pytest.raises(ToolError):
        await tools.run("list", glob="../*")


@pytest.fixture
def links_outside(tools, project, tmp_path):
    """Return the tools, in a project with links to a file and a folder outside, which hold the word `secret`."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "s.txt").write_text("secret\n")
    (project / "file_link.txt").symlink_to(outside / "s.txt")
    (project / "folder_link").symlink_to(outside)
    (project / "sub" / "inside_link.txt").symlink_to(project / "a.txt")
    return tools


async def test_list_follows_no_link_out_of_the_roots(links_outside):
    tools = links_outside
    for glob in ("folder_link/*", "*/s.txt", "**/s.txt"):
        assert (await tools.run("list", glob=glob)).text == "[nothing]"
    assert (await tools.run("list", glob="*.txt")).text == "a.txt"
    assert (await tools.run("list", glob="sub/*.txt")).text == "sub/inside_link.txt"
    assert (await tools.run("list")).text == "a.txt\nfile_link.txt@\nfolder_link@\nsub/"


@pytest.mark.parametrize("ripgrep", [False, True])
async def test_search_follows_no_link_out_of_the_roots(links_outside, monkeypatch, ripgrep):
    tools = links_outside
    if not ripgrep:
        monkeypatch.setenv("PATH", "/nowhere")
    elif shutil.which("rg") is None:
        pytest.skip("ripgrep is not installed")
    assert (await tools.run("search", pattern="secret")).text == "[no match]"
    with pytest.raises(ToolError, match="outside the session's directories"):
        await tools.run("search", pattern="secret", path="folder_link")


# Writing


async def test_write_shows_a_diff_and_makes_directories(tools, project):
    prepared = await tools.prepare("write", path="new/dir/x", content="hi\n")
    assert prepared.content == [
        {"type": "diff", "path": str(project / "new/dir/x"), "oldText": None, "newText": "hi\n"}
    ]
    assert not (project / "new").exists()
    await prepared.run()
    assert (project / "new/dir/x").read_text() == "hi\n"


async def test_edit_needs_one_exact_match(tools, project):
    await tools.run("edit", path="a.txt", old_text="two", new_text="2")
    assert (project / "a.txt").read_text() == "one\n2\nthree\n"
    for old, words in (("nope", "does not occur"), ("e", "more than once"), ("", "empty")):
        with pytest.raises(ToolError, match=words):
            await tools.run("edit", path="a.txt", old_text=old, new_text="x")


async def test_a_conflict_is_reported_not_overwritten(tools, project):
    prepared = await tools.prepare("edit", path="a.txt", old_text="two", new_text="2")
    (project / "a.txt").write_text("changed meanwhile: two\n")
    with pytest.raises(ToolError, match="changed while"):
        await prepared.run()
    assert (project / "a.txt").read_text() == "changed meanwhile: two\n"


async def test_each_write_happens_once_and_through_the_client(project):
    client = FakeClient(files=True)
    tools = ToolHarness(project, client)
    await tools.run("write", path="a", content="x")
    assert client.written == [str(project / "a")]
    assert not (project / "a").exists()


def test_edits_respect_crlf():
    assert replace_once("a\r\nb\r\nc", "a\nb", "x\ny") == "x\r\ny\r\nc"


@given(st.text(max_size=20), st.text(min_size=1, max_size=3), st.text(max_size=3))
def test_replace_once_is_exact_or_refuses(text, old, new):
    try:
        result = replace_once(text, old, new)
    except ToolError:
        return
    assert text.count(old) == 1 or "\r\n" in text
    assert "\r\n" in text or result == text.replace(old, new)


# Searching


async def test_ripgrep_gets_pattern_path_and_globs(tools, project, monkeypatch, tmp_path):
    fake = tmp_path / "bin" / "rg"  # prints its arguments
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    text = (await tools.run("search", pattern="-e", glob="*.py", ignore_case=True)).text
    assert text.endswith(
        f"--glob=*.py {' '.join(w for w in text.split() if w.startswith('--glob=!'))} -- -e {project}"
    )


@pytest.mark.parametrize("ripgrep", [False, True])
async def test_search_finds_matching_lines(tools, project, monkeypatch, ripgrep):
    if not ripgrep:
        monkeypatch.setenv("PATH", "/nowhere")
    elif shutil.which("rg") is None:
        pytest.skip("ripgrep is not installed")
    assert (
        await tools.run("search", pattern="tw[o]")
    ).text == f"{project}/a.txt:2:two\n{project}/sub/b.py:2:print('two')"
    assert (await tools.run("search", pattern="TWO", glob="*.py", ignore_case=True)).text.endswith(
        "print('two')"
    )
    assert (await tools.run("search", pattern="nope")).text == "[no match]"
    with pytest.raises(ToolError, match=r"regular expression|regex parse error"):
        await tools.run("search", pattern="(")


# Commands


async def test_shell_returns_output_and_exit_code(tools, project):
    outcome = await tools.run("shell", command="echo out; echo err >&2; pwd", cwd="sub")
    assert outcome.text == f"out\nerr\n{project}/sub\n[exit code 0]"
    failed = await tools.run("shell", command="exit 3")
    assert (failed.is_error, failed.text) == (True, "[exit code 3]")


async def test_endless_output_is_bounded(tools):
    outcome = await tools.run("shell", command="yes | head -c 20000000; echo end", timeout_s=60)
    assert len(outcome.text) < 70_000
    assert outcome.text.endswith("end\n[exit code 0]")


async def test_a_command_is_killed_at_its_timeout(tools):
    outcome = await tools.run("shell", command="trap '' TERM; echo started; sleep 300 & wait", timeout_s=1)
    assert "without finishing" in outcome.text
    assert outcome.is_error


async def test_commands_get_no_input(tools):
    assert (await tools.run("shell", command="cat; echo done")).text == "done\n[exit code 0]"


async def test_lingering_children_do_not_delay_the_call(tools):
    outcome = await tools.run("shell", command="(sleep 300 &) ; echo quick", timeout_s=60)
    assert outcome.text.startswith("quick")


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(2, 60))
def test_head_and_tail_keep_both_ends(chunks, limit):
    kept, whole = HeadAndTail(limit), b"".join(chunks)
    for chunk in chunks:
        kept.add(chunk)
    if len(whole) <= limit // 2 * 2:
        assert kept.text() == whole.decode("utf-8", "replace")
    else:
        assert "bytes left out" in kept.text()


def test_texts_are_cut_to_their_limit():
    assert clip("x" * 10, 10) == "x" * 10
    assert "90 characters left out" in clip("x" * 100, 10)
    assert one_line("a\n b\té" + "x" * 200, 6) == "a b é…"


# The web


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x", "http://", "http://u:p@h/", "javascript:1", "http://[", "x"]
)
def test_only_http_addresses_without_a_user_are_fetched(url):
    with pytest.raises(ToolError):
        host_of(url)


async def test_fetch_returns_text_and_stays_on_its_host(tools, dead_port):
    async def serve(reader, writer):
        line = await reader.readline()
        page = b"<html><head><title>t</title></head><body><h1>Hi</h1><script>bad()</script><p>there</p></body></html>"
        if b"/moved" in line:
            writer.write(
                b"HTTP/1.1 302 x\r\nlocation: http://elsewhere.invalid/\r\ncontent-length: 0\r\n\r\n"
            )
        else:
            head = f"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {len(page)}\r\n\r\n"
            writer.write(head.encode() + page)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", dead_port):
        base = f"http://127.0.0.1:{dead_port}"
        assert (await tools.run("fetch", url=f"{base}/")).text == "Hi\nthere"
        assert "moved to another host" in (await tools.run("fetch", url=f"{base}/moved")).text
        prepared = await tools.prepare("fetch", url=f"{base}/")
        assert prepared.permissions[0].subject == f"127.0.0.1:{dead_port}"
    with pytest.raises(ToolError, match="cannot fetch"):
        await tools.run("fetch", url=f"http://127.0.0.1:{dead_port}/")


def test_pages_become_text():
    assert page_text("<p>a &amp; b</p><style>x</style><ul><li>c<li>d</ul>") == "a & b\nc\nd"


async def test_plan_shows_its_entries(tools):
    await tools.run("plan", entries=[{"content": "x", "status": "pending"}])
    assert tools.plan == [{"content": "x", "status": "pending", "priority": "medium"}]
