"""The contract between a neuron and its clients: the shapes of its HTTP API and its errors.

The gateway imports this module and nothing else of `neuron`, so it needs pydantic and the standard library
only. Both sides ignore unknown fields, so that hosts of different versions work together; `PROTOCOL` counts
the changes that break this.
"""

from __future__ import annotations

import re
from typing import Any, Literal
from zlib import crc32

from pydantic import BaseModel, Field

PROTOCOL = 1

ModelState = Literal["loading", "loaded", "asleep", "unloading", "failed"]
DeviceState = Literal["starting", "ready", "restarting", "failed"]

MIB = 1 << 20
MAX_MESSAGE_CHARS, MAX_PARAM_CHARS = 2_000, 200  # of an error


class ApiError(Exception):
    """An error that is answered in OpenAI's envelope, by the gateway and by neuron alike.

    `status` is the HTTP status, `kind` the envelope's `type`, `param` the path of the offending field
    (`messages[0].content`), `retry_after_s` the `Retry-After` header where trying again helps.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        if len(message) > MAX_MESSAGE_CHARS:  # it repeats what a client sent
            message = f"{message[: MAX_MESSAGE_CHARS - 500]} … {message[-500:]}"
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param[:MAX_PARAM_CHARS] if param else param
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        match self.status:
            case 401:
                return "authentication_error"
            case 403:
                return "permission_error"
            case 429:
                return "rate_limit_error"
            case status if status < 500:
                return "invalid_request_error"
            case _:
                return "api_error"

    def envelope(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "code": self.code, "param": self.param}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


# What stands in calls without escapes; OpenAI takes letters, digits, _ and - alone, and 64 of them.
_TOOL_NAME = re.compile(r"""[^\s"'`<>\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}""")
TOOL_NAME_RULE = "at most 256 characters, without white space, quotes, angle brackets or control characters"


def is_tool_name(name: str) -> bool:
    """Whether models can be offered a tool of this name; `TOOL_NAME_RULE` says it in words."""
    return _TOOL_NAME.fullmatch(name) is not None


PREFIX_BYTES = tuple(1 << power for power in range(10, 17))  # 1 KiB to 64 KiB


def prefix_marks(body: bytes) -> list[tuple[int, int]]:
    """The digests (CRC-32) of ever longer beginnings of a chat body's messages, each with its length in
    bytes.

    Gateways compute them to route, neurons to report which of them their cache holds. Equal digests are a
    hint that prefill can be saved, never a proof.
    """
    start = max(body.find(b'"messages"'), 0)
    digest = 0
    marks = []
    before = 0
    for length in PREFIX_BYTES:
        if start + length > len(body):
            break
        digest = crc32(body[start + before : start + length], digest)
        marks.append((digest, length))
        before = length
    return marks


class ModelSpec(BaseModel):
    """Body of `POST /models/load`: what to load and where."""

    model_id: str = Field(min_length=1, description="The name under which the model is served")
    source: str | None = Field(None, description="Directory or hub id; by default the model_id")
    harness: str = "torch"
    quant: str | None = Field(
        None,
        description="How its weights are quantized while they are loaded (q8_0, q4_k, int4, fp8), or which "
        "file of a GGUF repository it is; by default, and with `none`, as they are stored",
    )
    tool_format: str | None = Field(
        None, description="The notation of its tool calls; by default the one that reads its template's calls"
    )
    reasoning_format: str | None = Field(
        None, description="The marker that opens its thoughts, or `none`; by default found by probing"
    )
    chat_template: str | None = Field(
        None, description="A template, or the path of one, from the model's directory on"
    )
    kv_dtype: str | None = Field(
        None,
        description="Of cached keys and values: auto, fp8 or int8; by default as neuron is configured",
    )
    speculation: str | None = Field(
        None,
        description="What drafts its answers: auto, mtp (its own multi-token head), ngram, off, or a smaller "
        "model of the same vocabulary, by directory or hub id; by default as neuron is configured",
    )
    devices: list[int] | None = Field(
        None, description="Device indices; by default the devices with the most free memory"
    )
    tensor_parallel: int | None = Field(
        None, ge=1, description="How many devices it is split over; by default as many as `devices` names"
    )
    memory_mb: int | None = Field(
        None, ge=1, description="What a managed engine may take of each device; by default its own share"
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="Of a managed engine: options of its command line, without their dashes"
    )


