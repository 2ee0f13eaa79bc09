"""cortex's configuration: `cortex.toml`, and `models.toml` for placement profiles.

Processes find their file through `CORTEX_CONFIG`; `CORTEX_SECTION__KEY` overrides any key of it. Nothing
here imports Django, so that a mistake shows before anything starts.
"""

from __future__ import annotations

import os
from functools import lru_cache
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

from cortex_site.base.addresses import Listen, is_loopback, split_listen
from cortex_site.base.settings_file import Section, Settings, load

API_PORT, METRICS_PORT, ADMIN_PORT, NEURON_PORT = 31313, 31314, 31315, 13131
MIB = 1 << 20
DEFAULT_PRIORITY, PINNED_PRIORITY = 100, 1000  # of residency


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("expected a URL such as http://host:13131")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment; a key goes into `api_key`")
    return value.rstrip("/")


HttpUrl = Annotated[str, AfterValidator(_http_url)]


def _names(value: object) -> object:
    """A list of names is short for a table in which each stands for itself."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: name for name in value}
    return value


Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Names = Annotated[dict[str, str], BeforeValidator(_names)]


class Gateway(Section):
    """The data plane: where it listens and what it bears."""

    listen: Listen = f"127.0.0.1:{API_PORT}"
    metrics_listen: Listen = f"127.0.0.1:{METRICS_PORT}"
    admin_listen: Listen = f"127.0.0.1:{ADMIN_PORT}"
    workers: PositiveInt = 1
    allow_anonymous: bool = Field(False, description="Serve clients without a key, from any address")
    max_body_bytes: PositiveInt = 64 * MIB
    connect_timeout_s: PositiveFloat = 3.0
    first_byte_timeout_s: PositiveFloat = Field(600.0, description="From request to the answer's head")
    idle_timeout_s: PositiveFloat = Field(300.0, description="Longest silence within an answer")
    load_wait_s: PositiveFloat = Field(600.0, description="Longest wait of a request for a cold model")
    max_connections_per_node: PositiveInt = 512
    connection_wait_s: PositiveFloat = Field(10.0, description="Longest wait of a request for one of them")
    repeat_unanswered: bool = Field(True, description="Elsewhere, once, what a node hung up on unanswered")
    configuration_check_s: PositiveFloat = Field(2.0, description="Its version is looked at so often")
    stop_grace_s: PositiveFloat = Field(30.0, description="Running answers may end within this on a stop")
    record_queue_size: PositiveInt = Field(10_000, description="Finished requests waiting to be recorded")
    record_retry_s: PositiveFloat = Field(120.0, description="A batch the database refuses is given up after")
    max_images: PositiveInt = Field(64, description="Of one request")
    max_image_bytes: PositiveInt = 15 * MIB
    fetch_images: bool = Field(False, description="Get those at public addresses that clients name")
    fetch_images_timeout_s: PositiveFloat = Field(10.0, description="For all of one request")
    reserve_tokens: PositiveInt = Field(1024, description="Answer a key's limits expect without max_tokens")


class Responses(Section):
    """What `/v1/responses` keeps in Redis; the oldest go first."""

    ttl_s: PositiveInt = 86_400
    max_bytes: PositiveInt = Field(4 * MIB, description="Of one, the conversation before it included")
    max_total_bytes: PositiveInt = Field(256 * MIB, description="Of all")


class Admin(Section):
    """The Django admin."""

    allowed_hosts: list[str] = ["localhost", "127.0.0.1", "[::1]"]
    csrf_trusted_origins: list[str] = []


class Eviction(Section):
    strategy: Literal["lru", "priority"] = "lru"
    defrag_after_cycles: NonNegativeInt = Field(50, description="0 turns defragmentation off")


class Lifecycle(Section):
    """How models come and go."""

    min_residency_s: NonNegativeFloat = Field(
        5.0, description="A model stays so long; requests for those that wait for its place gather meanwhile"
    )
    swap_wait_s: PositiveFloat = Field(
        60.0, description="A load waits so long for models in use; then they take no new requests"
    )
    capacity_wait_s: PositiveFloat = Field(300.0, description="A load waits so long for room, then it fails")
    node_wait_s: PositiveFloat = Field(15.0, description="And so long for a node that is away")
    load_timeout_s: PositiveFloat = Field(1800.0, description="One model on one node")
    drain_grace_s: PositiveFloat = Field(
        600.0, description="Requests under way may take so long to end before their model goes"
    )
    failure_backoff_s: PositiveFloat = Field(
        10.0, description="A model that could not be loaded is not tried again by requests before"
    )
    defrag_idle_s: NonNegativeFloat = Field(
        300.0, description="A device that wants defragmenting gets it after so long without a request"
    )
    defrag_fragmented_fraction: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Of its memory, free in pieces that are of no use: it wants defragmenting",
    )
    maintenance_utc: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description='Such as "02:00-05:00": then also a device that is in use, once its requests have ended',
    )


class Poll(Section):
    """How the control plane watches the nodes."""

    interval_s: PositiveFloat = 5.0
    timeout_s: PositiveFloat = 5.0
    misses_until_unhealthy: PositiveInt = 3


class Join(Section):
    """Neurons that register themselves."""

    token_ttl_s: PositiveInt = Field(86_400, description="A join token is good for so long")
    heartbeat_s: PositiveFloat = Field(5.0, description="They tell so often that they are there")
    drop_after_s: PositiveFloat = Field(60.0, description="One that is silent so long, and away, is removed")


class Retention(Section):
    request_metrics_days: PositiveInt = 30
    operations_days: PositiveInt = 90
    audit_days: PositiveInt = 365
    usage_days: PositiveInt = Field(730, description="Hourly sums of requests")


class Neuron(Section):
    """One GPU host; or with kind "openai" another OpenAI-compatible server, that nothing is loaded on."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: Literal["neuron", "openai"] = "neuron"
    endpoint: HttpUrl = Field(validation_alias=AliasChoices("endpoint", "base_url"))
    token: str | None = Field(
        None,
        repr=False,
        validation_alias=AliasChoices("token", "api_key"),
        description="The shared secret of that neuron's API, or the key of that server's",
    )
    models: Names = Field({}, description='Those of a server that are used; {"ours" = "its own"} renames')
    labels: list[Label] = Field([], description="What models may ask of a node")
    max_requests: PositiveInt | None = Field(None, description="Of one gateway at once; the others wait")
    first_byte_timeout_s: PositiveFloat | None = Field(None, description="The gateway's own when absent")
    idle_timeout_s: PositiveFloat | None = Field(None, description="The gateway's own when absent")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "neuron" and urlsplit(self.endpoint).path:
            raise ValueError('endpoint: a neuron has no path; for another server say kind = "openai"')
        if self.kind == "neuron" and self.models:
            raise ValueError('models: only for kind = "openai"; a neuron says itself what it has')
        return self


