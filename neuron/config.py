"""neuron's configuration: `neuron.toml`, with `NEURON_SECTION__KEY` over any key of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from cortex_site.base.addresses import Listen, is_loopback, split_listen
from cortex_site.base.settings_file import Section, Settings, load

MIB = 1 << 20


class ModelSettings(Section):
    """A model to load at start."""

    id: str = Field(min_length=1)
    source: str | None = Field(None, description="Directory or hub id; the id itself when absent")
    harness: str = "torch"
    devices: list[NonNegativeInt] | None = Field(None, description="The freest device when absent")
    tool_format: Literal["hermes", "qwen-xml", "mistral", "llama3", "harmony"] | None = Field(
        None, description="How it writes tool calls; what its chat template says when absent"
    )


class DeviceSettings(Section):
    """Limits of each device worker."""

    threads: PositiveInt | None = Field(
        None, description="CPU threads; what the worker finds best when absent"
    )
    memory_mb: PositiveInt | None = Field(
        None, description="For weights and KV cache; what is free when absent"
    )
    kv_mb: PositiveInt | None = Field(
        None, description="KV cache of each model; from what is free when absent"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="The model's own when absent"
    )


class EngineSettings(Section):
    """Admission and batching of each model; the engine's own defaults when absent."""

    max_running: PositiveInt | None = Field(None, description="Requests in a batch")
    max_waiting: NonNegativeInt | None = Field(
        None, description="Requests in the queue; beyond it 429 or 503"
    )
    max_wait_s: PositiveFloat | None = Field(None, description="Longest time in the queue")
    step_tokens: PositiveInt | None = Field(
        None, description="Tokens of one step; long prompts come in parts"
    )


class RestartSettings(Section):
    """How device workers are watched and brought back."""

    first_delay_s: PositiveFloat = 0.5
    max_delay_s: PositiveFloat = 30.0
    stable_after_s: PositiveFloat = Field(
        10.0, description="A worker that lived so long restarts without delay"
    )
    start_timeout_s: PositiveFloat = 120.0
    wedged_after_s: PositiveFloat = Field(60.0, description="Silence after which a worker is replaced")
    load_silence_s: PositiveFloat = Field(600.0, description="The same while it loads a model")
    max_reloads: PositiveInt = Field(3, description="Attempts to bring a model back before it is failed")


class StreamSettings(Section):
    """How answers are written."""

    keepalive_s: PositiveFloat = Field(10.0, description="Longest silence before a comment is sent")
    head_wait_s: PositiveFloat = Field(
        30.0, description="So long an error before the first token keeps its status"
    )
    max_unread_tokens: PositiveInt = Field(4096, description="A client further behind is cut off")


class JoinSettings(Section):
    """The fleet that this node registers itself with."""

    url: str | None = Field(None, description="cortex's control plane: http://cortex.internal:31315")
    token: str | None = Field(None, repr=False, description="Made by `cortex join-token` or in the admin")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="This host's name when absent"
    )
    labels: list[str] = Field([], description="What models may ask of a node: a100, nvlink …")


class NeuronConfig(Settings):
    """Everything `neuron serve` needs to know."""

    model_config = SettingsConfigDict(env_prefix="NEURON_")

    listen: Listen = "127.0.0.1:13131"
    public_url: str | None = Field(
        None, description="How others reach this API; made from `listen` when absent"
    )
    token: str | None = Field(
        None, repr=False, min_length=1, description="Shared secret that clients must send"
    )
    allow_anonymous: bool = Field(False, description="Without token: serve other machines too")
    models_dir: Path | None = Field(None, description="Models by name: a directory of directories")
    events_interval_ms: PositiveInt = Field(250, description="Shortest time between two events about load")
    max_body_bytes: PositiveInt = 64 * MIB
    max_images: PositiveInt = Field(64, description="Of one request")
    stop_grace_s: PositiveFloat = Field(10.0, description="Running answers may end within this on a stop")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    models: list[ModelSettings] = []
    device: DeviceSettings = DeviceSettings()
    engine: EngineSettings = EngineSettings()
    restart: RestartSettings = RestartSettings()
    stream: StreamSettings = StreamSettings()
    join: JoinSettings = JoinSettings()

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Self:
        ids = [model.id for model in self.models]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"models: the id {twice[0]!r} is given twice")
        return self

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the API."""
        return not is_loopback(split_listen(self.listen)[0])

    @property
    def worker_flags(self) -> list[str]:
        """What device workers are told beyond their device; absent settings are left to them."""
        given = self.device.model_dump(exclude_none=True) | self.engine.model_dump(exclude_none=True)
        flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in given.items()]
        return [part for pair in flags for part in pair]


def load_config(path: Path | None) -> NeuronConfig:
    """The configuration in `path` (None: defaults) and the environment; raises `ConfigError`."""
    return load(NeuronConfig, path)
