"""The images of a chat: taken from the body, read by the model's processor, and placed in the prompt."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import NamedTuple

from neuron.api.bodies.chat import ChatMessage, ContentPart, ImageUrl
from neuron.api.errors import invalid, unsupported
from neuron.harness import LocalModel
from neuron.pipe import ImagePlaceholder, ImageSpan, ImageToken
from neuron.wire import ApiError


class ChatImage(NamedTuple):
    """An image file, and its place in the body."""

    param: str
    data: bytes


def chat_images(messages: Sequence[ChatMessage], model: LocalModel) -> list[ChatImage]:
    """All images of a chat, in order. Raises `ApiError` 400 for one that is not allowed or not an image."""
    found: list[ChatImage] = []
    for index, message in enumerate(messages):
        parts = message.content if isinstance(message.content, list) else ()
        for number, part in enumerate(parts):
            if part.type == "image_url":
                param = f"messages[{index}].content[{number}]"
                _admit(message, model, param, len(found))
                found.append(ChatImage(param, _data(part, param)))
    return found


def _admit(message: ChatMessage, model: LocalModel, param: str, num_before: int) -> None:
    if model.image_token is None:
        raise unsupported(param, f"{param}: the model {model.id!r} reads text only, not image_url.")
    if message.role not in {"user", "tool"}:
        raise invalid(param, f"{param}: images are for messages of user and tool, not {message.role}.")
    if num_before >= model.max_images:
        raise invalid(param, f"{param}: a request may have {model.max_images} images.")


def _data(part: ContentPart, param: str) -> bytes:
    url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url or ""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        cure = "expected data:image/png;base64,… (cortex fetches images at an address, where that is enabled)"
        raise invalid(f"{param}.image_url.url", f"{param}.image_url.url: {cure}.")
    try:
        return b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param}.image_url.url", f"{param}.image_url.url: not base64: {error}.") from error


async def place_images(
    text: str, images: Sequence[ChatImage], model: LocalModel
) -> tuple[str, list[ImagePlaceholder]]:
    """The text with the placeholders of each image in place of its marker, and those placeholders.

    Raises `ApiError`, 400 for a file that is no image and for markers that do not match the images.
    """
    assert model.image_token
    processed = await model.process_images([image.data for image in images])
    if processed.problem:
        param = images[len(processed.placeholders)].param
        raise ApiError(400, "invalid_image", f"{param}: {processed.problem}.", param=param)
    parts = text.split(model.image_token.text)
    if len(parts) != len(images) + 1:
        raise _misplaced(model.image_token, len(parts) - 1, len(images))
    whole = parts[0]
    for placeholder, part in zip(processed.placeholders, parts[1:], strict=True):
        whole += placeholder.text + part
    return whole, processed.placeholders


def image_spans(
    tokens: Sequence[int], placeholders: Sequence[ImagePlaceholder], image_token: ImageToken
) -> list[ImageSpan]:
    """The span of each image in the prompt. Raises `ApiError` 400 if the number of placeholders differs."""
    places = [at for at, token in enumerate(tokens) if token == image_token.id]
    wanted = sum(placeholder.num_tokens for placeholder in placeholders)
    if len(places) != wanted:
        raise _misplaced(image_token, len(places), wanted)
    spans: list[ImageSpan] = []
    first = 0
    for placeholder in placeholders:
        last = first + placeholder.num_tokens - 1
        spans.append(ImageSpan(placeholder.digest, places[first], places[last] + 1))
        first = last + 1
    return spans


def _misplaced(image_token: ImageToken, found: int, wanted: int) -> ApiError:
    said = " or ".join(map(repr, dict.fromkeys((image_token.text, image_token.placeholder))))
    message = (
        f"messages: the prompt places images {found} times, {wanted} are wanted; text may not say {said} "
        "beside images, and the model's chat template has to place them."
    )
    return invalid("messages", message)
