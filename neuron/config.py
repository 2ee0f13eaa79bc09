"""neuron's configuration: `neuron.toml`. `NEURON_SECTION__KEY` overrides the same key in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from cortex_site.base.addresses import Listen, is_loopback, split_listen
from cortex_site.base.answer_formats import ReasoningFormat, ToolFormat
from cortex_site.base.certificate import TlsFiles
from cortex_site.base.http2 import Http2Settings
from cortex_site.base.kv_dtype import KVDtype
from cortex_site.base.secret import Secret
from cortex_site.base.settings_file import Section, Settings, load
from cortex_site.base.speculation import MOST_DRAFT_TOKENS, NodeSpeculation
from cortex_site.base.tracing import TracingSettings

MIB = 1 << 20


class ModelSettings(Section):
    """A model to load at start."""

    id: str = Field(min_length=1, description="The name under which it answers")
    source: str | None = Field(None, description="Directory or hub id; by default the id itself")
    harness: str = Field("torch", description="The engine that runs it: torch is neuron's own")
    quant: str | None = Field(
        None, description="How its weights are quantized, or which of its files; by default as they are"
    )
    devices: list[NonNegativeInt] | None = Field(
        None, description="By default those with the most free memory"
    )
    tensor_parallel: PositiveInt | None = Field(
        None, description="How many devices it is split over; by default as many as `devices` names"
    )
    memory_mb: PositiveInt | None = Field(None, description="What a managed engine may take of each device")
    options: dict[str, str | int | float | bool] = Field(
        {}, description="Of a managed engine: options of its command line, without their dashes"
    )
    chat_template: str | None = Field(
        None, description="A template, or the path of one, from the model's directory on"
    )
    tool_format: ToolFormat | None = Field(
        None,
        description="The notation of its tool calls; by default the one that reads what its template writes",
    )
    reasoning_format: ReasoningFormat | None = Field(
        None, description="The marker that opens its thoughts, or `none`; by default found by probing"
    )
    kv_dtype: KVDtype | None = Field(None, description="By default that of `[device]`")
    speculation: str | None = Field(
        None,
        min_length=1,
        description="What drafts its answers: `auto`, `mtp` (its own multi-token head), `ngram`, `off`, or a "
        "smaller model of the same vocabulary, by directory or hub id; by default that of `[engine]`",
    )


class DeviceSettings(Section):
    """Limits of each device worker."""

    cpu_devices: PositiveInt | None = Field(
        None,
        le=64,
        description="Of a host without a GPU: workers that share its cores and memory, each a device",
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads; by default as many as the worker finds best"
    )
    memory_mb: PositiveInt | None = Field(
        None, description="For weights and KV cache; by default what is free"
    )
    kv_mb: PositiveInt | None = Field(
        None, description="KV cache of each model; by default a part of what is free"
    )
    kv_host_mb: NonNegativeInt | None = Field(
        None,
        description="Host memory of each model for cached pages that its KV cache has no room for; by "
        "default none",
    )
    host_cache_mb: NonNegativeInt | None = Field(
        None,
        description="Host memory for models that are asleep: by default a quarter of it, shared by all GPUs; "
        "on a CPU what models that answer leave free; 0 for none",
    )
    packed_dir: Path | None = Field(
        None,
        description="A directory for weights that a load computes (`quant`, AWQ, GPTQ …), which the next "
        "load of the same files maps; by default none",
    )
    packed_mb: PositiveInt | None = Field(
        None,
        description="The most that `packed_dir` may take, by default 200,000; what was used longest ago goes",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="By default the model's own"
    )
    kv_dtype: KVDtype | None = Field(
        None,
        description="Of cached keys and values: by default `auto`, the model's own; `fp8` (on a GPU) and "
        "`int8` (on a CPU) take half the memory of `bfloat16`",
    )
    allow_unexpected_tensors: bool = Field(
        default=False, description="Load models with tensors that their configuration has no place for"
    )
    max_image_pixels: PositiveInt | None = Field(
        None, description="Of an image's file, by default 20 million; decoding takes 7 bytes for each"
    )


class EngineSettings(Section):
    """Admission and batching of each model; the engine has defaults of its own."""

    max_running: PositiveInt | None = Field(None, description="Requests in a batch")
    max_waiting: NonNegativeInt | None = Field(
        None, description="Requests in the queue; more are refused with 429 or 503"
    )
    max_wait_s: PositiveFloat | None = Field(
        None, description="The longest that a request waits in the queue"
    )
    step_tokens: PositiveInt | None = Field(None, description="Tokens of one step; longer prompts are split")
    speculation: NodeSpeculation | None = Field(
        None,
        description="What guesses an answer's next tokens, several of which are then checked in one step: by "
        "default `auto`, a model's own multi-token head where it has one, and elsewhere `ngram`, what "
        "followed the same tokens earlier in the text; `off`",
    )
    draft_tokens: PositiveInt | None = Field(
        None, le=MOST_DRAFT_TOKENS, description="The most tokens that are guessed of an answer, by default 15"
    )


class RestartSettings(Section):
    """How device workers are watched and restarted."""

    first_delay_s: PositiveFloat = Field(
        0.5, description="Before a worker that ended is started again; it doubles each time"
    )
    max_delay_s: PositiveFloat = Field(30.0, description="To which that delay grows")
    stable_after_s: PositiveFloat = Field(
        10.0, description="A worker that lived this long restarts after the first delay"
    )
    start_timeout_s: PositiveFloat = Field(120.0, description="For a worker to become ready")
    wedged_after_s: PositiveFloat = Field(60.0, description="A worker that is silent this long is replaced")
    rank_timeout_s: PositiveFloat = Field(
        5.0, description="The ranks of a model on several devices wait this long for one of them in a step"
    )
    load_silence_s: PositiveFloat = Field(600.0, description="The same for a worker that loads a model")
    max_reloads: PositiveInt = Field(
        3, description="Attempts to load a model again before it counts as failed"
    )


class StreamSettings(Section):
    """How answers are written."""

    keepalive_s: PositiveFloat = Field(
        10.0, description="After this long without an event, a comment is sent"
    )
    head_wait_s: PositiveFloat = Field(
        30.0, description="An error within this time and before the first token gets its own status"
    )
    max_unread_tokens: PositiveInt = Field(4096, description="A client with more unread tokens is cut off")


class SandboxSettings(Section):
    """The processes in which a stranger's schemas are checked, and what one check may take."""

    processes: PositiveInt = Field(2, description="Checks at a time")
    cpu_s: PositiveInt = Field(
        2, description="CPU time of one check, and up to a second more; one that needs more is a 400"
    )
    memory_mb: PositiveInt = Field(512, description="Memory of one check; one that needs more is a 400")
    wall_s: PositiveFloat = Field(
        30.0, description="A check without an answer for this long, on a busy machine, is a 503"
    )
    max_waiting: PositiveInt = Field(256, description="Checks in the queue; more are refused with 503")


