"""Ollama's dialect: chat, generate and both kinds of embeddings, translated to OpenAI's and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from fleet import translation
from fleet.gateway.dialects.base import AnswerRewriter, Call, in_client_words
from fleet.gateway.dialects.chat import ChatDialect, Verbatim
from fleet.gateway.dialects.chat_body import with_model
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.nodes.fleet_state import FleetState
from fleet.gateway.record import metrics
from fleet.snapshot import FleetSnapshot, KeyView
from fleet.translation import ollama
from neuron.wire import ApiError

LINES = "application/x-ndjson"
LATEST = ":latest"  # the tag of a name without one

# Those of its server that the gateway does not have included; others below /api are a wrong base address.
_PATHS = frozenset(
    [
        *("chat", "generate", "embed", "embeddings", "pull", "push", "create", "copy", "delete", "blobs"),
        *("tags", "ps", "show", "version"),
    ]
)

_WORDS = {
    r"messages\b.*": "messages",
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "temperature|top_p|top_k|min_p|seed|stop|presence_penalty|frequency_penalty": r"options.\g<0>",
    r"response_format(\.json_schema)?": "format",
    r"reasoning_effort|chat_template_kwargs\b.*": "think",
}


def is_ollama_path(path: str) -> bool:
    """Whether a path is Ollama's, so that its errors are in Ollama's shape."""
    _, first, second, *_ = f"{path}//".split("/")
    return first == "api" and second in _PATHS


def known_name(snapshot: FleetSnapshot, name: str) -> str:
    """The name with or without `:latest`, whichever the fleet knows; as it came where it knows neither."""
    other = name.removesuffix(LATEST) if name.endswith(LATEST) else name + LATEST
    known = snapshot.knows(snapshot.resolve(name)) or not snapshot.knows(snapshot.resolve(other))
    return name if known else other


class _Origin(NamedTuple):
    """What an answer repeats of its request."""

    model: str  # the name that the client used
    begun_at: float  # seconds since the epoch


class OllamaDialect(ChatDialect):
    """Ollama's chat, translated to chat and back."""

    name = "ollama-chat"
    path = "/api/chat"

    _words: Mapping[str, str] = _WORDS
    _line_fields = staticmethod(ollama.chat_fields)

    def __init__(self, fleet: FleetState) -> None:
        self._fleet = fleet

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        return self.decode_now(body, key)

    def decode_now(self, body: bytes, key: KeyView | None) -> Call:
        """The call; its `origin` is an `_Origin`."""
        call = self.decode(body)
        model = known_name(self._fleet.snapshot, call.model)
        if model == call.model:
            return call
        return msgspec.structs.replace(call, model=model, body=with_model(call.body, model))

    def read(self, body: bytes) -> ollama.OllamaCall:
        """The request. Raises `ApiError` 400 with the field's name."""
        return ollama.chat_to_chat(body)

    def decode(self, body: bytes) -> Call:
        call = self.read(body)
        metrics.count_unknown(self.name, call.unknown_fields)
        needs = needed_capability(call.body)
        origin, ignored = _Origin(call.model, time.time()), call.unknown_fields
        return Call(call.model, call.stream, call.body, needs=needs, origin=origin, ignored=ignored)

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return _LinesRewriter(self._writer(*call.origin), request_id)

    def loaded(self, model: str) -> bytes:
        """The answer to a request without a prompt, which loads the model."""
        return self._writer(model, time.time()).loaded()

    def _writer(self, model: str, begun_at: float) -> ollama.LinesWriter:
        return ollama.LinesWriter(model, self._line_fields, time.time, begun_at)

    def error_body(self, error: ApiError) -> bytes:
        return ollama.error_body(in_client_words(self._words, error))


class GenerateDialect(OllamaDialect):
    """Ollama's answer to one prompt, translated to chat and back."""

    name = "ollama-generate"
    path = "/api/generate"
    _words = _WORDS | {r"messages\b.*": "prompt"}
    _line_fields = staticmethod(ollama.generate_fields)

    def read(self, body: bytes) -> ollama.OllamaCall:
        return ollama.generate_to_chat(body)


class _LinesRewriter:
    is_verbatim = False
    stream_type = LINES

    def __init__(self, writer: ollama.LinesWriter, request_id: str) -> None:
        self._writer = writer
        self._request_id = request_id
        self._reader = translation.ChatReader(request_id=request_id)

    def waiting(self, progress: str) -> bytes:
        return self._writer.waiting()

    def feed(self, data: bytes) -> bytes:
        return self._writer.write(self._reader.feed(data))

    def close(self) -> bytes:
        return self._writer.write(self._reader.close())

    def fail(self, error: ApiError) -> bytes:
        return b"" if self._reader.over else ollama.error_body(error) + b"\n"

    def whole(self, body: bytes) -> bytes:
        return self._writer.whole(translation.read_completion(body, request_id=self._request_id))


class _Whole(Verbatim):
    """Rewrites answers that are never streamed."""

    def __init__(self, rewrite: Callable[[bytes], bytes]) -> None:
        self._rewrite = rewrite

    def whole(self, body: bytes) -> bytes:
        return self._rewrite(body)


class EmbedDialect(OllamaDialect):
    """Ollama's embeddings of texts."""

    name = "ollama-embed"
    path = "/api/embed"

    def read(self, body: bytes) -> ollama.OllamaCall:
        return ollama.embed_to_embeddings(body)

    def decode(self, body: bytes) -> Call:
        call = self.read(body)
        metrics.count_unknown(self.name, call.unknown_fields)
        return Call(
            call.model,
            False,
            call.body,
            node_path="/v1/embeddings",
            needs="embeddings",
            answer_tokens=False,
            origin=_Origin(call.model, time.time()),
            ignored=call.unknown_fields,
        )

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        model, begun_at = call.origin
        return _Whole(lambda body: ollama.embed_answer(body, model, time.time() - begun_at))


class EmbeddingsDialect(EmbedDialect):
    """Ollama's embedding of one text, the older API."""

    name = "ollama-embeddings"
    path = "/api/embeddings"
    _words = {r"input\b.*": "prompt"}

    def read(self, body: bytes) -> ollama.OllamaCall:
        return ollama.prompt_to_embeddings(body)

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return _Whole(ollama.embeddings_answer)
