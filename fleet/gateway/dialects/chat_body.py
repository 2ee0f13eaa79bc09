# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""Reading and splicing a chat body: the gateway looks at a few fields, the node validates the rest."""

from __future__ import annotations

import msgspec

from ext.peek import COMPILED, Peek, peek
from neuron.wire import ApiError


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatHead(msgspec.Struct):
    """The fields of a chat body that the gateway reads."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


_head_decoder = msgspec.json.Decoder(ChatHead)


def decode_head(body: bytes) -> ChatHead:
    """The head of a chat body. Raises `ApiError` 400 with the name of the field that is wrong."""
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
    """The body with another `model`; every other value stays byte for byte."""
    seen = scan(body)
    if seen is not None:
        return seen.with_model(msgspec.json.encode(model))
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def with_model_alone(body: bytes, model: str) -> bytes:
    """The body written anew with one field that any node could take for `model`, which is that.

    Of a name that is given twice some parsers take the first and some the last, and some read names in any
    case: what a key allows is checked on one of them.
    """
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields = {name: value for name, value in fields.items() if name.casefold() != "model"}
    return msgspec.json.encode({"model": msgspec.Raw(msgspec.json.encode(model)), **fields})


def with_usage(body: bytes) -> bytes:
    """The body with `stream_options.include_usage` set: records need the usage that a node reports."""
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    options = msgspec.json.decode(fields.get("stream_options", b"null"), type=dict[str, msgspec.Raw] | None)
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
    return msgspec.json.encode(fields)


def scan(body: bytes) -> Peek | None:
    """What compiled code reads of a body in one pass; None where a full parse has to."""
    return peek(body) if COMPILED else None


def answer_lengths(seen: Peek) -> tuple[int, int]:
    named = seen.max_completion_tokens if seen.max_completion_tokens > 0 else seen.max_tokens
    return max(0, named), max(1, seen.n)
