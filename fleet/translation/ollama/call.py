"""Requests of Ollama's API as requests of the upstream's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from cortex_site.base.unread import UnreadFields
from fleet.translation.ollama.conversation import chat_messages, content_of
from fleet.translation.ollama.wire import (
    TOLERATED,
    TOLERATED_BY_EMBEDDINGS,
    TOLERATED_OPTIONS,
    AnswerBody,
    EmbedBody,
    EmbeddingsBody,
    GenerateBody,
    ModelBody,
    OllamaChatBody,
    Options,
    Tool,
)
from fleet.translation.validation import (
    decode_body,
    is_given,
    reject,
    require_object_schema,
    require_tool_name,
)

Json = dict[str, Any]

_chats = msgspec.json.Decoder(OllamaChatBody)
_prompts = msgspec.json.Decoder(GenerateBody)
_embeds = msgspec.json.Decoder(EmbedBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_models = msgspec.json.Decoder(ModelBody)

_OF_ANSWERS = TOLERATED | {f"options.{name}" for name in TOLERATED_OPTIONS}
_UNREAD: dict[type[msgspec.Struct], UnreadFields] = {
    OllamaChatBody: UnreadFields(OllamaChatBody, _OF_ANSWERS),
    GenerateBody: UnreadFields(GenerateBody, _OF_ANSWERS),
    EmbedBody: UnreadFields(EmbedBody, TOLERATED_BY_EMBEDDINGS),
    EmbeddingsBody: UnreadFields(EmbeddingsBody, TOLERATED_BY_EMBEDDINGS),
}

_REFUSED = {
    "suffix": "The models here continue a text; /v1/completions takes what your model's template needs.",
    "template": "The model's own template is used; send a conversation to /api/chat.",
    "context": "No tokens of earlier answers are kept here; send the conversation to /api/chat.",
    "raw": "A prompt without the model's template goes to /v1/completions.",
    "width": "No model here draws images.",
    "height": "No model here draws images.",
    "steps": "No model here draws images.",
}
_NO_LOGPROBS = "Log probabilities are not available here; /v1/chat/completions has them."
_OFF: dict[str, float] = {"mirostat": 0, "typical_p": 1, "tfs_z": 1}  # samplers that no node has
_SAME = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")


class OllamaCall(msgspec.Struct, frozen=True):
    """A request in the upstream's dialect, with the facts that the gateway needs."""

    body: bytes
    model: str
    stream: bool
    unknown_fields: tuple[str, ...] = ()


class _Prompt(msgspec.Struct):
    messages: list[msgspec.Raw] | None = None
    prompt: str | None = None
    images: list[msgspec.Raw] | None = None


_heads = msgspec.json.Decoder(_Prompt)


class Named(msgspec.Struct, frozen=True):
    """A request about a model."""

    model: str
    stream: bool


def chat_to_chat(body: bytes) -> OllamaCall:
    """The chat request of a body of `/api/chat`. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_chats, body)
    messages = chat_messages(asked.messages or ())
    return _call(asked, body, messages, _tools(asked.tools or ()))


def generate_to_chat(body: bytes) -> OllamaCall:
    """The chat request of a body of `/api/generate`. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_prompts, body)
    for name, reason in _REFUSED.items():
        if getattr(asked, name):
            reject(name, reason)
    messages: list[Json] = []
    if asked.prompt or asked.images:
        messages = [{"role": "system", "content": asked.system}] if asked.system else []
        messages.append({"role": "user", "content": content_of(asked.prompt or "", asked.images, "")})
    return _call(asked, body, messages, {})


def embed_to_embeddings(body: bytes) -> OllamaCall:
    """The embeddings request of a body of `/api/embed`. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_embeds, body)
    fields: Json = {"dimensions": asked.dimensions} if asked.dimensions else {}
    return _embedding(asked, body, {"input": asked.input} | fields)


def prompt_to_embeddings(body: bytes) -> OllamaCall:
    """The embeddings request of a body of `/api/embeddings`. Raises `ApiError` 400 with the field's name."""
    asked = decode_body(_embeddings, body)
    return _embedding(asked, body, {"input": asked.prompt})


