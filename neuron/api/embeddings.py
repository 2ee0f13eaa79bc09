"""`POST /v1/embeddings`: texts or tokens to vectors, pooled and normalized as the model's directory says."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from neuron.api.bodies.embedding import EmbeddingBody, decode
from neuron.api.errors import invalid
from neuron.api.prompts.prompt import encode, require_capability
from neuron.api.request import find_model, log_fields
from neuron.daemon import Daemon
from neuron.harness import LocalModel
from neuron.wire import ApiError


def router(daemon: Daemon) -> Router:
    embeddings = Router(tags=["inference"])

    @embeddings.post("/v1/embeddings")
    async def embed(request: HttpRequest) -> HttpResponse:
        """OpenAI's embeddings."""
        body = decode(request.body)
        model = find_model(daemon.registry, request, body.model)
        require_capability(model, "embeddings")
        prompt = _prompt(model, body.task)
        inputs = [await _tokens(model, part, prompt) for part in body.inputs]
        vectors = await _vectors(body, model, inputs, await _prompt_length(model, prompt))
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


def _prompt(model: LocalModel, task: str | None) -> str:
    """The instruction before each text. Raises `ApiError` 400 for a task that the model does not know."""
    prompts = model.text.prompts
    if task is None:
        return prompts.default
    if task not in prompts.by_task:
        known = ", ".join(prompts.by_task) or "none"
        raise invalid("task", f"task: {task!r:.80} is unknown; the model {model.id!r} knows {known}.")
    return prompts.by_task[task]


async def _prompt_length(model: LocalModel, prompt: str) -> int:
    """How many tokens of a text are the instruction, as sentence-transformers counts them."""
    if not prompt:
        return 0
    tokens = await encode(model, prompt, "input", is_rendered=False)
    return len(tokens) - (tokens[-1] in set(model.text.added_tokens.values()))


async def _tokens(model: LocalModel, part: str | list[int], prompt: str) -> list[int]:
    tokens = await encode(model, prompt + part, "input", is_rendered=False) if isinstance(part, str) else part
    if not tokens:
        raise invalid("input", "input: an input needs at least one token.")
    return tokens


async def _vectors(
    body: EmbeddingBody, model: LocalModel, inputs: list[list[int]], num_prompt: int
) -> list[array[float]]:
    size = model.dimensions
    assert size  # or the model has no capability `embeddings`
    wanted = body.dimensions or size
    if wanted > size:
        raise invalid("dimensions", f"dimensions: the model {model.id!r} has {size}.")
    try:
        numbers = array("f", await model.embed(inputs, num_prompt=num_prompt))
    except ApiError as error:
        if error.status == 400:
            error.param = "input"
        raise
    if sys.byteorder == "big":
        numbers.byteswap()
    return [_cut(numbers[start : start + size], wanted) for start in range(0, len(numbers), size)]


def _cut(vector: array[float], size: int) -> array[float]:
    """The first `size` numbers, scaled to the norm of the whole (Kusupati et al. 2022)."""
    if size == len(vector):
        return vector
    short = vector[:size]
    norm = math.hypot(*short)
    factor = math.hypot(*vector) / norm if norm else 1.0
    return array("f", [factor * number for number in short])


def _written(vector: array[float], encoding_format: str | None) -> Any:
    if encoding_format != "base64":
        return vector.tolist()
    little = vector if sys.byteorder == "little" else array("f", vector.tolist())
    if sys.byteorder == "big":
        little.byteswap()
    return base64.b64encode(little.tobytes()).decode()
