"""The record that every finished request leaves: made by the data plane, stored by `services.records`."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "error", "cancelled", "rejected"]
# ok: answered in full. error: failed by the fleet. cancelled: the client left. rejected: a 4xx of ours.


class RequestRecord(msgspec.Struct, frozen=True):
    """One finished request. Durations in seconds, tokens as the engine counted them (0 when it did not)."""

    request_id: str
    started_at: float  # seconds since the epoch
    model: str  # resolved name; as the client wrote it when it is unknown
    node: str  # empty when no node was reached
    dialect: str  # such as openai-chat or anthropic-messages
    stream: bool
    status: int  # the HTTP status sent; 499 when the client left before one
    outcome: Outcome
    error_code: str = ""
    key: str = ""  # name of the API key; empty for anonymous
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: float | None = None  # from receipt to the first visible token
    latency_s: float = 0.0  # from receipt to the last byte
    queue_s: float = 0.0  # of that, waiting for a load or a free connection
    cold: bool = False  # waited for a load
    retries: int = 0
    load_s: float = 0.0  # of `queue_s`, waiting for a load
    overhead_s: float | None = None  # the gateway's own work until a node was asked; None when none was
    finish_reason: str = ""
    attempts: tuple[tuple[str, str], ...] = ()  # nodes that did not answer it: name, error code
    waits_s: tuple[tuple[str, float], ...] = ()  # nodes that were compared: name, expected wait
    notes: tuple[tuple[str, str], ...] = ()  # how the node took it: name, text
    tokens_per_second: float | None = None  # from the first one to the end; None when unknown

    def __post_init__(self) -> None:
        if self.ttft_s is not None and self.completion_tokens > 1 and self.latency_s > self.ttft_s:
            speed = (self.completion_tokens - 1) / (self.latency_s - self.ttft_s)
            msgspec.structs.force_setattr(self, "tokens_per_second", speed)
