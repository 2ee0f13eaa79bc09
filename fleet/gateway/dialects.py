"""The dialects that clients speak, as the exchange sees them: a call in, bytes out, errors in their envelope.

Nodes speak OpenAI chat. For a chat client bytes pass as they are; for the others `fleet.translation`
rewrites both ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

import msgspec

from fleet import translation
from neuron.wire import ApiError


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ChatHead(msgspec.Struct):
    """What the gateway reads of a chat body; the node validates the rest."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the gateway needs it. `body` is a chat body whose `model` is still the client's."""

    model: str
    stream: bool
    body: bytes
    hide_usage: bool = False  # the client did not ask for a usage chunk


class Outgoing(Protocol):
    """Writes one stream to the client."""

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes:
        """The stream ended well: what is still owed."""


class Dialect(Protocol):
    """A client's dialect. `decode` raises `ApiError` 400 naming the field."""

    name: str
    path: str

    def decode(self, body: bytes) -> Call: ...

    def outgoing(self, call: Call) -> Outgoing: ...

    def whole(self, body: bytes, call: Call) -> bytes: ...

    def error_body(self, error: ApiError) -> bytes: ...

    def error_event(self, error: ApiError) -> bytes: ...


class _Verbatim:
    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bytes:
        return b""


class ChatDialect:
    """OpenAI chat completions: passed byte for byte."""

    name = "openai-chat"
    path = "/v1/chat/completions"

    def decode(self, body: bytes) -> Call:
        head = decode_head(body)
        asked = head.stream_options is not None and head.stream_options.include_usage
        if not head.stream or asked:
            return Call(head.model, head.stream, body)
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        fields["stream_options"] = _with_usage(fields.get("stream_options"))
        return Call(head.model, True, msgspec.json.encode(fields), hide_usage=True)

    def outgoing(self, call: Call) -> Outgoing:
        return _Verbatim()

    def whole(self, body: bytes, call: Call) -> bytes:
        return body

    def error_body(self, error: ApiError) -> bytes:
        return json.dumps(error.envelope(), ensure_ascii=False).encode()

    def error_event(self, error: ApiError) -> bytes:
        return b"data: " + self.error_body(error) + b"\n\n"


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """Usage is asked of the node whether or not the client wants it: it is what requests are recorded by."""
    fields = msgspec.json.decode(options, type=dict[str, msgspec.Raw] | None) if options else None
    return msgspec.Raw(
        msgspec.json.encode({**(fields or {}), "include_usage": True}),
    )


class MessagesDialect:
    """Anthropic messages: translated to chat and back."""

    name = "anthropic-messages"
    path = "/v1/messages"

    def decode(self, body: bytes) -> Call:
        call = translation.messages.to_chat(body)
        return Call(call.model, call.stream, call.body)

    def outgoing(self, call: Call) -> Outgoing:
        return _MessagesStream(call.model)

    def whole(self, body: bytes, call: Call) -> bytes:
        return translation.messages.from_chat(body, call.model)

    def error_body(self, error: ApiError) -> bytes:
        return translation.messages.error_body(error)

    def error_event(self, error: ApiError) -> bytes:
        return translation.messages.error_event(error)


class _MessagesStream:
    def __init__(self, model: str) -> None:
        self._reader = translation.ChatReader()
        self._writer = translation.MessagesWriter(model)

    def feed(self, data: bytes) -> bytes:
        return self._writer.write(self._reader.feed(data))

    def close(self) -> bytes:
        return self._writer.write(self._reader.close())


CHAT = ChatDialect()
MESSAGES = MessagesDialect()

_head_decoder = msgspec.json.Decoder(_ChatHead)


def decode_head(body: bytes) -> _ChatHead:
    """Model and streaming switch of a chat body; `ApiError` 400 naming what is wrong with them."""
    try:
        return _head_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
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
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
