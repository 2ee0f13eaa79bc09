"""Records of finished requests as tests make and read them: the fields of a row, typed."""

from __future__ import annotations

import msgspec

from ext.ledger import Entry
from fleet.records import Outcome


class RequestRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finished request. Durations in seconds."""

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

    @property
    def row(self) -> bytes:
        """As the ledger leaves it."""
        return msgspec.json.encode(self)


_row = msgspec.json.Decoder(RequestRecord)


def read(row: bytes) -> RequestRecord:
    """Raises `msgspec.ValidationError` when a field is missing, unknown or of another type."""
    return _row.decode(row)


def entry(request_id: str = "r", **fields: object) -> Entry:
    """An answered request to model m on node n."""
    made = Entry(request_id, "openai-chat", 100.0)
    usual = {"model": "m", "node": "n", "outcome": "ok", "status": 200, "stream": True}
    for name, value in (usual | fields).items():
        setattr(made, name, value)
    return made
