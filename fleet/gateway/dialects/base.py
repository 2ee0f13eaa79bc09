"""What the exchange sees of a client's dialect: a call in, bytes out, errors in the dialect's envelope.

Nodes speak OpenAI chat. A chat client's bytes pass unchanged; `fleet.translation` rewrites all others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ext.prefetch import Grant
from fleet.foreign.errors import StatedError
from fleet.key_limits import KeyLimits, Standing
from fleet.snapshot import KeyView
from neuron.wire import ApiError

CHAT_PATH = "/v1/chat/completions"


class Call(msgspec.Struct, frozen=True):
    """A decoded request. `body` is a chat body; its `model` is still the name that the client used."""

    model: str
    stream: bool
    body: bytes
    hide_usage: bool = False  # the client asked for no usage chunk
    node_path: str = CHAT_PATH
    needs: str = "chat"  # the capability that the model must have
    prompt_tokens: bool = True  # whether the prompt counts against the key's tokens
    answer_tokens: bool = True  # whether the answer does
    origin: Any = None  # what the dialect needs to write the answer
    ignored: tuple[str, ...] = ()  # fields of the client's that nobody knows
    asked: tuple[int, int] | None = None  # tokens an answer may have (0: unlimited), and choices


class AnswerRewriter(Protocol):
    """Rewrites one node's answer for the client: a stream by `feed`, then `close` or `fail`; or `whole`."""

    is_verbatim: bool  # `feed` changes nothing
    stream_type: str  # content type of a stream

    def waiting(self, progress: str) -> bytes:
        """What a stream says while its model is loaded."""

    def feed(self, data: bytes) -> bytes: ...

    def close(self) -> bytes:
        """The bytes that complete a stream that ended well."""

    def fail(self, error: ApiError) -> bytes:
        """The last event of a stream that broke off; empty when the client has had one."""

    def whole(self, body: bytes) -> bytes:
        """The body of an answer that is not streamed. Raises `ApiError` when the node's is none."""


class EventStream:
    """What the rewriters of server-sent events share."""

    stream_type = "text/event-stream; charset=utf-8"

    def waiting(self, progress: str) -> bytes:
        return f": {progress}\n\n".encode()


class Dialect(Protocol):
    """A client's dialect."""

    name: str
    path: str

    def decode_now(self, body: bytes, key: KeyView | None) -> Call | None:
        """What `prepare` returns; None where something has to be waited for."""

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        """The call in a body sent with `key`. Raises `ApiError` 400 with the field's name."""

    def answer(self, call: Call, request_id: str) -> AnswerRewriter: ...

    def error_body(self, error: ApiError) -> bytes: ...

    def limit_headers(self, limits: KeyLimits, standing: Standing) -> dict[str, str]:
        """The headers that tell what a key has left."""

    def limit_lines(self, limits: KeyLimits, grant: Grant) -> bytes:
        """The same of a request that was admitted, as lines."""


def in_client_words(words: Mapping[str, str], error: ApiError) -> ApiError:
    """The error with the client's name for the field, where a node named it as in the chat body that it got.

    `words` are patterns for the beginnings of paths in a chat body, and what stands there for the client; the
    first that matches counts. The gateway's own errors have the client's words already.
    """
    if not isinstance(error, StatedError):
        return error
    for pattern, word in words.items():
        if found := re.match(rf"(?:{pattern})(?![\w])", error.param or ""):
            param = found.expand(word) + (error.param or "")[found.end() :]
            return ApiError(
                error.status, error.code, error.message, param=param, retry_after_s=error.retry_after_s
            )
    return error