class Leave(BaseModel):
    """How a model with requests under way is unloaded: it gets no new ones, and these have a time to end."""

    grace_s: float = Field(0, ge=0, le=86_400)
    force: bool = Field(True, description="Then end the rest with an error; otherwise the model stays (409)")
    keep: Literal["host"] | None = Field(
        None, description="`host`: it stays asleep in the host's memory where there is room for it"
    )
    priority: int = Field(0, description="Of models that are asleep, the lowest is dropped first")


class UnloadRequest(Leave):
    """Body of `POST /models/unload`."""

    model_id: str


class PreflightRequest(BaseModel):
    """Body of `POST /models/preflight`."""

    source: str = Field(min_length=1, max_length=500, description="Directory, file or hub id")


class CacheReset(BaseModel):
    """Body of `POST /models/reset`."""

    model_id: str


class ModelFailure(BaseModel):
    """Why a model could not be loaded."""

    code: str
    message: str


class ModelInfo(BaseModel):
    """One model on this node."""

    id: str
    source: str
    harness: str = "torch"
    base: str | None = Field(None, description="The model on this node that it is an adapter for")
    state: ModelState | str = Field(description="An unknown state does not count as `loaded`")
    devices: list[int] = []
    memory_mb: int | None = Field(
        None, description="Measured growth of its devices' memory together, for weights and KV cache"
    )
    device_memory_mb: list[int] = Field(
        [], description="The same of each of `devices`, in their order; empty: evenly shared"
    )
    needed_mb: int | None = Field(
        None,
        description="Measured: the free memory that the load needed at least; of several devices that of the "
        "one that needed most, times their number",
    )
    host_mb: int | None = Field(None, description="Of a model that is asleep: host memory that it takes")
    load_s: float | None = Field(None, description="Measured: what its last load from disk took")
    wake_s: float | None = Field(None, description="Measured: what it last took to wake it")
    format: str = Field("", description="That most of its weights are stored in: bf16, q4_k")
    bits_per_weight: float | None = Field(None, description="On average, scales included")
    context: int | None = Field(None, description="The most tokens of a prompt and its answer together")
    kv_dtype: str | None = Field(None, description="Of the cached keys and values of a loaded model")
    progress: float | None = Field(
        None, ge=0, le=1, description="While loading: the share of the bytes that is read"
    )
    download: Download | None = Field(None, description="While loading: of files that the node lacked")
    memory_parts: dict[str, int] = Field(
        {}, description="MiB of its `memory_mb` for weights, for keys and values (kv), for states"
    )
    capabilities: list[str] = []
    text: dict[str, str] = Field(
        {}, description="What its chat template takes, as probing found it; empty in events"
    )
    warnings: list[str] = Field([], description="What the load passed over, each with file and cure")
    error: ModelFailure | None = None


class Download(BaseModel):
    """A download of a model's files to this node, under way or over."""

    source: str
    state: str = Field(description="running, cancelling, done, cancelled or failed")
    done_mb: int = 0
    total_mb: int = Field(0, description="0: not known yet")
    seconds: float | None = Field(None, description="Since it began, of one that is running")
    message: str = Field("", description="Why it failed or what is kept of it, with what helps")


class DownloadEnd(BaseModel):
    """Body of `POST /downloads/cancel`."""

    source: str = Field(min_length=1, description="As `GET /downloads` lists it")


class FormatChoice(BaseModel):
    """One form in which a model can be loaded."""

    quant: str = Field(description="What to ask for as `quant`; empty: as it is stored")
    format: str = Field(description="What most of its weights are then: bf16, Q4_K_M, q8_0")
    download_mb: int = Field(description="Of files that are not on this node yet")
    weights_mb: int = Field(description="About what its weights take of devices")
    note: str = ""