class Database(Section):
    url: str = Field("", repr=False, description="postgresql://…; empty: SQLite under the state directory")


class Redis(Section):
    url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    timeout_ms: PositiveInt = Field(200, description="API keys' limits hold per worker when it is slower")


class CortexConfig(Settings):
    """Everything `cortex serve` needs to know."""

    model_config = SettingsConfigDict(env_prefix="CORTEX_")

    state_dir: Path | None = Field(None, description="Where SQLite, secrets and sockets live")
    models_config: Path | None = None
    gateway: Gateway = Gateway()
    responses: Responses = Responses()
    admin: Admin = Admin()
    eviction: Eviction = Eviction()
    lifecycle: Lifecycle = Lifecycle()
    poll: Poll = Poll()
    join: Join = Join()
    retention: Retention = Retention()
    database: Database = Database()
    redis: Redis = Redis()
    neurons: list[Neuron] = []

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


class Limit(Section):
    context: PositiveInt | None = None
    output: PositiveInt | None = None


class Cost(Section):
    """US dollars per million tokens."""

    input: float | None = Field(None, ge=0)
    output: float | None = Field(None, ge=0)
    cache_read: float | None = Field(None, ge=0)


class Profile(Section):
    """What is known of a model before it is loaded, and what the operator wants of it."""

    id: str = Field(min_length=1)
    source: str | None = Field(None, description="Directory or hub id; the id itself when absent")
    harness: str = "torch"
    quant: str | None = None
    vram_mb: NonNegativeInt | None = None
    min_devices: PositiveInt = 1
    min_device_vram_mb: NonNegativeInt | None = None
    labels: list[Label] = Field([], description="Loaded only on nodes that have all of them")
    pinned_on: list[str] = []
    pinned: bool = False
    residency_priority: int | None = Field(None, description="Default 100, or 1000 with pinned_on")
    ttl_s: PositiveInt | None = Field(None, description="Unload after so long without a request")
    min_residency_s: NonNegativeInt = 0
    replicas: PositiveInt = 1
    limit: Limit | None = None
    cost: Cost | None = None
    capabilities: list[str] = []

    @property
    def priority(self) -> int:
        if self.residency_priority is not None:
            return self.residency_priority
        return PINNED_PRIORITY if self.pinned_on else DEFAULT_PRIORITY


class Catalogue(Settings):
    """`models.toml`."""

    model_config = SettingsConfigDict(env_prefix="CORTEX_MODELS_")

    models: list[Profile] = []
    aliases: dict[str, str] = {}

    @property
    def profiles(self) -> list[Profile]:
        """The models; of several under one id the first."""
        return list({profile.id: profile for profile in reversed(self.models)}.values())[::-1]

    @property
    def other_names(self) -> dict[str, str]:
        """The aliases that are no model's id."""
        ids = {profile.id for profile in self.models}
        return {name: target for name, target in self.aliases.items() if name not in ids}


def load_config(path: Path | None) -> CortexConfig:
    """The configuration in `path`; `models_config` becomes absolute, relative to that file."""
    config = load(CortexConfig, path)
    if path and config.models_config and not config.models_config.is_absolute():
        return config.model_copy(update={"models_config": path.parent / config.models_config})
    return config


def load_catalogue(config: CortexConfig) -> Catalogue:
    return load(Catalogue, config.models_config)


@lru_cache(maxsize=1)
def current() -> CortexConfig:
    """The configuration of this process, from `CORTEX_CONFIG` and the environment."""
    path = os.environ.get("CORTEX_CONFIG")
    return load_config(Path(path) if path else None)
