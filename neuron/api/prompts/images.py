"""Images and videos of a chat: taken from the body, read by the model's processor, placed in the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from neuron.api.bodies.chat import ChatMessage, ContentPart, ImageUrl
from neuron.api.errors import invalid, unsupported
from neuron.api.prompts.data_urls import decoded, parse_data_url
from neuron.api.prompts.videos import read_video
from neuron.harness import LocalModel
from neuron.pipe import ImagePlaceholder, ImageSpan, ImageToken, VideoFile
from neuron.videos import Videos
from neuron.wire import ApiError

SHOWN_PARTS = ("image_url", "video_url")
ShownFile = bytes | VideoFile
ShownFiles = Mapping[str, Sequence[ShownFile]]
"""What each part of a chat shows, by its place in the body: images, or a video. In the order of the body."""


async def chat_files(
    messages: Sequence[ChatMessage], model: LocalModel, videos: Videos, principal: str
) -> ShownFiles:
    """All images and videos of a chat. Raises `ApiError`, 400 for one that is not allowed or none.

    Of a model whose prompts show no videos, each frame is an image.
    """
    found: dict[str, Sequence[ShownFile]] = {}
    num_images = 0
    for index, message in enumerate(messages):
        parts = message.content if isinstance(message.content, list) else ()
        for number, part in enumerate(parts):
            if part.type in SHOWN_PARTS:
                param = f"messages[{index}].content[{number}]"
                _admit(message, part, model, param)
                found[param] = await _files(part, param, model, videos, principal)
                num_images += len(found[param])
                if num_images > model.max_images:
                    raise _too_many(part, param, model)
    return found


def _admit(message: ChatMessage, part: ContentPart, model: LocalModel, param: str) -> None:
    if model.image_token is None:
        raise unsupported(param, f"{param}: the model {model.id!r} reads text only, not {part.type}.")
    if message.role not in {"user", "tool"}:
        kind = "videos" if part.type == "video_url" else "images"
        raise invalid(param, f"{param}: {kind} are for messages of user and tool, not {message.role}.")


def _too_many(part: ContentPart, param: str, model: LocalModel) -> ApiError:
    shown = ", and the model reads each frame as one" if part.type == "video_url" else ""
    return invalid(param, f"{param}: a request may have {model.max_images} images{shown}.")


async def _files(
    part: ContentPart, param: str, model: LocalModel, videos: Videos, principal: str
) -> Sequence[ShownFile]:
    if part.type == "image_url":
        return [_image(part, param)]
    video = await read_video(part, param, videos, principal)
    return [video] if model.video_token else video.frames


def _image(part: ContentPart, param: str) -> bytes:
    url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url or ""
    if (found := parse_data_url(url)) is None:
        cure = "expected data:image/png;base64,… (cortex fetches images at an address, where that is enabled)"
        raise invalid(f"{param}.image_url.url", f"{param}.image_url.url: {cure}.")
    return decoded(found[1], f"{param}.image_url.url")


async def place_images(text: str, files: ShownFiles, model: LocalModel) -> tuple[str, list[ImagePlaceholder]]:
    """The text with the placeholders of each image or video in place of its marker, and those placeholders.

    Raises `ApiError`, 400 for a file that is neither and for markers that do not match the files.
    """
    shown = [(param, file) for param, of_part in files.items() for file in of_part]
    processed = await model.process_images([file for _, file in shown])
    if processed.problem:
        param, file = shown[len(processed.placeholders)]
        code = "invalid_video" if isinstance(file, VideoFile) else "invalid_image"
        raise ApiError(400, code, f"{param}: {processed.problem}.", param=param)
    wanted = [_token(file, model) for _, file in shown]
    marker = "|".join(re.escape(token.text) for token in dict.fromkeys(wanted))
    parts = re.split(f"({marker})", text)
    if parts[1::2] != [token.text for token in wanted]:
        raise _misplaced(model, len(parts) // 2, len(wanted))
    parts[1::2] = [placeholder.text for placeholder in processed.placeholders]
    return "".join(parts), processed.placeholders


def _token(file: ShownFile, model: LocalModel) -> ImageToken:
    token = model.video_token if isinstance(file, VideoFile) else model.image_token
    assert token
    return token


def image_spans(
    tokens: Sequence[int], placeholders: Sequence[ImagePlaceholder], model: LocalModel
) -> list[ImageSpan]:
    """The span of each image or video in the prompt.

    Raises `ApiError` 400 if the number of placeholders differs.
    """
    ids = {token.id for token in (model.image_token, model.video_token) if token}
    places = [at for at, token in enumerate(tokens) if token in ids]
    wanted = sum(placeholder.num_tokens for placeholder in placeholders)
    if len(places) != wanted:
        raise _misplaced(model, len(places), wanted)
    spans: list[ImageSpan] = []
    first = 0
    for placeholder in placeholders:
        last = first + placeholder.num_tokens - 1
        spans.append(ImageSpan(placeholder.digest, places[first], places[last] + 1))
        first = last + 1
    return spans


def _misplaced(model: LocalModel, found: int, wanted: int) -> ApiError:
    kinds = {"images": model.image_token, "videos": model.video_token}
    shown = " and ".join(kind for kind, token in kinds.items() if token)
    names = [name for token in kinds.values() if token for name in (token.text, token.placeholder)]
    said = " or ".join(map(repr, dict.fromkeys(names)))
    message = (
        f"messages: the prompt places {shown} {found} times, {wanted} are wanted; text may not say {said} "
        "beside them, and the model's chat template has to place them."
    )
    return invalid("messages", message)
