# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""The dialects whose bytes pass unchanged: OpenAI's chat, completions and embeddings, rankings, a count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ext.prefetch import Grant, head_lines
from fleet.gateway.dialects.base import CHAT_PATH, AnswerRewriter, Call, EventStream
from fleet.gateway.dialects.chat_body import answer_lengths, decode_head, scan, with_usage
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.limits.headers import openai
from fleet.key_limits import KeyLimits, Standing
from fleet.snapshot import KeyView
from neuron.wire import ApiError


class ChatDialect:
    """OpenAI chat completions: passed byte for byte."""

    name = "openai-chat"
    path = CHAT_PATH

    def decode_now(self, body: bytes, key: KeyView | None) -> Call | None:
        return self.decode(body)

    async def prepare(self, body: bytes, key: KeyView | None) -> Call:
        return self.decode(body)

    def decode(self, body: bytes) -> Call:
        return decode_chat(body, self.path, self.needs)

    def needs(self, body: bytes) -> str:
        return needed_capability(body)

    def limit_headers(self, limits: KeyLimits, standing: Standing) -> dict[str, str]:
        return openai(limits, standing)

    def limit_lines(self, limits: KeyLimits, grant: Grant) -> bytes:
        return head_lines(grant, limits)

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return Verbatim()

    def error_body(self, error: ApiError) -> bytes:
        return msgspec.json.encode(error.envelope())


def decode_chat(body: bytes, path: str, needs: Callable[[bytes], str]) -> Call:
    """Return the call of a body that is passed on to a node's `path`. Raises `ApiError` as `decode_head`."""
    seen = scan(body)
    if seen is None:
        head = decode_head(body)
        hide_usage = bool(head.stream) and not head.include_usage
        body = with_usage(body) if hide_usage else body
        return Call(
            head.model, bool(head.stream), body, hide_usage=hide_usage, node_path=path, needs=needs(body)
        )
    hide_usage = seen.stream and not seen.include_usage
    if hide_usage:
        body = seen.with_usage()
    lengths = answer_lengths(seen)
    return Call(seen.model, seen.stream, body, hide_usage, path, needs(body), asked=lengths)


class Verbatim(EventStream):
    is_verbatim = True

    def feed(self, data: bytes) -> bytes:
        return data

    def close(self) -> bytes:
        return b""

    def fail(self, error: ApiError) -> bytes:
        # The blank line ends an event that the node may have left unfinished.
        return b"\n\ndata: " + msgspec.json.encode(error.envelope()) + b"\n\n"

    def whole(self, body: bytes) -> bytes:
        return body


class CountRewriter(Verbatim):
    """Shapes the count of a prompt's tokens for a client."""

    def __init__(self, shape: Callable[[int], bytes]) -> None:
        self._shape = shape

    def whole(self, body: bytes) -> bytes:
        try:
            return self._shape(msgspec.json.decode(body, type=_Count).count)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ApiError(502, "node_error", "The node did not count the prompt's tokens.") from error


class _Count(msgspec.Struct):
    count: int


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


class RankingDialect(ChatDialect):
    """Scores of documents for a query, by Jina's, Cohere's and vLLM's endpoints: passed byte for byte."""

    def __init__(self, name: str, node_path: str, required: Sequence[str]) -> None:
        self.name = name
        self.path = node_path
        self._required = required

    def decode(self, body: bytes) -> Call:
        model = decode_head(body).model
        given = _fields.decode(body)
        for field in self._required:
            if given.get(field) in (None, "", []):
                raise ApiError(400, "missing_field", "This field is required.", param=field)
        return Call(model, False, body, node_path=self.path, needs="rerank", answer_tokens=False)


_fields = msgspec.json.Decoder(dict[str, Any])


class TokenizeDialect(ChatDialect):
    """The token count of a chat request's prompt, by vLLM's and neuron's endpoint."""

    name = "tokenize"
    path = "/tokenize"

    def decode(self, body: bytes) -> Call:
        model, needs = decode_head(body).model, self.needs(body)
        return Call(
            model, False, body, node_path=self.path, needs=needs, prompt_tokens=False, answer_tokens=False
        )


CHAT = ChatDialect()
TOKENIZE = TokenizeDialect()
COMPLETIONS = CompletionsDialect()
EMBEDDINGS = EmbeddingsDialect()
RERANK = RankingDialect("rerank", "/v1/rerank", ("query", "documents"))
SCORE = RankingDialect("score", "/v1/score", ("text_1", "text_2"))
