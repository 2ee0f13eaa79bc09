"""The prompt of a chat: its messages, images and tools, rendered by the model's chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from neuron.api.bodies.chat import ChatBody, ChatMessage, ContentPart, ignored_fields
from neuron.api.errors import invalid, unsupported
from neuron.api.prompts.images import (
    SHOWN_PARTS,
    ShownFile,
    ShownFiles,
    chat_files,
    image_spans,
    place_images,
)
from neuron.api.prompts.prompt import Prompt, encode
from neuron.harness import LocalModel
from neuron.pipe import ImageSpan, VideoFile
from neuron.templates import Templates
from neuron.text.rendering import TemplateRefusal
from neuron.text.traits.fitted_template import RenderedChat
from neuron.text.traits.template_traits import UnknownEffortError
from neuron.videos import Videos
from neuron.wire import ApiError, prefix_marks

Json = dict[str, Any]

MESSAGES_A_TURN = 500  # of the event loop, which has other streams to serve


class ChatRenderer(NamedTuple):
    """Renders the chats of one principal."""

    templates: Templates
    videos: Videos
    principal: str


async def chat_prompt(
    body: ChatBody, model: LocalModel, tools: list[Json] | None, renderer: ChatRenderer, raw: bytes = b""
) -> Prompt:
    """The chat as the model reads it, marked by the beginnings of its body as it came (`raw`).

    Raises `ApiError` 400 that names the parameter at fault.
    """
    files = await chat_files(body.messages, model, renderer.videos, renderer.principal)
    rendered, ignored = await _render(body, model, tools, renderer, files)
    text = rendered.text
    spans: Sequence[ImageSpan] = ()
    if not files:
        tokens = await encode(model, text, "messages", is_rendered=True)
    else:
        text, placed = await place_images(text, files, model)
        tokens = await encode(model, text, "messages", is_rendered=True)
        spans = image_spans(tokens, placed, model)
    ignored = (*ignored, *(ignored_fields(raw) if raw else ()))
    num_calls = sum(len(message.tool_calls or ()) for message in body.messages)
    return Prompt(text, tokens, spans, _marks(raw, len(tokens)), rendered.changes, ignored, num_calls)


def tool_definitions(body: ChatBody, model: LocalModel) -> list[Json] | None:
    """The tools as chat templates expect them; None when none may be called.

    Raises `ApiError` 400 when the model cannot call any.
    """
    if not body.tools or body.tool_choice == "none":
        return None
    if model.text.notation is None:
        raise unsupported("tools", f"The model {model.id!r} cannot call tools.")
    return [msgspec.to_builtins(tool) for tool in body.tools]


def _marks(raw: bytes, num_tokens: int) -> list[tuple[int, int]]:
    """The body's prefix marks with lengths in tokens; approximate, as if tokens were of equal length."""
    return [(digest, length * num_tokens // len(raw)) for digest, length in prefix_marks(raw)]


async def _render(
    body: ChatBody, model: LocalModel, tools: list[Json] | None, renderer: ChatRenderer, files: ShownFiles
) -> tuple[RenderedChat, tuple[str, ...]]:
    """The rendered chat, and the parameters that its template has no switch for."""
    if len(body.messages) > (limit := renderer.templates.max_messages):
        message = f"messages: {len(body.messages)} are too many; a chat may have {limit}."
        raise ApiError(400, "too_many_messages", message, param="messages")
    template = model.text.template_for(tools=bool(tools))
    messages = await _plain_messages(body.messages, model.id, files)
    try:
        settings, ignored = template.settings(effort=body.reasoning_effort, verbosity=body.verbosity)
    except UnknownEffortError as error:
        name = "reasoning_effort"
        message = f"{name}: {body.reasoning_effort!r:.80} is unknown; {model.id!r} knows {error}."
        raise invalid(name, message) from error
    rendered = await renderer.templates.render(
        renderer.principal,
        template,
        messages,
        tools=tools,
        documents=body.documents,
        variables=settings | (body.chat_template_kwargs or {}),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final=bool(body.continue_final_message),
    )
    if isinstance(rendered, TemplateRefusal):
        message = f"The chat template of {model.id!r} refuses this chat: {rendered.message}"
        raise ApiError(400, "template_render_failed", message, param=rendered.place or "messages")
    return rendered, ignored


async def _plain_messages(messages: Sequence[ChatMessage], model_id: str, files: ShownFiles) -> list[Json]:
    plain = []
    for index, message in enumerate(messages):
        plain.append(_plain(message, f"messages[{index}]", model_id, files))
        if index % MESSAGES_A_TURN == MESSAGES_A_TURN - 1:
            await asyncio.sleep(0)
    return plain


def _plain(message: ChatMessage, param: str, model_id: str, files: ShownFiles) -> Json:
    """The message as templates expect it: its content a string, absent fields left out."""
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise invalid(f"{param}.content", f"{param}.content: is required.")
    plain: Json = {"role": message.role, "content": _content(message.content, param, model_id, files)}
    if message.tool_calls:
        plain["tool_calls"] = msgspec.to_builtins(message.tool_calls)
    for name in ("name", "tool_call_id", "reasoning_content", "reasoning", "thinking"):
        if isinstance(value := getattr(message, name), str):
            plain[name] = value
    return plain


def _content(
    content: str | list[ContentPart] | None, param: str, model_id: str, files: ShownFiles
) -> str | list[Json]:
    """The text; or the list of parts, when there are images or videos among them."""
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type not in SHOWN_PARTS and (part.type != "text" or part.text is None):
            place = f"{param}.content[{index}]"
            cure = "; send a video_url" if "video" in part.type else ""
            raise unsupported(place, f"{place}: the model {model_id!r} does not read {part.type}{cure}.")
    if all(part.type == "text" for part in content):
        return "\n".join(part.text or "" for part in content)
    return [
        plain
        for index, part in enumerate(content)
        for plain in _plain_parts(part, files.get(f"{param}.content[{index}]", ()))
    ]


def _plain_parts(part: ContentPart, shown: Sequence[ShownFile]) -> list[Json]:
    """The text; or a place for each image, and for each video of a model that sees those."""
    if part.type == "text":
        return [{"type": "text", "text": part.text}]
    return [{"type": "video" if isinstance(file, VideoFile) else "image"} for file in shown]