class TemplateSettings(SandboxSettings):
    """The processes in which a stranger's chat templates are compiled and rendered, likewise."""

    cpu_s: PositiveInt = Field(5, description="CPU time of one chat, and up to a second more")
    max_waiting: PositiveInt = Field(1024, description="Chats in the queue; more are refused with 503")
    max_messages: PositiveInt = Field(10_000, description="Of one chat")


class VideoSettings(SandboxSettings):
    """The processes in which video files are read, likewise, and how much of each."""

    processes: PositiveInt = Field(1, description="Files at a time")
    cpu_s: PositiveInt = Field(20, description="CPU time of one file; one that needs more is a 400")
    memory_mb: PositiveInt = Field(1024, description="Memory of one file; one that needs more is a 400")
    wall_s: PositiveFloat = Field(
        60.0, description="A file that is not read for this long, on a busy machine, is a 503"
    )
    max_waiting: PositiveInt = Field(16, description="Files in the queue; more are refused with 503")
    max_frames: PositiveInt = Field(64, description="Of one video; a longer file gives fewer of each second")
    max_pixels: PositiveInt = Field(4096 * 2304, description="Of a frame of a file")


EngineName = Literal["vllm", "sglang", "llama-server"]


class ManagedEngineSettings(Section):
    """An inference server that this node runs as a program of its own for each model."""

    command: list[str] = Field([], description="By default its program on PATH; else the program and words")
    arguments: list[str] = Field([], description="Further ones for each of its models")
    environment: dict[str, str] = Field({}, description="Further variables for each of its models")
    options: list[str] = Field(
        [], description="Options that models may set besides those known as harmless, without dashes"
    )
    max_asleep: NonNegativeInt = Field(
        1, description="Models that sleep in host memory when they make room, where the server can do that"
    )
    max_requests: PositiveInt = Field(
        256, description="Requests of a model at a time; more are refused with 503"
    )
    silence_s: PositiveFloat = Field(
        600.0, description="An answer without a byte for this long ends with an error"
    )
    log_lines: PositiveInt = Field(2000, description="Kept of what each server writes")
    stop_grace_s: PositiveFloat = Field(
        10.0, description="The time that a server has to end before it is killed"
    )


