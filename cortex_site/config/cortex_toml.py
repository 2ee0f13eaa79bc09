"""`cortex.toml`: every section, its keys, their units and defaults."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from cortex_site.base.addresses import Listen, Origin, is_loopback, split_listen
from cortex_site.base.certificate import TlsFiles
from cortex_site.base.http2 import Http2Settings
from cortex_site.base.secret import Secret
from cortex_site.base.settings_file import Section, Settings
from cortex_site.base.tracing import TracingSettings

API_PORT, METRICS_PORT, ADMIN_PORT, NEURON_PORT = 31313, 31314, 31315, 13131
MIB = 1 << 20


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected a URL such as http://host:13131")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment; a key goes into `api_key`")
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http_url)]


def _names(value: object) -> object:
    """The table for a list of names: each name stands for itself."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: name for name in value}
    return value


Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Names = Annotated[dict[str, str], BeforeValidator(_names)]


class GatewaySettings(Section, TlsFiles, Http2Settings):
    """The data plane: addresses, timeouts and bounds."""

    listen: Listen = Field(f"127.0.0.1:{API_PORT}", description="HOST:PORT of the API for clients")
    metrics_listen: Listen = Field(
        f"127.0.0.1:{METRICS_PORT}", description="HOST:PORT of Prometheus's text over all workers"
    )
    admin_listen: Listen = Field(f"127.0.0.1:{ADMIN_PORT}", description="HOST:PORT of admin and operator API")
    metrics_token: Secret | None = Field(None, repr=False, description="That `/metrics` asks for; none: open")
    open_openapi: bool = Field(True, description="`/openapi.json` needs no API key")
    ollama: bool = Field(True, description="Serve Ollama's API below `/api`, too")
    ollama_listen: Listen | None = Field(
        None, description="A second address of the API; 127.0.0.1:11434 is where Ollama's clients look"
    )
    workers: PositiveInt = Field(1, description="Processes that serve clients; a core each")
    allow_anonymous: bool = Field(False, description="Serve clients without a key, from any address")
    allowed_origins: list[Origin] = Field(
        [], description="Web pages that may read answers; `http://localhost:*` is any port"
    )
    allowed_hosts: list[str] = Field(
        [], description="Names of this host, besides localhost, for its own programs while there is no key"
    )
    max_body_bytes: PositiveInt = Field(64 * MIB, description="Of a request, decompressed")
    max_held_bytes: PositiveInt = Field(
        256 * MIB, description="Of all requests of a worker until they are answered"
    )
    head_timeout_s: PositiveFloat = Field(20.0, description="For the head of a request to arrive")
    body_timeout_s: PositiveFloat = Field(300.0, description="For the body of a request to arrive")
    node_ca: Path | None = Field(
        None, description="PEM file of authorities for nodes' certificates, besides the system's"
    )
    compress_from_bytes: NonNegativeInt = Field(
        16_384, description="Whole answers from this size are compressed for clients that accept it; 0: none"
    )
    connect_timeout_s: PositiveFloat = Field(3.0, description="For a new connection to a node")
    first_byte_timeout_s: PositiveFloat = Field(600.0, description="From request to the answer's head")
    idle_timeout_s: PositiveFloat = Field(300.0, description="Longest silence within an answer")
    load_wait_s: PositiveFloat = Field(600.0, description="Longest wait of a request for a cold model")
    max_connections_per_node: PositiveInt = Field(
        512, description="Of one worker, and so its requests under way there"
    )
    connection_wait_s: PositiveFloat = Field(10.0, description="Longest wait of a request for a connection")
    repeat_unanswered: bool = Field(True, description="Repeat once what a node dropped unanswered")
    configuration_check_s: PositiveFloat = Field(2.0, description="Interval between checks of its version")
    stop_grace_s: PositiveFloat = Field(30.0, description="For running answers to end on a stop")
    record_queue_size: PositiveInt = Field(10_000, description="Finished requests that wait to be stored")
    record_retry_s: PositiveFloat = Field(
        120.0, description="Then a batch that the database refuses is dropped"
    )
    max_images: PositiveInt = Field(64, description="Per request")
    max_image_bytes: PositiveInt = Field(15 * MIB, description="Of one image, decoded from base64 or fetched")
    fetch_images: bool = Field(False, description="Fetch images at public addresses")
    fetch_images_timeout_s: PositiveFloat = Field(10.0, description="For all images of a request")
    reserve_tokens: PositiveInt = Field(1024, description="Assumed answer of a request without max_tokens")


