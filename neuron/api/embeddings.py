"""`POST /v1/embeddings`: texts or tokens to vectors, pooled and normalized as the model's directory says."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from typing import Annotated, Any, Literal

import msgspec
from django.http import HttpRequest, HttpResponse
from msgspec import UNSET, Meta, Struct, UnsetType
from ninja import Router

from neuron.api.bodies.decode import decode_body, invalid, require_model
from neuron.api.bodies.generation import Name, TokenId
from neuron.api.chat_completions import find
from neuron.api.middleware import log_fields
from neuron.api.prompts.chat import encode, require_capability
from neuron.daemon import Daemon
from neuron.harness import LocalModel
from neuron.wire import ApiError

MAX_INPUTS = 2048  # OpenAI's


class EmbeddingBody(Struct, forbid_unknown_fields=True, kw_only=True):
    model: Name | UnsetType = UNSET
    input: str | list[str | TokenId | list[TokenId]] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None  # accepted: it changes nothing

    @property
    def inputs(self) -> list[str | list[int]]:
        if isinstance(self.input, str):
            return [self.input]
        given: Any = self.input or []
        return [given] if given and all(isinstance(part, int) for part in given) else given


_decoder = msgspec.json.Decoder(EmbeddingBody)


def decode(body: bytes) -> EmbeddingBody:
    """Raises `ApiError` naming what is wrong."""
    request = decode_body(_decoder, body)
    require_model(request.model)
    if not request.inputs:
        raise invalid("input", "input: at least one is required.")
    if len(request.inputs) > MAX_INPUTS:
        raise invalid("input", f"input has {len(request.inputs)} parts; {MAX_INPUTS} are allowed.")
    if any(isinstance(part, int) for part in request.inputs):
        raise invalid("input", "input mixes token ids with other inputs.")
    return request


def router(daemon: Daemon) -> Router:
    embeddings = Router(tags=["inference"])

    @embeddings.post("/v1/embeddings")
    async def embed(request: HttpRequest) -> HttpResponse:
        """OpenAI's embeddings."""
        body = decode(request.body)
        model = find(daemon, request, body.model)
        require_capability(model, "embeddings")
        inputs = [await _tokens(model, part) for part in body.inputs]
        vectors = await _vectors(body, model, inputs)
        used = sum(map(len, inputs))
        log_fields(request)["prompt_tokens"] = used
        data = [
            {"object": "embedding", "index": index, "embedding": _written(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        content = msgspec.json.encode({"object": "list", "data": data, "model": model.id, "usage": usage})
        return HttpResponse(content, content_type="application/json")

    return embeddings


async def _tokens(model: LocalModel, part: str | list[int]) -> list[int]:
    tokens = await encode(model, part, is_rendered=False) if isinstance(part, str) else part
    if not tokens:
        raise invalid("input", "input: an input needs at least one token.")
    return tokens


async def _vectors(body: EmbeddingBody, model: LocalModel, inputs: list[list[int]]) -> list[array[float]]:
    size = model.dimensions
    assert size  # it makes the capability
    wanted = body.dimensions or size
    if wanted > size:
        raise invalid("dimensions", f"dimensions: the model {model.id!r} has {size}.")
    try:
        numbers = array("f", await model.embed(inputs))
    except ApiError as error:
        if error.status == 400:
            error.param = "input"
        raise
    if sys.byteorder == "big":
        numbers.byteswap()
    return [_cut(numbers[start : start + size], wanted) for start in range(0, len(numbers), size)]


def _cut(vector: array[float], size: int) -> array[float]:
    """The first `size` numbers, as long together as the whole was (Kusupati et al. 2022)."""
    if size == len(vector):
        return vector
    short = vector[:size]
    norm = math.hypot(*short)
    factor = math.hypot(*vector) / norm if norm else 1.0
    return array("f", [factor * number for number in short])


def _written(vector: array[float], encoding_format: str) -> Any:
    if encoding_format == "float":
        return vector.tolist()
    little = vector if sys.byteorder == "little" else array("f", vector.tolist())
    if sys.byteorder == "big":
        little.byteswap()
    return base64.b64encode(little.tobytes()).decode()
