"""Images in a chat: out of the body, through the model's processor, to their places in the prompt."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

from neuron.api.bodies.chat import ChatMessage, ContentPart
from neuron.api.bodies.decode import invalid, unsupported
from neuron.harness import LocalModel
from neuron.pipe import Shown, Sight
from neuron.wire import ApiError


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, and its place in the body."""

    param: str
    data: bytes


def pictures(messages: Sequence[ChatMessage], model: LocalModel) -> list[Picture]:
    """All images of a chat, in order. Raises `ApiError` 400 for what is no image, or one too many."""
    found: list[Picture] = []
    for index, message in enumerate(messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.type == "image_url":
                param = f"messages[{index}].content[{number}]"
                _admit(message, model, param, len(found))
                found.append(Picture(param, _data(part, param)))
    return found


def _admit(message: ChatMessage, model: LocalModel, param: str, before: int) -> None:
    if model.sight is None:
        raise unsupported(param, f"{param}: the model {model.id!r} reads text only, not image_url.")
    if message.role not in {"user", "tool"}:
        raise invalid(param, f"{param}: images are for messages of user and tool, not {message.role}.")
    if before >= model.max_images:
        raise invalid(param, f"{param}: a request may have {model.max_images} images.")


def _data(part: ContentPart, param: str) -> bytes:
    url = part.image_url if isinstance(part.image_url, str) else part.image_url and part.image_url.url
    head, comma, data = (url or "").partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        cure = (
            "expected data:image/png;base64,… (images at an address are fetched by cortex, where that is on)"
        )
        raise invalid(f"{param}.image_url.url", f"{param}.image_url.url: {cure}.")
    try:
        return b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(f"{param}.image_url.url", f"{param}.image_url.url: not base64: {error}.") from error


async def place(
    prompt: str, images: Sequence[Picture], model: LocalModel
) -> tuple[str, list[tuple[bytes, int]]]:
    """The prompt with what stands for each image; of each its digest and placeholders. Raises `ApiError`."""
    assert model.sight
    looked = await model.look([image.data for image in images])
    if looked.problem:
        param = images[len(looked.seen)].param
        raise ApiError(400, "invalid_image", f"{param}: {looked.problem}.", param=param)
    parts = prompt.split(model.sight.marker)
    if len(parts) != len(images) + 1:
        raise _disordered(model.sight, len(parts) - 1, len(images))
    texts = [text for _, text, _ in looked.seen]
    whole = parts[0] + "".join(text + part for text, part in zip(texts, parts[1:], strict=True))
    return whole, [(digest, count) for digest, _, count in looked.seen]


def located(tokens: Sequence[int], seen: Sequence[tuple[bytes, int]], sight: Sight) -> list[Shown]:
    """Where in the prompt each image's placeholders are. Raises `ApiError`."""
    places = [at for at, token in enumerate(tokens) if token == sight.token_id]
    if len(places) != sum(count for _, count in seen):
        raise _disordered(sight, len(places), sum(count for _, count in seen))
    found, used = [], 0
    for digest, count in seen:
        found.append(Shown(digest, places[used], places[used + count - 1] + 1))
        used += count
    return found


def _disordered(sight: Sight, there: int, wanted: int) -> ApiError:
    message = (
        f"messages: the prompt places images {there} times, {wanted} are wanted; text may not say "
        f"{sight.marker!r} beside images, and the model's chat template has to place them."
    )
    return invalid("messages", message)