class MembershipSettings(Section):
    """The fleet that this node registers itself with."""

    url: str | None = Field(None, description="cortex's control plane: http://cortex.internal:31315")
    token: Secret | None = Field(None, repr=False, description="Made by `cortex join-token` or in the admin")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="By default this host's name"
    )
    labels: list[str] = Field([], description="What models may require of a node: a100, nvlink …")


class NeuronConfig(Settings, TlsFiles, Http2Settings):
    """Everything `neuron serve` needs to know."""

    model_config = SettingsConfigDict(env_prefix="NEURON_")

    listen: Listen = Field("127.0.0.1:13131", description="HOST:PORT of its API")
    public_url: str | None = Field(
        None, description="How others reach this API; by default made from `listen`"
    )
    token: Secret | None = Field(None, repr=False, description="The secret that clients must send")
    allow_anonymous: bool = Field(False, description="Serve other machines even without a token")
    models_dir: Path | None = Field(
        None, description="A directory that holds a directory for each model, by name"
    )
    events_interval_ms: PositiveInt = Field(
        250, description="The shortest time between two events about load"
    )
    allowed_hosts: list[str] = Field(
        [], description="Names of this host, besides localhost, for its own programs without a token"
    )
    max_body_bytes: PositiveInt = Field(64 * MIB, description="Of a request, decompressed")
    max_held_bytes: PositiveInt = Field(256 * MIB, description="Of all requests until they are answered")
    head_timeout_s: PositiveFloat = Field(20.0, description="For the head of a request to arrive")
    body_timeout_s: PositiveFloat = Field(300.0, description="For the body of a request to arrive")
    max_images: PositiveInt = Field(64, description="Images and videos that one request may have")
    stop_grace_s: PositiveFloat = Field(
        10.0, description="The time that running answers have to end when neuron stops"
    )
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error"
    )
    log_lines: NonNegativeInt = Field(
        1000, le=100_000, description="Last lines of the daemon and its workers that are kept for GET /logs"
    )
    models: list[ModelSettings] = []
    device: DeviceSettings = DeviceSettings()
    engine: EngineSettings = EngineSettings()
    restart: RestartSettings = RestartSettings()
    stream: StreamSettings = StreamSettings()
    sandbox: SandboxSettings = SandboxSettings()
    templates: TemplateSettings = TemplateSettings()
    videos: VideoSettings = VideoSettings()
    engines: dict[EngineName, ManagedEngineSettings] = {}
    join: MembershipSettings = MembershipSettings()
    tracing: TracingSettings = TracingSettings()

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
        """The command-line options of device workers; settings that are not given are left to them."""
        given = self.device.model_dump(exclude_none=True) | self.engine.model_dump(exclude_none=True)
        flags: list[str] = []
        for key, value in given.items():
            flag = f"--{key.replace('_', '-')}"
            if value is not False:
                flags += [flag] if value is True else [flag, str(value)]
        return flags


def load_config(path: Path | None) -> NeuronConfig:
    """The configuration in `path` (None: defaults) and the environment. Raises `ConfigError`."""
    return load(NeuronConfig, path)
