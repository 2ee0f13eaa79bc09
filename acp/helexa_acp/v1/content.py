"""Content blocks of protocol version 1: checked, turned into neutral parts, and built."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from helexa_acp.provider.types import ImagePart, Part, TextPart

IMAGE_TYPES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
MAX_RESOURCE_CHARS = 400_000

_REQUIRED = {
    "text": ("text",),
    "image": ("data", "mimeType"),
    "audio": ("data", "mimeType"),
    "resource_link": ("uri", "name"),
}


class BadBlockError(Exception):
    """A content block is invalid. The message names the block and the field."""


def check_blocks(value: Any) -> list[dict[str, Any]]:
    """Return the blocks of a prompt. Raises BadBlockError if the agent cannot take them."""
    if not isinstance(value, list):
        raise BadBlockError("prompt must be a list of content blocks")
    for place, block in enumerate(value):
        _check(place, block)
    if all(block["type"] == "text" and not block["text"].strip() for block in value):
        raise BadBlockError("prompt is empty")
    return value


def _check(place: int, block: Any) -> None:
    where = f"prompt[{place}]"
    if not isinstance(block, dict):
        raise BadBlockError(f"{where} must be an object")
    kind = block.get("type")
    if kind == "resource":
        resource = block.get("resource")
        if not isinstance(resource, dict) or not isinstance(resource.get("uri"), str):
            raise BadBlockError(f"{where}.resource must be an object with a uri")
        if not isinstance(resource.get("text", resource.get("blob")), str):
            raise BadBlockError(f"{where}.resource needs text or blob")
        return
    if not isinstance(kind, str) or kind not in _REQUIRED:
        raise BadBlockError(f"{where}.type: {kind!r} is not a content block")
    if kind == "audio":
        raise BadBlockError(f"{where}: audio is not supported (promptCapabilities.audio is false)")
    for field in _REQUIRED[kind]:
        if not isinstance(block.get(field), str):
            raise BadBlockError(f"{where}.{field} must be a string")
    if kind == "image":
        _check_image(where, block)


def _check_image(where: str, block: dict[str, Any]) -> None:
    if block["mimeType"] not in IMAGE_TYPES:
        raise BadBlockError(
            f"{where}.mimeType: {block['mimeType']!r} is none of {', '.join(sorted(IMAGE_TYPES))}"
        )
    try:
        base64.b64decode(block["data"], validate=True)
    except (ValueError, binascii.Error):
        raise BadBlockError(f"{where}.data is not base64") from None


def to_parts(blocks: list[dict[str, Any]]) -> tuple[Part, ...]:
    """Return the blocks as parts. Neighbouring texts are joined with a blank line."""
    parts: list[Part] = []
    for block in blocks:
        part = _part(block)
        last = parts[-1] if parts else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            parts[-1] = TextPart(f"{last.text}\n\n{part.text}")
        else:
            parts.append(part)
    return tuple(parts)


def _part(block: dict[str, Any]) -> Part:
    match block.get("type"):
        case "text":
            return TextPart(str(block.get("text", "")))
        case "image":
            return ImagePart(str(block.get("mimeType")), str(block.get("data")), block.get("uri"))
        case "resource_link":
            return TextPart(f"[{block.get('name')}]({block.get('uri')})")
        case "resource":
            return _resource(block.get("resource") or {})
    return TextPart(f"[a block of type {block.get('type')!r}, which cannot be read here]")


def unreadable(blocks: list[dict[str, Any]], *, images: bool) -> tuple[str, ...]:
    """Return the names of what a model cannot read of a prompt; `images` is whether it reads those."""
    names = [_unread_name(block, images=images) for block in blocks]
    return tuple(dict.fromkeys(name for name in names if name))


def _unread_name(block: dict[str, Any], *, images: bool) -> str | None:
    if block.get("type") == "image":
        return None if images else f"the image {block['uri']}" if block.get("uri") else "the image"
    if block.get("type") != "resource" or isinstance(block["resource"].get("text"), str):
        return None
    resource = block["resource"]
    is_image = resource.get("mimeType") in IMAGE_TYPES
    return None if is_image and images else str(resource["uri"])


def _resource(resource: dict[str, Any]) -> Part:
    uri = str(resource.get("uri"))
    kind = str(resource.get("mimeType") or "")
    text = resource.get("text")
    if isinstance(text, str):
        if len(text) > MAX_RESOURCE_CHARS:
            text = text[:MAX_RESOURCE_CHARS] + "\n[cut here]"
        return TextPart(f'<resource uri="{uri}">\n{text}\n</resource>')
    if kind in IMAGE_TYPES:
        return ImagePart(kind, str(resource.get("blob")), uri)
    return TextPart(f"[attached {uri}, {kind or 'binary data'}, which cannot be read here]")


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def prompt_text(blocks: list[dict[str, Any]]) -> str:
    """Return what the user typed: the text of a prompt without its attachments."""
    return "\n\n".join(str(block["text"]) for block in blocks if block.get("type") == "text")