def named(body: bytes) -> Named:
    """The model that a body of `/api/show` or `/api/pull` names. Raises `ApiError` 400."""
    asked = decode_body(_models, body)
    model = asked.model or asked.name
    if not model:
        reject("model", "This field is required.")
    return Named(model, asked.stream is not False)


def is_load(body: bytes) -> bool:
    """Whether a body of `/api/chat` or `/api/generate` has no prompt: clients load a model so."""
    try:
        head = _heads.decode(body)
    except (ValueError, RecursionError):
        return False  # whoever reads it whole says what is wrong
    return not (head.messages or head.prompt or head.images)


def _embedding(asked: EmbedBody | EmbeddingsBody, body: bytes, fields: Json) -> OllamaCall:
    chat = {"model": asked.model, "encoding_format": "float"} | fields
    return OllamaCall(msgspec.json.encode(chat), asked.model, False, _unknown(asked, body))


def _call(asked: OllamaChatBody | GenerateBody, body: bytes, messages: list[Json], tools: Json) -> OllamaCall:
    stream = asked.stream is not False
    chat = {"model": asked.model, "messages": messages, "stream": stream}
    chat |= tools | _sampling(asked.options or Options()) | _form(asked)
    if stream:
        chat["stream_options"] = {"include_usage": True}
    if not messages and asked.keep_alive in {0, "0", "0s", "0m", "0h"}:
        reject("keep_alive", "The fleet unloads models by its own rules, or in the admin.")
    return OllamaCall(msgspec.json.encode(chat), asked.model, stream, _unknown(asked, body))


def _unknown(asked: AnswerBody | EmbedBody | EmbeddingsBody, body: bytes) -> tuple[str, ...]:
    return _UNREAD[type(asked)].of(body)


def _sampling(options: Options) -> Json:
    for name, off in _OFF.items():
        if getattr(options, name) not in {None, off}:
            reject(f"options.{name}", f"No model here samples so; {off} turns it off.")
    fields: Json = {name: getattr(options, name) for name in _SAME}
    if options.repeat_last_n != 0:
        fields["repetition_penalty"] = options.repeat_penalty
    if options.seed is not None and options.seed >= 0:
        fields["seed"] = options.seed
    if options.num_predict is not None and options.num_predict > 0:
        fields["max_tokens"] = options.num_predict
    if options.stop:
        fields["stop"] = [options.stop] if isinstance(options.stop, str) else options.stop
    return {name: value for name, value in fields.items() if value is not None}


def _form(asked: AnswerBody) -> Json:
    """The fields for thoughts and for the form of the answer."""
    if asked.logprobs or asked.top_logprobs:
        reject("logprobs" if asked.logprobs else "top_logprobs", _NO_LOGPROBS)
    fields: Json = {}
    if isinstance(asked.think, bool):
        fields["chat_template_kwargs"] = {"enable_thinking": asked.think}
    elif asked.think is not None:
        fields["reasoning_effort"] = asked.think
    match bytes(asked.format):
        case b"" | b"null" | b'""':
            pass
        case b'"json"':
            fields["response_format"] = {"type": "json_object"}
        case _:
            if not bytes(asked.format).startswith(b"{"):
                reject("format", 'Expected "json" or a schema.')
            schema = {"name": "output", "schema": asked.format, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _tools(tools: Sequence[Tool]) -> Json:
    names: set[str] = set()
    chat: list[Json] = []
    for number, tool in enumerate(tools):
        path = f"tools[{number}].function"
        name = require_tool_name(tool.function.name, f"{path}.name")
        if name in names:
            reject(f"{path}.name", f"{name!r} is declared twice.")
        names.add(name)
        function: Json = {"name": name}
        if tool.function.description is not None:
            function["description"] = tool.function.description
        if is_given(tool.function.parameters):
            schema = require_object_schema(tool.function.parameters, f"{path}.parameters")
            function["parameters"] = schema
        chat.append({"type": "function", "function": function})
    return {"tools": chat} if chat else {}
