# cython: language_level=3, boundscheck=False, wraparound=False, annotation_typing=False
"""What one request's record will say: filled in while the request runs, made once at its end."""

from __future__ import annotations

import logging
import string
import time
from typing import Annotated, Any, NamedTuple

import msgspec

from cortex_site.base.excerpt import excerpt
from ext.ledger import Entry
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.record.metrics import Gaps
from fleet.records import Outcome

log = logging.getLogger("cortex.request")

MAX_MODEL_CHARS = 200
_FINISH = b'"finish_reason"'
_SPACES = b" \t\r\n"
_LETTERS = string.ascii_letters.encode() + string.digits.encode() + b"_"
_MAX_WORD = 30

# Budgets are charged by these: an impossible count must not give anything back.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _AnswerDetails(msgspec.Struct):
    accepted_prediction_tokens: _Count | None = None
    rejected_prediction_tokens: _Count | None = None

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """What they say of the drafts of an answer."""
        accepted, rejected = self.accepted_prediction_tokens or 0, self.rejected_prediction_tokens or 0
        if not accepted + rejected:
            return ()
        return (("drafts", f"{accepted} of {accepted + rejected} guessed tokens were right"),)


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _AnswerDetails | None = None
    timings: Any = None  # of a neuron; of another server whatever it means by it


class _WithUsage(msgspec.Struct):
    usage: _Usage | None = None


_usage = msgspec.json.Decoder(_WithUsage)
_NO_USAGE = _Usage()


class Passed(NamedTuple):
    """What passed of a stream, whether or not it was whole."""

    events: int
    first_token: float | None  # monotonic seconds
    finish: bytes  # the event with a finish reason; empty when there was none
    usage: bytes  # the last event with usage; empty when there was none
    gaps: Gaps


class RecordDraft:
    """`entry` is what the record says so far; who asks nodes writes into it. Times are monotonic."""

    def __init__(self, request_id: str, dialect: str) -> None:
        self.entry = Entry(request_id, dialect, time.monotonic())
        self.usage = _NO_USAGE
        self.events = 0  # of a stream, that passed
        self.prompt_estimate = 0  # tokens, by the size of the body

    def note_answer(self, body: bytes) -> None:
        """Read an answer that is not streamed. Raises `UpstreamError` when it is no JSON object."""
        try:
            body.decode()  # the decoder does not validate strings that it skips
            self._note_usage(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError("protocol", f"it answered with no JSON object: {error}") from error
        self._note_finish(body)
        self._note_timings(self.usage.timings)

    def _note_timings(self, timings: Any) -> None:
        """A neuron says how long its answer took from the first token on, and that has just come whole."""
        decode_ms = timings.get("decode_ms") if isinstance(timings, dict) else None
        if isinstance(decode_ms, int | float) and decode_ms >= 0:
            self.entry.first_token = max(self.entry.received, time.monotonic() - decode_ms / 1000)

    def note_stream(self, passed: Passed) -> None:
        """Read a stream that is over, however it ended."""
        self.entry.first_token = passed.first_token or 0.0
        self.events = passed.events
        self.entry.gaps, self.entry.gaps_s = list(passed.gaps.counts), passed.gaps.total_s
        self._note_finish(passed.finish)
        if passed.usage:
            try:
                self._note_usage(passed.usage)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._warn()

    def _note_usage(self, data: bytes) -> None:
        """Raises what the decoder raises when `data` is no JSON object."""
        try:
            self.usage = _usage.decode(data).usage or self.usage
        except msgspec.ValidationError as error:
            if "`$.usage" not in str(error):  # no object at all
                raise
            self._warn()

    def _warn(self) -> None:
        log.warning("a node's usage is not readable", extra={"request_id": self.entry.request_id})

    def _note_finish(self, data: bytes) -> None:
        at = data.find(_FINISH)
        while at >= 0:
            at += len(_FINISH)
            if reason := _word(data, at):
                self.entry.finish_reason = reason.decode()
                return
            at = data.find(_FINISH, at)

    def charge(self, outcome: Outcome, reserved: int) -> int:
        """The tokens that the key pays for: as the engine counted them, else an estimate up to `reserved`.

        A stream that broke off before its usage is charged by the events that passed. A client that
        disconnects before the first byte is still charged for the prompt.
        """
        counted = self.usage.prompt_tokens + self.usage.completion_tokens
        left_a_node = outcome == "cancelled" and self.entry.overhead_s >= 0
        if counted or not (self.events or left_a_node):
            return counted
        return min(reserved, self.prompt_estimate + self.events)

    def ended(self, outcome: Outcome, status: int, error_code: str) -> Entry:
        """The account of a request that has ended."""
        entry, usage = self.entry, self.usage
        if len(entry.model) > MAX_MODEL_CHARS:
            entry.model = excerpt(entry.model, MAX_MODEL_CHARS)
        entry.outcome, entry.status, entry.error_code = outcome, status, error_code
        entry.prompt_tokens, entry.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        if (details := usage.prompt_tokens_details) is not None:
            entry.cached_tokens = details.cached_tokens or 0
        if (answer := usage.completion_tokens_details) is not None:
            entry.notes += answer.notes
        return entry


def _word(data: bytes, at: int) -> bytes:
    """The word that is the value of a JSON member whose name ends at `at`; empty where there is none."""
    at = _after_spaces(data, at)
    if not data.startswith(b":", at):
        return b""
    at = _after_spaces(data, at + 1)
    if not data.startswith(b'"', at):
        return b""
    start = end = at + 1
    most = min(len(data), start + _MAX_WORD)
    while end < most and data[end] in _LETTERS:
        end += 1
    return data[start:end] if data.startswith(b'"', end) else b""


def _after_spaces(data: bytes, at: int) -> int:
    while at < len(data) and data[at] in _SPACES:
        at += 1
    return at
