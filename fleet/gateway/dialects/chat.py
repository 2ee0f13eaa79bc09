"""The dialects that clients speak, as the exchange sees them: a call in, bytes out, errors in their envelope.

Nodes speak OpenAI chat. For a chat client bytes pass as they are; for the others `fleet.translation`
rewrites both ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ext.peek import COMPILED, Peek, peek
from fleet import translation
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.limits.headers import anthropic, openai
from fleet.gateway.record import metrics
from fleet.limits import KeyLimits, Verdict
from fleet.snapshot import KeyView
from neuron.wire import ApiError


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ChatHead(msgspec.Struct):
    """What the gateway reads of a chat body; the node validates the rest."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


CHAT_PATH = "/v1/chat/completions"


class Call(msgspec.Struct, frozen=True):
    """A request as the gateway needs it. `body` is a chat body whose `model` is still the client's."""

    model: str
    stream: bool
    body: bytes
    hide_usage: bool = False  # the client did not ask for a usage chunk
    node_path: str = CHAT_PATH
    needs: str = "chat"  # what the model must be able to do
    prompt_tokens: bool = True  # whether the key's tokens pay for the prompt …
    answer_tokens: bool = True  # … and for an answer
    origin: Any = None  # what the dialect needs again for the answer
    asked: tuple[int, int] | None = None  # tokens of an answer (0: not said) and choices; None: not looked at


class Answer(Protocol):
    """Turns one node's answer into the client's: a stream with `feed` and `close` or `fail`, or `whole`."""

    is_verbatim: bool  # `feed` changes nothing

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes:
        """The stream ended well: what is still owed."""

    def fail(self, error: ApiError) -> bytes:
        """The stream broke off: its last event; nothing when it has had one."""

    def whole(self, body: bytes) -> bytes:
        """An answer that is not streamed; `ApiError` when the node's is none."""


class Dialect(Protocol):
    """A client's dialect. `prepare` raises `ApiError` 400 naming the field."""

    name: str
    path: str

    async def prepare(self, body: bytes, key: KeyView | None) -> Call: ...

    def answer(self, call: Call, request_id: str) -> Answer: ...

    def error_body(self, error: ApiError) -> bytes: ...

    def limit_headers(self, limits: KeyLimits, verdict: Verdict) -> dict[str, str]:
        """How a key's account stands."""


class ChatDialect:
    """OpenAI chat completions: passed byte for byte."""

    name = "openai-chat"
    path = CHAT_PATH

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        """The call that a body is, for who sent it with this key."""
        return self.decode(body)

    def decode(self, body: bytes) -> Call:
        seen = peek(body) if COMPILED else None
        head = decode_head(body) if seen is None else seen
        hide_usage = head.stream and not head.include_usage
        if hide_usage:
            body = _with_usage(body) if seen is None else seen.with_usage()
        return Call(
            head.model,
            head.stream,
            body,
            hide_usage=hide_usage,
            node_path=self.path,
            needs=self.needs(body),
            asked=None if seen is None else _asked(seen),
        )

    def needs(self, body: bytes) -> str:
        return needed_capability(body)

    def limit_headers(self, limits: KeyLimits, verdict: Verdict) -> dict[str, str]:
        return openai(limits, verdict)

    def answer(self, call: Call, request_id: str) -> Answer:
        return _Verbatim()

    def error_body(self, error: ApiError) -> bytes:
        return msgspec.json.encode(error.envelope())


def _asked(seen: Peek) -> tuple[int, int]:
    named = seen.max_completion_tokens if seen.max_completion_tokens > 0 else seen.max_tokens
    return max(0, named), max(1, seen.n)


class _Verbatim:
    is_verbatim = True

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bytes:
        return b""

    def fail(self, error: ApiError) -> bytes:
        # The blank line ends what the node may have left half said.
        return b"\n\ndata: " + msgspec.json.encode(error.envelope()) + b"\n\n"

    def whole(self, body: bytes) -> bytes:
        return body


def _with_usage(body: bytes) -> bytes:
    """Usage is asked of the node whether or not the client wants it: it is what requests are recorded by."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    options = msgspec.json.decode(fields.get("stream_options", b"null"), type=dict[str, msgspec.Raw] | None)
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
    return msgspec.json.encode(fields)


class CompletionsDialect(ChatDialect):
    """OpenAI completions, the older API: passed byte for byte."""

    name = "openai-completions"
    path = "/v1/completions"

    def needs(self, body: bytes) -> str:
        return "completions"


class EmbeddingsDialect(ChatDialect):
    """OpenAI embeddings: passed byte for byte, never streamed."""

    name = "openai-embeddings"
    path = "/v1/embeddings"

    def decode(self, body: bytes) -> Call:
        head = decode_head(body)
        return Call(head.model, False, body, node_path=self.path, needs="embeddings", answer_tokens=False)


# Where a node refuses a field of the chat body that was made of the client's own.
_MESSAGES_WORDS = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "chat_template_kwargs": "thinking",
}


def in_words_of(words: Mapping[str, str], error: ApiError) -> ApiError:
    """The error with the client's name for the field, where chat has another; a path within it is dropped."""
    name = re.split(r"[.\[]", error.param or "", maxsplit=1)[0]
    if name in words:
        return ApiError(
            error.status, error.code, error.message, param=words[name], retry_after_s=error.retry_after_s
        )
    return error


