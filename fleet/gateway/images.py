"""Pictures in a chat body: whether there are any, and whether they may go to a node."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from neuron.wire import ApiError

MAX_IMAGES = 64
MAX_IMAGE_BYTES = 20 << 20  # of one, as base64


class _Url(msgspec.Struct):
    url: str = ""


class _Part(msgspec.Struct):
    type: str = ""
    image_url: _Url | str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []


_bodies = msgspec.json.Decoder(_Body)


def needed_capability(body: bytes) -> str:
    """`vision` where the chat body shows pictures, else `chat`; raises `ApiError` 400 for one that is not
    to be passed on. A body of another shape is the node's to refuse.
    """
    if b'"image_url"' not in body:
        return "chat"
    try:
        messages = _bodies.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "chat"
    found = list(_images(messages))
    if len(found) > MAX_IMAGES:
        raise ApiError(
            400, "too_many_images", f"{len(found)} images; {MAX_IMAGES} are allowed.", param="messages"
        )
    for path, url in found:
        _check(path, url)
    return "vision" if found else "chat"


def _images(messages: list[_Message]) -> Iterator[tuple[str, str]]:
    for number, message in enumerate(messages):
        for index, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.type == "image_url":
                url = part.image_url.url if isinstance(part.image_url, _Url) else part.image_url or ""
                yield f"messages[{number}].content[{index}]", url


def _check(path: str, url: str) -> None:
    if not url.startswith("data:"):
        message = "Images at an address are not fetched here; send the image itself, in base64."
        raise ApiError(400, "image_url_not_allowed", message, param=path)
    if len(url) > MAX_IMAGE_BYTES:
        message = f"An image has {len(url)} bytes of base64; {MAX_IMAGE_BYTES} are allowed."
        raise ApiError(400, "image_too_large", message, param=path)
