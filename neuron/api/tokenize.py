"""`POST /tokenize` and `POST /detokenize`: what a request's prompt is in tokens, and back."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest
from msgspec import Meta, Struct
from ninja import Router

from neuron.api.bodies import chat as chat_request
from neuron.api.bodies import completion as completion_request
from neuron.api.bodies.chat import ChatBody
from neuron.api.bodies.completion import CompletionBody
from neuron.api.bodies.decode import decode_body, invalid, require_model
from neuron.api.bodies.generation import Name, TokenId
from neuron.api.bodies.openapi import body_of
from neuron.api.chat_completions import find
from neuron.api.completions import tokens_of
from neuron.api.prompts import chat as prepare
from neuron.daemon import Daemon


class _Kind(Struct):
    """Enough of a body to know whose it is."""

    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TokensBody(Struct, forbid_unknown_fields=True):
    tokens: Annotated[list[TokenId], Meta(max_length=1 << 20)]
    model: Name | msgspec.UnsetType = msgspec.UNSET


_kind = msgspec.json.Decoder(_Kind)
_tokens = msgspec.json.Decoder(TokensBody)


def router(daemon: Daemon) -> Router:
    tokens = Router(tags=["inference"])

    @tokens.post("/tokenize", openapi_extra=body_of(ChatBody, CompletionBody))
    async def tokenize(request: HttpRequest) -> dict[str, Any]:
        """How many tokens the prompt of a chat or of one completion has, exactly as a real call counts."""
        kind = decode_body(_kind, request.body)
        if kind.prompt is msgspec.UNSET or kind.messages is not msgspec.UNSET:
            body = chat_request.decode(request.body)
            model = find(daemon, request, body.model)
            count = await prepare.count(body, model)
        else:
            text = completion_request.decode(request.body)
            model = find(daemon, request, text.model)
            if len(text.prompts) > 1:
                raise invalid("prompt", "prompt: one at a time is counted.")
            count = len(await tokens_of(text, model, 0))
        return {"model": model.id, "count": count, "context": model.context}

    @tokens.post("/detokenize")
    async def detokenize(request: HttpRequest) -> dict[str, Any]:
        """The text of some tokens, control tokens included."""
        body = decode_body(_tokens, request.body)
        require_model(body.model)
        model = find(daemon, request, body.model)
        return {"model": model.id, "text": model.text.decode(body.tokens)}

    return tokens
