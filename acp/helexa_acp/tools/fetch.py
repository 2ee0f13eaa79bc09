"""The tool `fetch`, which reads a web page as text.

Permission is given for a host, so a redirect to another host is reported to the model, not followed.
"""

from __future__ import annotations

import asyncio
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from helexa_acp.cancellation import Cancelled
from helexa_acp.tools.errors import ToolError
from helexa_acp.tools.tool import Outcome, Permission, PermissionRule, PreparedCall, ToolContext, spec
from helexa_acp.tools.truncation import clip, one_line
from helexa_acp.v1.updates import text_content

TIMEOUT_S = 30.0
MAX_BYTES = 2 * 1024 * 1024
MAX_REDIRECTS = 5


class FetchTool:
    kind = "fetch"
    read_only = False
    spec = spec("fetch", "Read a web page as text.", ("url",), url={"type": "string"})

    async def prepare(self, args: dict[str, Any], ctx: ToolContext) -> PreparedCall:
        url = args["url"]
        host = host_of(url)

        async def run() -> Outcome:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    text = clip(await ctx.cancel.race(_get(url, host)))
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


async def _get(url: str, host: str) -> str:
    async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
        for _ in range(MAX_REDIRECTS):
            async with client.stream(
                "GET", url, headers={"accept": "text/html, text/*, application/json"}
            ) as answer:
                if not answer.is_redirect:
                    return await _text(answer)
                url = urljoin(url, answer.headers["location"])
            if host_of(url) != host:
                return f"The page moved to another host: {url}\nFetch that address if it is what you want."
    raise ToolError("too many redirects")


async def _text(answer: httpx.Response) -> str:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_BYTES:
            break
    kind = answer.headers.get("content-type", "")
    if not re.search(r"text|json|xml|javascript", kind or "text"):
        raise ToolError(f"the page is {kind}, not text")
    text = bytes(body[:MAX_BYTES]).decode(answer.charset_encoding or "utf-8", "replace")
    text = page_text(text) if "html" in kind else text
    return text if answer.is_success else f"[status {answer.status_code}]\n{text}"


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