class MessagesDialect(ChatDialect):
    """Anthropic messages: translated to chat and back."""

    name = "anthropic-messages"
    path = "/v1/messages"

    def decode(self, body: bytes) -> Call:
        call = translation.messages.to_chat(body)
        metrics.count_unknown(self.name, call.unknown_fields)
        return Call(call.model, call.stream, call.body, needs=needed_capability(call.body))

    def limit_headers(self, limits: KeyLimits, verdict: Verdict) -> dict[str, str]:
        return anthropic(limits, verdict)

    def answer(self, call: Call, request_id: str) -> Answer:
        return _MessagesAnswer(call.model, request_id)

    def error_body(self, error: ApiError) -> bytes:
        return translation.messages.error_body(in_words_of(_MESSAGES_WORDS, error))


class _MessagesAnswer:
    is_verbatim = False

    def __init__(self, model: str, request_id: str) -> None:
        self._model = model
        self._request_id = request_id
        self._reader = translation.ChatReader(request_id=request_id)
        self._writer = translation.MessagesWriter(model)

    def feed(self, data: bytes) -> bytes:
        return self._writer.write(self._reader.feed(data))

    def close(self) -> bytes:
        return self._writer.write(self._reader.close())

    def fail(self, error: ApiError) -> bytes:
        return b"" if self._reader.over else translation.messages.error_event(error)

    def whole(self, body: bytes) -> bytes:
        return translation.messages.from_chat(body, self._model, request_id=self._request_id)


class CountTokensDialect(MessagesDialect):
    """Anthropic's token count: the node counts the prompt as a real call would."""

    name = "anthropic-count-tokens"
    path = "/v1/messages/count_tokens"

    def decode(self, body: bytes) -> Call:
        call = translation.messages.to_count(body)
        metrics.count_unknown(self.name, call.unknown_fields)
        return Call(
            call.model,
            False,
            call.body,
            node_path="/tokenize",
            needs=needed_capability(call.body),
            prompt_tokens=False,
            answer_tokens=False,
        )

    def answer(self, call: Call, request_id: str) -> Answer:
        return _CountAnswer()


class TokenizeDialect(ChatDialect):
    """The count of a chat request's prompt, asked for with the request itself: as vLLM and neuron have it."""

    name = "tokenize"
    path = "/tokenize"

    def decode(self, body: bytes) -> Call:
        model, needs = decode_head(body).model, self.needs(body)
        return Call(
            model, False, body, node_path=self.path, needs=needs, prompt_tokens=False, answer_tokens=False
        )


class _CountAnswer(_Verbatim):
    def whole(self, body: bytes) -> bytes:
        try:
            return translation.messages.count_body(msgspec.json.decode(body, type=_Count).count)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(502, "node_error", "The node did not count the prompt's tokens.") from error


class _Count(msgspec.Struct):
    count: int


CHAT = ChatDialect()
MESSAGES = MessagesDialect()
COUNT_TOKENS = CountTokensDialect()
TOKENIZE = TokenizeDialect()
COMPLETIONS = CompletionsDialect()
EMBEDDINGS = EmbeddingsDialect()

_head_decoder = msgspec.json.Decoder(_ChatHead)


def decode_head(body: bytes) -> _ChatHead:
    """Model and streaming switch of a chat body; `ApiError` 400 naming what is wrong with them."""
    try:
        return _head_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "malformed_json", f"The request body is not valid JSON: {error}") from error


def _explain(error: msgspec.ValidationError) -> ApiError:
    message, _, path = str(error).partition(" - at `$.")
    if "missing required field `model`" in message:
        return ApiError(400, "missing_model_field", "The field 'model' is missing.", param="model")
    param = path.rstrip("`") or None
    code = "missing_model_field" if param == "model" else "invalid_request_body"
    return ApiError(400, code, f"{param or 'The request body'}: {message}.", param=param)


def with_model(body: bytes, model: str) -> bytes:
    """The body with its `model` replaced; every other value stays byte for byte."""
    seen = peek(body) if COMPILED else None
    if seen is not None:
        return seen.with_model(msgspec.json.encode(model))
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
