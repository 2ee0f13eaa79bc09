"""The contents of MCP results, as the model reads them and as a card shows them."""

from __future__ import annotations

from typing import Any

from helexa_acp.provider.types import ImagePart
from helexa_acp.tools.tool import Outcome
from helexa_acp.tools.truncation import clip
from helexa_acp.v1.updates import image_content, link_content, text_content


def outcome_of(result: Any) -> Outcome:
    """Return the outcome of a call, whose result is of the `mcp` library."""
    blocks = result.content
    images = tuple(ImagePart(b.mime_type, b.data) for b in blocks if b.type == "image")
    text = _joined(blocks)
    said = _joined([block for block in blocks if block.type != "resource_link"])
    content = [text_content(said)] if said else []
    content += [_link(block) for block in blocks if block.type == "resource_link"]
    content += [image_content(image.mime_type, image.data) for image in images]
    return Outcome(text, content, images=images, is_error=bool(result.is_error))


def _joined(blocks: list[Any]) -> str:
    return clip("\n".join(filter(None, map(text_of, blocks))))


def text_of(block: Any) -> str:
    """Return a block as text for the model; an image is none."""
    match block.type:
        case "text":
            return str(block.text)
        case "image":
            return ""
        case "resource_link":
            about = f": {block.description}" if block.description else ""
            return f"[{block.title or block.name}]({block.uri}){about}"
        case "resource":
            return resource_text(block.resource)
    return f"[a block of type {block.type}]"


def resource_text(resource: Any) -> str:
    """Return a resource's text with its address, or what it is if it has no text."""
    if hasattr(resource, "text"):
        return f'<resource uri="{resource.uri}">\n{resource.text}\n</resource>'
    return f"[{resource.uri}, {resource.mime_type or 'binary data'}, which cannot be read here]"


def _link(block: Any) -> dict[str, Any]:
    more = {"title": block.title, "description": block.description, "mimeType": block.mime_type}
    return link_content(str(block.uri), block.name, **{key: value for key, value in more.items() if value})