class Preflight(BaseModel):
    """Answer of `POST /models/preflight`: what a load would find, of which nothing has been downloaded."""

    source: str
    place: str = Field(description="disk, hub, or shipped with neuron")
    path: str = Field("", description="On this node's disk")
    architecture: str = ""
    context: int | None = Field(None, description="The longest that it was made for, in tokens")
    cache_mb_per_1k: float | None = Field(
        None, description="About what keys and values of 1,000 tokens take; null: not known before the load"
    )
    choices: list[FormatChoice] = []
    disk_free_mb: int | None = Field(None, description="Where its download would go")
    warnings: list[str] = []


class NodeLog(BaseModel):
    """`GET /logs`: lines of the daemon and its device workers, oldest first."""

    lines: list[str]
    end: int = Field(description="What to ask `after` for those that come")


class ModelLog(BaseModel):
    """`GET /models/ID/log`: what a managed engine's server wrote last, else what neuron logged of it."""

    lines: list[str]


class ModelLoad(BaseModel):
    """How busy a loaded model is right now."""

    id: str
    running: int = 0
    waiting: int = 0
    max_running: int = 0
    max_waiting: int = 0
    kv_pages_free: int = 0
    kv_pages_total: int = 0
    tok_s_prefill: float = 0
    tok_s_decode: float = 0
    drafted: int = Field(0, description="Tokens of answers that were guessed since the model was loaded")
    accepted: int = Field(0, description="Of these, those that were right")
    rejected: int = Field(0, description="Requests refused for lack of room since the model was loaded")
    timed_out: int = Field(0, description="Those among them that had waited in the queue")
    prefixes: list[int] = Field(
        [], description="Digests of prompts whose beginning is cached: `prefix_marks`"
    )


class DeviceInfo(BaseModel):
    """A device as discovered; does not change while the daemon lives."""

    index: int
    name: str
    kind: str = Field(description="cpu or cuda")
    memory_total_mb: int
    compute_capability: str | None = None


class DeviceHealth(BaseModel):
    """A device and its worker process now."""

    index: int
    state: DeviceState | str = Field(description="An unknown state does not count as `ready`")
    worker: str = Field(description="Name of the thread that owns the device: cpu-dev-0, cuda-dev-N")
    pid: int | None = None
    rss_mb: int | None = None
    memory_used_mb: int = 0
    memory_free_mb: int = 0
    fragmented_mb: int = Field(0, description="Free, but in pieces too small for a large model")
    utilization_pct: int | None = None
    temperature_c: int | None = None
    cycles: int = Field(0, description="Loads and unloads since the worker started")
    restarts: int = 0
    reason: str | None = Field(None, description="Why the worker last went away")


class Discovery(BaseModel):
    """`GET /discovery`: what this host is."""

    protocol: int = PROTOCOL
    version: str
    hostname: str
    os: str
    kernel: str
    cuda_version: str | None = None
    driver_version: str | None = None
    cuda_unavailable_reason: str | None = None
    devices: list[DeviceInfo]
    harnesses: list[str]


class Health(BaseModel):
    """`GET /health`: ok when every device is ready, degraded when some are, failed when none is."""

    status: str
    uptime_s: float
    pid: int
    rss_mb: int
    devices: list[DeviceHealth]
    models: list[ModelLoad]


class JoinRequest(BaseModel):
    """Body of a neuron's `POST /api/join` to the control plane, with a join token as bearer."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    endpoint: str = Field(max_length=300, description="Its URL as seen from the gateways")
    token: str = Field(
        min_length=16, max_length=300, pattern=r"^[!-~]+$", description="The secret of its API"
    )
    protocol: int = PROTOCOL
    version: str = Field("", max_length=100)
    labels: list[str] = Field([], max_length=100, description="What models may require of a node")


class JoinAnswer(BaseModel):
    """The answer of `POST /api/join`."""

    name: str
    heartbeat_s: float = Field(gt=0, description="The interval of `POST /api/join/heartbeat`, in seconds")


class NodeState(BaseModel):
    """The payload of each event on `GET /events`: the whole state, so that a missed event does no harm.

    Sent when a client connects, at once when a model or device changes state, and when load changes, at most
    every `events_interval_ms`.
    """

    seq: int
    protocol: int = PROTOCOL
    health: Health
    models: list[ModelInfo]
