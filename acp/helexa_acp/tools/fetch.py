"""The tool `fetch`, which reads a web page as text, unless the site's robots.txt asks programs not to.

Permission is given for a host, so a redirect to another host is reported to the model, not followed.
"""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from helexa_acp import VERSION
from helexa_acp.cancellation import Cancelled
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.robots import MAX_BYTES as MAX_ROBOTS_BYTES
from helexa_acp.tools.robots import Robots, parse_robots
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

TIMEOUT_S = 30.0
MAX_BYTES = 2 * 1024 * 1024
MAX_REDIRECTS = 5
PRODUCT = "helexa-acp"  # what robots.txt files may call this program
HEADERS = {"user-agent": f"{PRODUCT}/{VERSION}", "accept": "text/html, text/*, application/json"}
NOTHING = Robots((("/", False),))


class FetchTool:
    kind = "fetch"
    read_only = False
    spec = spec("fetch", "Read a web page as text.", ("url",), url={"type": "string"})

    def __init__(self) -> None:
        self._robots: dict[str, Robots] = {}  # by the origin of the site

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        url = args["url"]
        host = host_of(url)

        async def run() -> Outcome:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    text = clip(await ctx.cancel.race(self._get(url, host)))
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                raise ToolError(f"cannot fetch {url}: {error or type(error).__name__}") from error
            except Cancelled:
                raise ToolError("cancelled") from None
            return Outcome(text, [text_content(text)])

        return PreparedCall(
            f"Fetch {one_line(url)}",
            run,
            (Permission("fetch", host, (PermissionRule("fetch", "exact", host),)),),
        )

    async def _get(self, url: str, host: str) -> str:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, headers=HEADERS) as client:
            for _ in range(MAX_REDIRECTS):
                await self._check_robots(client, url)
                async with client.stream("GET", url) as answer:
                    if not answer.is_redirect:
                        return await _text(answer)
                    url = urljoin(url, answer.headers["location"])
                if host_of(url) != host:
                    return (
                        f"The page moved to another host: {url}\nFetch that address if it is what you want."
                    )
        raise ToolError("too many redirects")

    async def _check_robots(self, client: httpx.AsyncClient, url: str) -> None:
        """Raises ToolError if the site does not want programs to read the page."""
        origin = origin_of(url)
        if origin not in self._robots:
            self._robots[origin] = await _ask_robots(client, origin)
        parts = urlsplit(url)
        path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        if not self._robots[origin].allow(path):
            raise ToolError(f"the site asks programs not to read this page ({origin}/robots.txt)")


def origin_of(url: str) -> str:
    """Return scheme, host and port of a URL. Raises ToolError."""
    return f"{urlsplit(url).scheme}://{host_of(url)}"


def host_of(url: str) -> str:
    """Return the host of a URL, with its port if it names one. Raises ToolError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        port = parts.port
    except ValueError as error:
        raise ToolError(f"url: {error}") from error
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None:
        raise ToolError("url must be http or https with a host, and without a user")
    return f"{host}:{port}" if port else host


async def _ask_robots(client: httpx.AsyncClient, origin: str) -> Robots:
    """Return what a site lets programs read: everything if it does not say, nothing if it cannot say now."""
    url = f"{origin}/robots.txt"
    for _ in range(MAX_REDIRECTS):
        async with client.stream("GET", url) as answer:
            if not answer.is_redirect:
                if answer.is_server_error:
                    return NOTHING
                body = await read_body(answer, MAX_ROBOTS_BYTES) if answer.is_success else b""
                return parse_robots(body.decode("utf-8", "replace"), PRODUCT)
            url = urljoin(url, answer.headers["location"])
        if origin_of(url) != origin:
            break
    return Robots()


async def _text(answer: httpx.Response) -> str:
    body = await read_body(answer, MAX_BYTES)
    kind = answer.headers.get("content-type", "")
    if not re.search(r"text|json|xml|javascript", kind or "text"):
        raise ToolError(f"the page is {kind}, not text")
    text = body.decode(answer.charset_encoding or "utf-8", "replace")
    text = page_text(text) if "html" in kind else text
    return text if answer.is_success else f"[status {answer.status_code}]\n{text}"


async def read_body(answer: httpx.Response, limit_bytes: int) -> bytes:
    """Return the beginning of a body; the limit counts what is decompressed."""
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > limit_bytes:
            break
    return bytes(body[:limit_bytes])


class _Reader(HTMLParser):
    HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "head"})
    BLOCKS = frozenset(
        {"p", "div", "br", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "section", "article"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in self.HIDDEN))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def page_text(html: str) -> str:
    """Return the visible text of a page."""
    reader = _Reader()
    reader.feed(html)
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
