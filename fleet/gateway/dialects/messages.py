"""Anthropic's dialect: messages and their token count, translated to chat and back."""

from __future__ import annotations

from functools import cached_property

from ext.prefetch import Grant, anthropic_lines
from fleet import translation
from fleet.gateway.dialects.base import AnswerRewriter, Call, EventStream, in_client_words
from fleet.gateway.dialects.chat import ChatDialect, CountRewriter
from fleet.gateway.dialects.images import needed_capability
from fleet.gateway.limits.headers import anthropic
from fleet.gateway.record import metrics
from fleet.key_limits import KeyLimits, Standing
from fleet.translation.events import Event
from fleet.translation.messages import without_answer
from neuron.wire import ApiError

# A node refuses a field by its name in the chat body; the client sent it under another. Tools have the same
# numbers there, messages have not.
_MESSAGES_WORDS = {
    r"messages\b.*": "messages",
    "stop": "stop_sequences",
    r"tools(\[\d+\])\.function\.parameters": r"tools\1.input_schema",
    r"tools(\[\d+\])\.function": r"tools\1",
    r"tool_choice\.function": "tool_choice",
    r"response_format(\.json_schema)?": "output_config.format",
    "reasoning_effort": "output_config.effort",
    r"chat_template_kwargs\b.*": "thinking",
}


class MessagesDialect(ChatDialect):
    """Anthropic messages: translated to chat and back."""

    name = "anthropic-messages"
    path = "/v1/messages"

    def decode(self, body: bytes) -> Call:
        call = self._counted(translation.messages.to_chat(body))
        return Call(
            call.model,
            call.stream,
            call.body,
            needs=needed_capability(call.body),
            origin=call.max_tokens,
            ignored=call.unknown_fields,
            asked=(max(call.max_tokens, 1), 1),
        )

    def _counted(self, call: translation.ChatCall) -> translation.ChatCall:
        metrics.count_unknown(self.name, call.unknown_fields)
        if call.attributed:
            metrics.ATTRIBUTIONS.inc()
        return call

    def limit_headers(self, limits: KeyLimits, standing: Standing) -> dict[str, str]:
        return anthropic(limits, standing)

    def limit_lines(self, limits: KeyLimits, grant: Grant) -> bytes:
        return anthropic_lines(grant, limits)

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return _MessagesRewriter(call.model, request_id, is_silent=call.origin == 0)

    def error_body(self, error: ApiError) -> bytes:
        return translation.messages.error_body(in_client_words(_MESSAGES_WORDS, error))


class _MessagesRewriter(EventStream):
    is_verbatim = False

    def __init__(self, model: str, request_id: str, *, is_silent: bool) -> None:
        self._model = model
        self._request_id = request_id
        self._is_silent = is_silent  # the client asked for no token

    @cached_property
    def _reader(self) -> translation.ChatReader:
        return translation.ChatReader(request_id=self._request_id)

    @cached_property
    def _writer(self) -> translation.MessagesWriter:
        return translation.MessagesWriter(self._model)

    def feed(self, data: bytes) -> bytes:
        return self._write(self._reader.feed(data))

    def close(self) -> bytes:
        return self._write(self._reader.close())

    def _write(self, events: list[Event]) -> bytes:
        return self._writer.write(without_answer(events) if self._is_silent else events)

    def fail(self, error: ApiError) -> bytes:
        return b"" if self._reader.over else translation.messages.error_event(error)

    def whole(self, body: bytes) -> bytes:
        return translation.messages.from_chat(
            body, self._model, request_id=self._request_id, is_silent=self._is_silent
        )


class CountTokensDialect(MessagesDialect):
    """Anthropic's token count: the node counts the prompt as a real call would."""

    name = "anthropic-count-tokens"
    path = "/v1/messages/count_tokens"

    def decode(self, body: bytes) -> Call:
        call = self._counted(translation.messages.to_count(body))
        return Call(
            call.model,
            False,
            call.body,
            node_path="/tokenize",
            needs=needed_capability(call.body),
            prompt_tokens=False,
            answer_tokens=False,
            ignored=call.unknown_fields,
        )

    def answer(self, call: Call, request_id: str) -> AnswerRewriter:
        return CountRewriter(translation.messages.count_body)


MESSAGES = MessagesDialect()
COUNT_TOKENS = CountTokensDialect()
