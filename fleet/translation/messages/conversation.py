# cython: language_level=3, annotation_typing=False
"""An Anthropic conversation as chat messages.

system                a system message: a string or a lone block as a string, several blocks as parts
text, image           content parts, or a string where a text stands alone
document, search      one text part: title, context or source, text
tool_use              an entry of `tool_calls`; its arguments are the input's JSON text as it came
tool_reference        a text part: the tool's name
tool_result           a `tool` message right after the message that called. Chat has no mark for a call
                      that failed: its content begins with "Error: "
thinking              `reasoning_content` (several blocks joined by a newline)
thinking of others,   entries of `reasoning_details`: the upstream that made them understands them,
redacted_thinking     others ignore them. Our own stand-in for a signature is taken off again.

Turns of the assistant in a row are one, as they are for Anthropic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fleet.translation.messages.signature import UNSIGNED
from fleet.translation.messages.wire import (
    AssistantTurn,
    Base64Source,
    ContentSource,
    Document,
    Image,
    Part,
    RedactedThinking,
    SearchResult,
    SystemTurn,
    Text,
    TextSource,
    Thinking,
    ToolReference,
    ToolResult,
    ToolUse,
    Turn,
    UserTurn,
)
from fleet.translation.turns import in_chat_order
from fleet.translation.validation import reject, require_object

Json = dict[str, Any]

_ERROR_MARK = "Error: "


def chat_messages(system: str | list[Text] | None, turns: Sequence[Turn]) -> list[Json]:
    """The messages of a conversation. Raises `ApiError` 400 where a result answers no call."""
    messages = _system(system)
    calls: set[str] = set()
    for number, turn in enumerate(turns):
        match turn:
            case UserTurn(content=str(text)):
                messages.append({"role": "user", "content": text})
            case UserTurn(content=list(blocks)):
                messages += _user(blocks, f"messages[{number}]", calls)
            case AssistantTurn(content=str(text)):
                messages.append({"role": "assistant", "content": text})
            case AssistantTurn(content=list(blocks)):
                messages.append(_assistant(blocks, f"messages[{number}]", calls))
            case SystemTurn(content=content):
                messages += _system(content)
    return in_chat_order(messages)


def _system(content: str | list[Text] | None) -> list[Json]:
    return [{"role": "system", "content": _content(content)}] if content else []


def _user(content: list[Any], path: str, calls: set[str]) -> list[Json]:
    messages: list[Json] = []
    rest: list[Part] = []
    for number, block in enumerate(content):
        if not isinstance(block, ToolResult):
            rest.append(block)
            continue
        if block.tool_use_id not in calls:
            reject(
                f"{path}.content[{number}].tool_use_id",
                f"No tool_use block before this one has the id {block.tool_use_id!r}.",
            )
        messages.append(_tool_message(block))
    if rest or not messages:
        messages.append({"role": "user", "content": _content(rest)})
    return messages


def _tool_message(result: ToolResult) -> Json:
    content = _content(result.content or "")
    if result.is_error:
        content = _marked_failed(content)
    return {"role": "tool", "tool_call_id": result.tool_use_id, "content": content}


def _marked_failed(content: str | list[Json]) -> str | list[Json]:
    if isinstance(content, str):
        return _ERROR_MARK + content
    return [{"type": "text", "text": _ERROR_MARK}, *content]


def _assistant(content: list[Any], path: str, calls: set[str]) -> Json:
    texts = [block for block in content if isinstance(block, Text)]
    uses = [block for block in content if isinstance(block, ToolUse)]
    message: Json = {"role": "assistant", "content": _content(texts) if texts or not uses else None}
    message |= _reasoning([block for block in content if isinstance(block, Thinking | RedactedThinking)])
    if uses:
        message["tool_calls"] = [_tool_call(use) for use in uses]
    for number, block in enumerate(content):
        if isinstance(block, ToolUse):
            require_object(block.input, f"{path}.content[{number}].input")
            calls.add(block.id)
    return message


def _tool_call(use: ToolUse) -> Json:
    function = {"name": use.name, "arguments": bytes(use.input).decode()}
    return {"id": use.id, "type": "function", "function": function}


def _reasoning(blocks: Sequence[Thinking | RedactedThinking]) -> Json:
    fields: Json = {}
    texts = [block.thinking for block in blocks if isinstance(block, Thinking) and block.thinking]
    if texts:
        fields["reasoning_content"] = "\n".join(texts)
    details = [detail for block in blocks if (detail := _detail(block))]
    if details:
        fields["reasoning_details"] = details
    return fields


def _detail(block: Thinking | RedactedThinking) -> Json | None:
    if isinstance(block, RedactedThinking):
        return {"type": "reasoning.encrypted", "data": block.data}
    if block.signature in {None, "", UNSIGNED}:
        return None
    return {"type": "reasoning.text", "text": block.thinking, "signature": block.signature}


def _content(content: str | Sequence[Part | ToolReference]) -> str | list[Json]:
    """Chat content: a string, also for a single text block, or else a list of parts."""
    if isinstance(content, str):
        return content
    match content:
        case [Text(text=text)] | [ToolReference(tool_name=text)]:
            return text
        case []:
            return ""
        case _:
            return [part for block in content for part in _parts(block)]


def _parts(block: Part | ToolReference) -> Iterable[Json]:
    match block:
        case Text(text=text) | ToolReference(tool_name=text):
            yield {"type": "text", "text": text}
        case Image():
            yield _image(block)
        case SearchResult():
            yield _joined(block.title, block.source, *(text.text for text in block.content))
        case Document(source=ContentSource(content=list(inner))):
            yield from _heading(block)
            for part in inner:
                yield from _parts(part)
        case Document(source=ContentSource(content=str(text))):
            yield _joined(block.title, block.context, text)
        case Document(source=TextSource(data=text)):
            yield _joined(block.title, block.context, text)


def _heading(document: Document) -> Iterable[Json]:
    if document.title or document.context:
        yield _joined(document.title, document.context)


def _joined(*texts: str | None) -> Json:
    return {"type": "text", "text": "\n".join(text for text in texts if text)}


def _image(image: Image) -> Json:
    source = image.source
    url = f"data:{source.media_type};base64,{source.data}" if isinstance(source, Base64Source) else source.url
    return {"type": "image_url", "image_url": {"url": url}}
