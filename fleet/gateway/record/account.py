"""What one request's record will say: filled in while the request runs, made once at its end."""

from __future__ import annotations

import logging
import re
import time
from typing import Annotated

import msgspec

from fleet.gateway.dispatch import Dispatch
from fleet.gateway.http.errors import UpstreamError
from fleet.gateway.relay import Relay
from fleet.records import Outcome, RequestRecord

log = logging.getLogger("cortex.request")

_FINISH = re.compile(rb'"finish_reason"\s*:\s*"(\w{1,30})"')


# Budgets are charged by these: what cannot be must not give anything back.
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


class Account:
    """Times are monotonic, in seconds."""

    model = ""
    stream = False
    key = ""
    usage = _NO_USAGE
    finish_reason = ""
    first_token: float | None = None
    events = 0  # of a stream, that passed

    def __init__(self, request_id: str, dialect: str) -> None:
        self.request_id = request_id
        self.dialect = dialect
        self.started = time.monotonic()

    @property
    def tokens(self) -> int:
        """Prompt and answer as the engine counted them; 0 when it did not."""
        return self.usage.prompt_tokens + self.usage.completion_tokens

    def note_answer(self, body: bytes) -> None:
        """An answer that is not streamed; `UpstreamError` when it is no JSON object."""
        try:
            body.decode()  # the decoder takes its word for strings that it skips
            self._note_usage(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError("protocol", f"it answered with no JSON object: {error}") from error
        self._note_finish(body)

    def note_stream(self, relay: Relay) -> None:
        """A stream that is over, however it ended."""
        self.first_token, self.events = relay.first_token, relay.events
        self._note_finish(relay.finish)
        if relay.usage:
            try:
                self._note_usage(relay.usage)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._warn()

    def _note_usage(self, data: bytes) -> None:
        """Raises what the decoder raises for what is no JSON object."""
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

    def record(self, outcome: Outcome, status: int, error_code: str, dispatch: Dispatch) -> RequestRecord:
        details, first = self.usage.prompt_tokens_details, self.first_token
        latency_s = time.monotonic() - self.started
        return RequestRecord(
            request_id=self.request_id,
            started_at=time.time() - latency_s,
            model=self.model,
            node=dispatch.node,
            dialect=self.dialect,
            stream=self.stream,
            status=status,
            outcome=outcome,
            error_code=error_code,
            key=self.key,
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            cached_tokens=(details.cached_tokens or 0) if details else 0,
            ttft_s=first - self.started if first is not None else None,
            latency_s=latency_s,
            queue_s=dispatch.queue_s,
            cold=dispatch.cold,
            retries=dispatch.retries,
            load_s=dispatch.load_s,
            overhead_s=dispatch.overhead_s,
            finish_reason=self.finish_reason,
            attempts=dispatch.failures,
            waits_s=dispatch.waits_s,
        )