class ResponsesSettings(Section):
    """What `/v1/responses` and `/v1/conversations` store in Redis; the oldest are evicted first."""

    ttl_s: PositiveInt = Field(86_400, description="How long one is kept after its end")
    max_bytes: PositiveInt = Field(4 * MIB, description="Of one, with the conversation before it")
    max_total_bytes: PositiveInt = Field(256 * MIB, description="Of all")
    max_background: PositiveInt = Field(64, description="Made by one worker without their clients at once")


class BatchSettings(Section):
    """What `/v1/files` keeps on disk, and `/v1/batches` makes of it."""

    max_total_bytes: PositiveInt = Field(2048 * MIB, description="Of all files")
    file_ttl_s: PositiveInt = Field(30 * 86_400, description="Lifetime of a file")
    max_requests: PositiveInt = Field(50_000, description="Of one batch")
    concurrency: PositiveInt = Field(8, description="Requests of a batch under way at once")
    slice_s: PositiveFloat = Field(20.0, description="Work on a batch before others get their turn")


class AdminSettings(Section):
    """The Django admin."""

    allowed_hosts: list[str] = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        description="Names under which the admin is reached; a proxy's, too",
    )
    csrf_trusted_origins: list[str] = Field(
        [], description="Origins of forms besides the admin's own, with scheme: https://cortex.example"
    )
    path_prefix: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Such as /cortex, where a proxy has it below a path",
    )
    behind_tls_proxy: bool = Field(
        False,
        description="Scheme and address are those of X-Forwarded-Proto and -For; nothing goes without TLS",
    )
    hsts_s: NonNegativeInt = Field(31_536_000, description="Strict-Transport-Security, behind a TLS proxy")
    sign_in_attempts: PositiveInt = Field(
        10, description="Failed ones of a name from an address, then a pause"
    )
    sign_in_pause_s: PositiveInt = Field(600, description="Of that name from that address")


class EvictionSettings(Section):
    strategy: Literal["lru", "priority"] = Field(
        "lru", description="lru: the longest unused goes first; priority: the lowest residency_priority"
    )
    defrag_after_cycles: NonNegativeInt = Field(50, description="0 turns defragmentation off")


class LifecycleSettings(Section):
    """How models are loaded and unloaded."""

    min_residency_s: NonNegativeFloat = Field(
        5.0,
        description="Shortest stay of a model; requests for models that need its memory collect meanwhile",
    )
    swap_wait_s: PositiveFloat = Field(
        60.0, description="Longest wait of a load for models in use; then they admit no new requests"
    )
    capacity_wait_s: PositiveFloat = Field(
        300.0, description="Longest wait of a load for memory or for devices that start; then it fails"
    )
    node_wait_s: PositiveFloat = Field(15.0, description="Longest wait of a load for a node that is away")
    load_timeout_s: PositiveFloat = Field(1800.0, description="One model on one node")
    drain_grace_s: PositiveFloat = Field(
        600.0, description="Longest wait of an unload for requests under way"
    )
    failure_backoff_s: PositiveFloat = Field(
        10.0, description="Pause before a request starts a failed load again"
    )
    read_ahead_keys: list[str] = Field(
        [],
        description="Names of keys, or patterns: shortly before an hour in which such a key used a model on "
        "several of the last days, a node reads the model's files",
    )
    defrag_idle_s: NonNegativeFloat = Field(
        300.0, description="Time without a request before a device that is due is defragmented"
    )
    defrag_fragmented_fraction: float = Field(
        0.1,
        gt=0,
        le=1,
        description="A device is due when more of its memory is free but unusable",
    )
    maintenance_utc: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description='Such as "02:00-05:00": then devices in use are defragmented too, after their requests',
    )


