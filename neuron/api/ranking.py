"""`POST /v1/rerank` and `POST /v1/score`: how well texts answer another, by a model that ranks."""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from neuron.api.bodies.ranking import Pairs, RankingBody, decode_rerank, decode_score
from neuron.api.errors import invalid
from neuron.api.prompts.prompt import require_capability
from neuron.api.request import caller, find_model, log_fields
from neuron.daemon import Daemon
from neuron.harness import LocalModel
from neuron.templates import Templates
from neuron.text.pairs import EncodedPair, encode_pairs
from neuron.text.rendering import TemplateRefusal
from neuron.wire import ApiError

Render = Callable[[str, str], Awaitable[list[int]]]  # a query and a document

_CUTS = 4  # of a document: what is left of it may take other tokens than before
_HALF = "\ufffd"  # what stands for a character of which the first bytes are left


def router(daemon: Daemon) -> Router:
    ranking = Router(tags=["inference"])

    @ranking.post("/v1/rerank")
    async def rerank(request: HttpRequest) -> HttpResponse:
        """Jina's and Cohere's ranking of documents for a query."""
        body = decode_rerank(request.body)
        texts = body.texts
        pairs = [(body.query or "", text) for text in texts]
        model, scores, used = await _scored(request, body, pairs, "documents")
        order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
        results: list[dict[str, Any]] = [{"index": at, "relevance_score": scores[at]} for at in order]
        if body.return_documents is not False:
            results = [result | {"document": {"text": texts[result["index"]]}} for result in results]
        return _answer(f"rerank-{uuid4().hex}", model, used, results=results)

    @ranking.post("/v1/score")
    async def score(request: HttpRequest) -> HttpResponse:
        """vLLM's scores of pairs."""
        body = decode_score(request.body)
        model, scores, used = await _scored(request, body, body.pairs, "text_2")
        data = [{"index": at, "object": "score", "score": found} for at, found in enumerate(scores)]
        more = {"object": "list", "created": int(time.time()), "data": data}
        return _answer(f"score-{uuid4().hex}", model, used, **more)

    async def _scored(
        request: HttpRequest, body: RankingBody, pairs: Pairs, param: str
    ) -> tuple[LocalModel, list[float], int]:
        """The model, the score of each pair, and the tokens that all take."""
        model = find_model(daemon.registry, request, body.model)
        require_capability(model, "rerank")
        encoded = await _encoded(model, pairs, body, daemon.templates, caller(request).principal)
        for index, pair in enumerate(encoded):
            if len(pair.tokens) > model.context:
                raise _too_long(f"{param}[{index}]", len(pair.tokens), model)
        scores = array(
            "f", await model.embed([e.tokens for e in encoded], seconds=[e.second for e in encoded])
        )
        if sys.byteorder == "big":
            scores.byteswap()
        used = sum(len(pair.tokens) for pair in encoded)
        log_fields(request)["prompt_tokens"] = used
        return model, scores.tolist(), used

    return ranking


def _answer(answer_id: str, model: LocalModel, used: int, **fields: Any) -> HttpResponse:
    usage = {"prompt_tokens": used, "total_tokens": used}
    content = msgspec.json.encode({"id": answer_id, "model": model.id, "usage": usage} | fields)
    return HttpResponse(content, content_type="application/json")


async def _encoded(
    model: LocalModel, pairs: Pairs, body: RankingBody, templates: Templates, principal: str
) -> list[EncodedPair]:
    most = model.context if body.truncate_prompt_tokens == -1 else body.truncate_prompt_tokens or None
    loop = asyncio.get_running_loop()
    if model.text.template is None or not model.text.template.ranks_pairs:
        return await loop.run_in_executor(None, partial(encode_pairs, model.text.tokenizer, pairs, most))
    render = partial(_rendered, model, templates, principal)
    return [await _shortened(model, render, pair, most) for pair in pairs]


async def _rendered(
    model: LocalModel, templates: Templates, principal: str, query: str, document: str
) -> list[int]:
    assert model.text.template
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    rendered = await templates.render(principal, model.text.template, messages)
    if isinstance(rendered, TemplateRefusal):
        message = f"The chat template of {model.id!r} refuses this pair: {rendered.message}"
        raise ApiError(400, "template_render_failed", message, param="query")
    return model.text.encode(rendered.text)


async def _shortened(
    model: LocalModel, render: Render, pair: tuple[str, str], most: int | None
) -> EncodedPair:
    """The tokens of a rendered pair, without the end of its document if there are more than `most`."""
    query, document = pair
    tokens = await render(query, document)
    for _ in range(_CUTS):
        over = len(tokens) - most if most else 0
        kept = model.text.encode(document)[:-over] if over > 0 else []
        if not kept:  # it fits, or nothing of the document would be left
            break
        document = model.text.decode(kept).rstrip(_HALF)
        tokens = await render(query, document)
    return EncodedPair(tokens, len(tokens))


def _too_long(param: str, length: int, model: LocalModel) -> ApiError:
    message = (
        f"{param}: with its query it has {length} tokens, and the model {model.id!r} takes {model.context}; "
        "shorten it, or cut its end off by truncate_prompt_tokens: -1."
    )
    error = invalid(param, message)
    error.code = "context_length_exceeded"
    return error
