"""Reading and searching the web: within bounds, with the site's consent, on the server that is configured."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from acp_testing.fakes import ToolHarness
from acp_testing.process import choose
from hypothesis import given
from hypothesis import strategies as st

from helexa_acp.config import parse_config
from helexa_acp.extensions import WebSearch
from helexa_acp.tools import web_search
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.robots import Robots, parse_robots

# robots.txt


@pytest.mark.parametrize(
    ("text", "path", "may"),
    [
        ("", "/", True),
        ("User-agent: *\nDisallow: /", "/x", False),
        ("User-agent: *\nDisallow:", "/x", True),
        ("user-AGENT : helexa-acp\nDISALLOW : /a # no\n", "/ab", False),
        ("User-agent: other\nDisallow: /", "/x", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: Helexa-ACP\nDisallow: /p", "/x", True),
        ("User-agent: a\nUser-agent: helexa-acp\nDisallow: /p", "/p", False),
        ("User-agent: helexa-acp\nDisallow: /a\nUser-agent: helexa-acp\nDisallow: /b", "/b", False),
        ("User-agent: *\nDisallow: /\nAllow: /open", "/open/x", True),  # the longest counts
        ("User-agent: *\nAllow: /a\nDisallow: /a", "/a", True),  # of equals, allow
        ("User-agent: *\nDisallow: /*.php$", "/x/y.php", False),
        ("User-agent: *\nDisallow: /*.php$", "/x/y.php?z", True),
        ("User-agent: *\nDisallow: /*a*b", "/xaxxb", False),
        ("User-agent: *\nDisallow: /a*a$", "/a", True),
        ("User-agent: *\nDisallow: /caf%C3%A9", "/caf\u00e9", False),
        ("User-agent: *\nDisallow: /q?x=", "/q?x=1", False),
        ("Disallow: /\nnonsense\nUser-agent: *\n", "/x", True),  # a rule without a group
        ("\ufeffUser-agent: *\r\nDisallow: /\r\n", "/x", False),
    ],
)
def test_the_rules_of_a_site_are_read_as_the_rfc_says(text, path, may):
    assert parse_robots(text, "helexa-acp").allow(path) is may


@given(st.text(alphabet="User-agent:*Disallow/$ \n#%", max_size=80), st.text(max_size=10))
def test_any_text_gives_an_answer(text, path):
    assert parse_robots(text, "x").allow("/" + path) in {True, False}


def test_without_rules_everything_may_be_read():
    assert Robots().allow("/")


# A server on loopback


@asynccontextmanager
async def serving(port, answers):
    """Serve bodies and heads by path, and note what was asked."""
    asked = []

    async def serve(reader, writer):
        line = (await reader.readline()).decode()
        head = [line]
        while (more := await reader.readline()).strip():
            head.append(more.decode())
        path = line.split()[1]
        asked.append((path, "".join(head)))
        status, kind, body = answers.get(path.partition("?")[0], ("404 x", "text/plain", b"none"))
        writer.write(
            f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield asked


async def test_fetch_asks_a_site_once_and_does_as_it_says(project, dead_port):
    robots = b"User-agent: *\nDisallow: /private\n"
    answers = {
        "/robots.txt": ("200 OK", "text/plain", robots),
        "/open": ("200 OK", "text/plain", b"hello"),
        "/private": ("200 OK", "text/plain", b"secret"),
        "/moved": ("302 x\r\nlocation: /private", "text/plain", b""),
    }
    tools = ToolHarness(project)
    base = f"http://127.0.0.1:{dead_port}"
    async with serving(dead_port, answers) as asked:
        fetch = (await tools.prepare("fetch", url=f"{base}/open")).run
        assert (await fetch()).text == "hello"
        assert (await fetch()).text == "hello"
        assert [path for path, _ in asked] == ["/robots.txt", "/open", "/open"]
        assert "user-agent: helexa-acp/" in asked[1][1].lower()
        for path in ("/private?x", "/moved"):
            with pytest.raises(ToolError, match="asks programs not to read this page"):
                await tools.run("fetch", url=base + path)
        assert not [path for path, _ in asked if path.startswith("/private")]


@pytest.mark.parametrize(("status", "may"), [("404 x", True), ("403 x", True), ("503 x", False)])
async def test_a_site_without_rules_may_be_read_one_that_fails_may_not(project, dead_port, status, may):
    answers = {"/robots.txt": (status, "text/plain", b""), "/": ("200 OK", "text/plain", b"hello")}
    async with serving(dead_port, answers):
        reading = ToolHarness(project).run("fetch", url=f"http://127.0.0.1:{dead_port}")
        if may:
            assert (await reading).text == "hello"
        else:
            with pytest.raises(ToolError, match="asks programs not"):
                await reading


# Searching


def searcher(project, port, **more):
    tools = ToolHarness(project)
    tool = web_search.web_search_tool(WebSearch(url=f"http://127.0.0.1:{port}/s/", **more), dict)

    async def search(query):
        prepared = await tool.prepare({"query": query}, tools.context)
        return prepared, await prepared.run()

    return search


async def test_a_search_lists_titles_addresses_and_snippets(project, dead_port):
    results = [
        {"title": "One\n", "url": "http://one/", "content": "about  one"},
        {"title": "Two", "url": "http://two/", "content": None},
        {"title": "no address"},
        "nonsense",
        {"title": "Three", "url": "http://three/"},
    ]
    body = json.dumps({"results": results}).encode()
    async with serving(dead_port, {"/s/search": ("200 OK", "application/json", body)}) as asked:
        search = searcher(
            project, dead_port, max_results=2, parameters={"language": "en"}, headers={"x-key": "k"}
        )
        prepared, outcome = await search(" a&b \u00e9 ")
        assert outcome.text == "1. One\n   http://one/\n   about one\n2. Two\n   http://two/"
        assert prepared.title == "Search the web: a&b \u00e9"
        assert prepared.permissions[0].subject == f"127.0.0.1:{dead_port}"
        assert asked[0][0] == "/s/search?language=en&q=a%26b+%C3%A9&format=json"
        assert "x-key: k" in asked[0][1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (("403 x", "text/html", b""), "403; SearXNG needs json"),
        (("500 x", "text/html", b""), "answered 500"),
        (("200 OK", "text/html", b"<html>"), "is not JSON"),
        (("200 OK", "application/json", b"[" * 100_000), "is not JSON"),
        (("200 OK", "application/json", b" " * 2000), "longer than 1000 bytes"),
    ],
)
async def test_a_search_that_fails_says_why(project, dead_port, monkeypatch, answer, words):
    monkeypatch.setattr(web_search, "MAX_BYTES", 1000 if b"  " in answer[2] else 10**6)
    async with serving(dead_port, {"/s/search": answer}):
        with pytest.raises(ToolError, match=words):
            await searcher(project, dead_port)("x")


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"results": {}}', b'{"results": []}'])
async def test_nothing_found_is_said(project, dead_port, body):
    async with serving(dead_port, {"/s/search": ("200 OK", "application/json", body)}):
        assert (await searcher(project, dead_port)("x"))[1].text == "[nothing found]"


async def test_an_empty_or_endless_query_and_a_dead_server_are_refused(project, dead_port):
    for query in (" ", "x" * 1001, "x"):
        with pytest.raises(ToolError):
            await searcher(project, dead_port)(query)


SCRIPT = "[[turn]]\n[[turn.reply]]\nsteps = [{ call = 'web_search', args = { query = 'q' } }]\n[[turn.reply]]\nsteps = [{ text = 'x' }]\n"
SERVER = Path(__file__).parent / "mcp_server.py"


async def test_a_tool_of_a_server_may_search(script, start, project):
    server = f'[[mcp_servers]]\nname = "s"\ncommand = {json.dumps(sys.executable)}\nargs = [{json.dumps(str(SERVER))}]\n'
    script(SCRIPT, f'{server}[web_search]\ntool = "mcp__s__find"\nargument = "words"\n')
    async with start() as agent:
        agent.answers["session/request_permission"] = choose("allow_once")
        await agent.initialize()
        session = await agent.new_session(project)
        assert await agent.prompt(session, "go") == "end_turn"
        (asked,) = agent.calls("session/request_permission")
        assert asked["params"]["toolCall"]["title"] == "Search the web: q (s: find)"
        assert "found q" in json.dumps(
            [u.get("content") for u in agent.updates if u.get("status") == "completed"]
        )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "needs either url or tool"),
        ({"url": "http://x/", "tool": "t"}, "needs either url or tool"),
        ({"url": "ftp://x/"}, "url: must be an http or https URL"),
        ({"url": "http://x/", "engine": "y"}, "unknown key 'engine'"),
    ],
)
def test_a_bad_search_is_left_out_with_a_warning(table, said):
    endpoints = [{"name": "e", "base_url": "http://e/v1"}]
    config = parse_config({"endpoints": endpoints, "web_search": table}, source="c", env={})
    assert config.extensions.web_search is None
    assert said in config.warnings[0]


async def test_without_a_search_there_is_no_such_tool(script, start, project):
    script(SCRIPT)
    async with start() as agent:
        await agent.initialize()
        await agent.prompt(await agent.new_session(project), "go")
        assert "there is no tool 'web_search'" in json.dumps(agent.updates)