class PollSettings(Section):
    """How nodes are polled."""

    interval_s: PositiveFloat = Field(5.0, description="Between two polls of a node")
    timeout_s: PositiveFloat = Field(5.0, description="For a node's answer to one")
    misses_until_unhealthy: PositiveInt = Field(
        3, description="Unanswered polls in a row after which no request goes to the node"
    )


class JoinSettings(Section):
    """Neurons that register themselves."""

    token_ttl_s: PositiveInt = Field(86_400, description="Lifetime of a join token")
    heartbeat_s: PositiveFloat = Field(5.0, description="Interval of their heartbeats")
    drop_after_s: PositiveFloat = Field(60.0, description="Silence before one that is away is removed")


class RetentionSettings(Section):
    request_metrics_days: PositiveInt = Field(30, description="Rows of finished requests")
    operations_days: PositiveInt = Field(
        90, description="Loads, unloads and what else was done, once it ended"
    )
    audit_days: PositiveInt = Field(365, description="Who changed what")
    usage_days: PositiveInt = Field(730, description="Hourly and daily sums of requests")


class NeuronEntry(Section):
    """One GPU host; or, with kind "openai", another OpenAI-compatible server."""

    name: str = Field(
        min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the node, in all that names it"
    )
    kind: Literal["neuron", "openai"] = Field(
        "neuron", description="openai: any server that speaks OpenAI's API; cortex loads nothing there"
    )
    endpoint: HttpUrl = Field(
        validation_alias=AliasChoices("endpoint", "base_url"), description="Its URL: http://gpu1:13131"
    )
    token: Secret | None = Field(
        None,
        repr=False,
        validation_alias=AliasChoices("token", "api_key"),
        description="The token of the neuron's API, or the server's API key",
    )
    models: Names = Field({}, description='Of a server, those to use; {"ours" = "its own"} renames')
    labels: list[Label] = Field([], description="Labels that models may require")
    max_requests: PositiveInt | None = Field(None, description="Of one gateway at once; more wait")
    first_byte_timeout_s: PositiveFloat | None = Field(None, description="Default: the gateway's")
    idle_timeout_s: PositiveFloat | None = Field(None, description="Default: the gateway's")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "neuron" and urlsplit(self.endpoint).path:
            raise ValueError('endpoint: a neuron has no path; for another server say kind = "openai"')
        if self.kind == "neuron" and self.models:
            raise ValueError('models: only for kind = "openai"; a neuron says itself what it has')
        return self


class DatabaseSettings(Section):
    url: str = Field("", repr=False, description="postgresql://…; empty: SQLite under the state directory")


class RedisSettings(Section):
    url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="Of Redis or valkey; all gateways share it"
    )
    timeout_ms: PositiveInt = Field(200, description="While it is slower, limits of API keys hold per worker")


class CortexConfig(Settings):
    """The root of `cortex.toml`."""

    model_config = SettingsConfigDict(env_prefix="CORTEX_")

    state_dir: Path | None = Field(None, description="Directory of SQLite, secrets and sockets")
    models_config: Path | None = Field(
        None, description="models.toml; without one there are only models of the admin and of nodes"
    )
    log_files: bool = Field(
        False, description="`cortex serve` keeps logs in the state directory, where the admin shows them"
    )
    gateway: GatewaySettings = GatewaySettings()
    responses: ResponsesSettings = ResponsesSettings()
    batches: BatchSettings = BatchSettings()
    admin: AdminSettings = AdminSettings()
    eviction: EvictionSettings = EvictionSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    poll: PollSettings = PollSettings()
    join: JoinSettings = JoinSettings()
    retention: RetentionSettings = RetentionSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    tracing: TracingSettings = TracingSettings()
    neurons: list[NeuronEntry] = []

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [neuron.name for neuron in self.neurons]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"neurons: the name {twice[0]!r} is given twice")
        return self

    @property
    def home(self) -> Path:
        """The state directory: configured, or `cortex` under XDG_STATE_HOME."""
        if self.state_dir:
            return self.state_dir
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(base) / "cortex"

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the API."""
        return not is_loopback(split_listen(self.gateway.listen)[0])
