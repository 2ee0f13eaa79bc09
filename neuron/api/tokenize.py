"""`POST /tokenize` and `POST /detokenize`: the number of tokens in a prompt, and the text of tokens."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest
from msgspec import Meta, Struct
from ninja import Router

from neuron.api.bodies import chat, completion
from neuron.api.bodies.chat import ChatBody
from neuron.api.bodies.completion import CompletionBody
from neuron.api.bodies.decode import decode_body, require_model
from neuron.api.bodies.generation import Name, TokenId
from neuron.api.bodies.openapi import body_of
from neuron.api.errors import invalid
from neuron.api.prompts.chat import ChatRenderer, chat_prompt, tool_definitions
from neuron.api.prompts.completion import completion_prompt
from neuron.api.prompts.prompt import require_capability
from neuron.api.request import caller, find_model
from neuron.daemon import Daemon


class _PromptKeys(Struct):
    """Enough of a body to tell a chat from a completion."""

    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TokensBody(Struct, forbid_unknown_fields=True):
    tokens: Annotated[list[TokenId], Meta(max_length=1 << 20)]
    model: Name | msgspec.UnsetType = msgspec.UNSET


_prompt_keys = msgspec.json.Decoder(_PromptKeys)
_tokens_body = msgspec.json.Decoder(TokensBody)


def router(daemon: Daemon) -> Router:
    tokens = Router(tags=["inference"])

    @tokens.post("/tokenize", openapi_extra=body_of(ChatBody, CompletionBody))
    async def tokenize(request: HttpRequest) -> dict[str, Any]:
        """How many tokens the prompt of a chat or of one completion has, exactly as a real call counts."""
        keys = decode_body(_prompt_keys, request.body)
        is_chat = keys.prompt is msgspec.UNSET or keys.messages is not msgspec.UNSET
        return await (_count_chat if is_chat else _count_completion)(daemon, request)

    @tokens.post("/detokenize")
    async def detokenize(request: HttpRequest) -> dict[str, Any]:
        """The text of some tokens, control tokens included."""
        body = decode_body(_tokens_body, request.body)
        require_model(body.model)
        model = find_model(daemon.registry, request, body.model)
        return {"model": model.id, "text": model.text.decode(body.tokens)}

    return tokens


async def _count_chat(daemon: Daemon, request: HttpRequest) -> dict[str, Any]:
    body = chat.decode(request.body)
    model = find_model(daemon.registry, request, body.model)
    require_capability(model, "chat")
    renderer = ChatRenderer(daemon.templates, daemon.videos, caller(request).principal)
    prompt = await chat_prompt(body, model, tool_definitions(body, model), renderer)
    return {"model": model.id, "count": len(prompt.tokens), "context": model.context}


async def _count_completion(daemon: Daemon, request: HttpRequest) -> dict[str, Any]:
    body = completion.decode(request.body)
    model = find_model(daemon.registry, request, body.model)
    if len(body.prompts) > 1:
        raise invalid("prompt", "prompt: one at a time is counted.")
    prompt = await completion_prompt(body, model, 0)
    return {"model": model.id, "count": len(prompt.tokens), "context": model.context}
