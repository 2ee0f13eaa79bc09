"""Images in a chat body: whether it has any, or videos, whether they are admitted, and fetching them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from cortex_site.config.cortex_toml import GatewaySettings
from fleet.gateway.dialects.base import Call
from fleet.gateway.dialects.image_fetcher import FetchError, ImageFetcher
from neuron.wire import ApiError

Json = dict[str, Any]


class _Url(msgspec.Struct):
    url: str = ""


class _Part(msgspec.Struct):
    type: str = ""
    image_url: _Url | str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []


_SHOWN = ("image_url", "video_url")
_bodies = msgspec.json.Decoder(_Body)


def needed_capability(body: bytes) -> str:
    """`vision` when a chat body has images or videos, else `chat`.

    The node refuses a body of another shape.
    """
    # `in` would take a number first, and make and drop an exception
    return "vision" if body.find(b'_url"') >= 0 and any(_parts(body, _SHOWN)) else "chat"


def _urls(body: bytes) -> Iterator[str]:
    for part in _parts(body, ("image_url",)):
        yield part.image_url.url if isinstance(part.image_url, _Url) else part.image_url or ""


def _parts(body: bytes, kinds: Collection[str]) -> Iterator[_Part]:
    try:
        messages = _bodies.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    for message in messages:
        for part in message.content if isinstance(message.content, list) else ():
            if part.type in kinds:
                yield part


class ImagePolicy:
    """Refuses images over the bounds, and inlines those at an address where the operator allows that."""

    def __init__(self, bounds: GatewaySettings, fetcher: ImageFetcher) -> None:
        self._bounds = bounds
        self._fetcher = fetcher

    async def admit(self, call: Call, asked: bytes) -> Call:
        """The call with every image in its body.

        `asked` is the client's own body: an error names the place of a refused image there. Raises `ApiError`
        400.
        """
        bounds, urls = self._bounds, list(_urls(call.body))
        if len(urls) > bounds.max_images:
            text = f"{len(urls)} images; {bounds.max_images} are allowed."
            raise _refusal("too_many_images", text, asked, urls[bounds.max_images])
        for url in urls:
            self._check(url, asked)
        remote = [url for url in dict.fromkeys(urls) if not url.startswith("data:")]
        if not remote:
            return call
        return msgspec.structs.replace(call, body=_with_urls(call.body, await self._fetched(remote, asked)))

    def _check(self, url: str, asked: bytes) -> None:
        limit = self._bounds.max_image_bytes
        if url.startswith("data:"):
            if len(url) > limit * 4 / 3 + 128:  # base64 and the prefix of a data URL
                raise _refusal("image_too_large", f"More than {limit} bytes are not allowed.", asked, url)
        elif not self._bounds.fetch_images:
            text = "Images at an address are not fetched here; send the image itself, in base64."
            raise _refusal("image_url_not_allowed", text, asked, url)

    async def _fetched(self, urls: list[str], asked: bytes) -> dict[str, str]:
        """Data URLs by address. All images together stay within one timeout and one body's size."""
        found: dict[str, str] = {}
        room, timeout_s = self._bounds.max_body_bytes, self._bounds.fetch_images_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                for url in urls:
                    found[url] = await self._fetcher.fetch(url, min(self._bounds.max_image_bytes, room))
                    room -= len(found[url])
        except (FetchError, TimeoutError) as error:
            reason = str(error) or f"it took longer than {timeout_s:g} s"
            raise _refusal("image_not_fetched", f"It was not fetched: {reason}.", asked, url) from error
        return found


def _with_urls(body: bytes, found: dict[str, str]) -> bytes:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    messages = msgspec.json.decode(fields["messages"])
    for message in messages:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if part.get("type") == "image_url":
                given = part["image_url"]
                image: Json = given if isinstance(given, dict) else {"url": given}
                part["image_url"] = image | {"url": found.get(image["url"], image["url"])}
    return msgspec.json.encode({**fields, "messages": messages})


def _refusal(code: str, message: str, asked: bytes, url: str) -> ApiError:
    return ApiError(400, code, message, param=_place(msgspec.json.decode(asked), url))


def _place(value: Any, url: str, path: str = "") -> str | None:
    """The path of an image in a body of any dialect: where its address stands, or its data."""
    if isinstance(value, str):
        return path if value and (value == url or url.endswith(f";base64,{value}")) else None
    if isinstance(value, dict):
        inner = [(f"{path}.{name}" if path else name, child) for name, child in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[{number}]", child) for number, child in enumerate(value)]
    else:
        return None
    return next((found for place, child in inner if (found := _place(child, url, place))), None)
