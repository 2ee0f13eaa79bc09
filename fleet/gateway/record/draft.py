"""What one request's record will say: filled in while the request runs, made once at its end."""

from __future__ import annotations

import logging
import re
import time
from typing import Annotated, NamedTuple

import msgspec

from cortex_site.base.excerpt import excerpt
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.record.metrics import Gaps
from fleet.records import Outcome, RequestRecord

log = logging.getLogger("cortex.request")

MAX_MODEL_CHARS = 200
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,30})"')

# Budgets are charged by these: an impossible count must not give anything back.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: _Count = 0
    completion_tokens: _Count = 0
    prompt_tokens_details: _Details | None = None


class _WithUsage(msgspec.Struct):
    usage: _Usage | None = None


_usage = msgspec.json.Decoder(_WithUsage)
_NO_USAGE = _Usage()


class Trail(msgspec.Struct, frozen=True):
    """A request's way to a node, as far as it has come. Durations in seconds."""

    node: str = ""  # asked last; empty when none was
    retries: int = 0
    cold: bool = False  # waited for a load
    queue_s: float = 0.0  # waited for a load or a free connection
    load_s: float = 0.0  # of that, waited for a load
    overhead_s: float | None = None  # from receipt to the first request to a node, without `queue_s`
    failures: tuple[tuple[str, str], ...] = ()  # nodes that did not answer: name, error code
    waits_s: tuple[tuple[str, float], ...] = ()  # replicas that were compared last: node, expected wait
    notes: tuple[tuple[str, str], ...] = ()  # of the node about its answer: name, text


NO_TRAIL = Trail()


class Passed(NamedTuple):
    """What passed of a stream, whether or not it was whole."""

    events: int
    first_token: float | None  # monotonic seconds
    finish: bytes  # the event with a finish reason; empty when there was none
    usage: bytes  # the last event with usage; empty when there was none
    gaps: Gaps


class RecordDraft:
    """Times are monotonic, in seconds."""

    model = ""
    stream = False
    key = ""
    trail = NO_TRAIL
    usage = _NO_USAGE
    finish_reason = ""
    first_token: float | None = None
    events = 0  # of a stream, that passed
    gaps: Gaps | None = None  # of a stream
    prompt_estimate = 0  # tokens, by the size of the body

    def __init__(self, request_id: str, dialect: str) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.received = time.monotonic()

    def follow(self, trail: Trail) -> None:
        """Keep the trail as it now is."""
        self.trail = trail

    def note_answer(self, body: bytes) -> None:
        """Read an answer that is not streamed. Raises `UpstreamError` when it is no JSON object."""
        try:
            body.decode()  # the decoder does not validate strings that it skips
            self._note_usage(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError("protocol", f"it answered with no JSON object: {error}") from error
        self._note_finish(body)

    def note_stream(self, passed: Passed) -> None:
        """Read a stream that is over, however it ended."""
        self.first_token = passed.first_token
        self.events = passed.events
        self.gaps = passed.gaps
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
        log.warning("a node's usage is not readable", extra={"request_id": self.request_id})

    def _note_finish(self, data: bytes) -> None:
        at = data.find(b'"finish_reason"')  # many times as fast as the pattern
        if at >= 0 and (found := _FINISH.search(data, at)):
            self.finish_reason = found[1].decode()

    def charge(self, outcome: Outcome, reserved: int) -> int:
        """The tokens that the key pays for: as the engine counted them, else an estimate up to `reserved`.

        A stream that broke off before its usage is charged by the events that passed. A client that
        disconnects before the first byte is still charged for the prompt.
        """
        counted = self.usage.prompt_tokens + self.usage.completion_tokens
        left_a_node = outcome == "cancelled" and self.trail.overhead_s is not None
        if counted or not (self.events or left_a_node):
            return counted
        return min(reserved, self.prompt_estimate + self.events)

    def record(self, outcome: Outcome, status: int, error_code: str) -> RequestRecord:
        """The record of a request that has ended."""
        trail = self.trail
        usage = self.usage
        first = self.first_token
        details = usage.prompt_tokens_details
        latency_s = time.monotonic() - self.received
        return RequestRecord(
            request_id=self.request_id,
            started_at=time.time() - latency_s,
            model=excerpt(self.model, MAX_MODEL_CHARS),
            node=trail.node,
            dialect=self.dialect,
            stream=self.stream,
            status=status,
            outcome=outcome,
            error_code=error_code,
            key=self.key,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            ttft_s=first - self.received if first is not None else None,
            latency_s=latency_s,
            queue_s=trail.queue_s,
            cold=trail.cold,
            retries=trail.retries,
            load_s=trail.load_s,
            overhead_s=trail.overhead_s,
            finish_reason=self.finish_reason,
            attempts=trail.failures,
            waits_s=trail.waits_s,
            notes=trail.notes,
        )
