"""`models.toml`: what may be loaded, where, and under which other names."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_settings import SettingsConfigDict

from cortex_site.base.answer_formats import ReasoningFormat, ToolFormat
from cortex_site.base.kv_dtype import KVDtype
from cortex_site.base.settings_file import Section, Settings
from cortex_site.config.cortex_toml import Label

# Residency: of two models that could make room, the one with the lower priority goes.
DEFAULT_PRIORITY = 100
PINNED_PRIORITY = 1000
TORCH = "torch"  # the harness of neuron's own engine


class Limit(Section):
    context: PositiveInt | None = Field(
        None, description="Most tokens of a prompt and its answer; default: what nodes report"
    )
    output: PositiveInt | None = Field(None, description="Most tokens of an answer, as /v1/models tells")


class Cost(Section):
    """US dollars per million tokens."""

    input: float | None = Field(None, ge=0, description="Of prompts")
    output: float | None = Field(None, ge=0, description="Of answers")
    cache_read: float | None = Field(
        None, ge=0, description="Of prompts' parts that were cached; default: as input"
    )


class Profile(Section):
    """A model as the operator describes it: source, needs, placement."""

    id: str = Field(min_length=1, description="The name that clients ask for")
    source: str | None = Field(None, description="Directory or hub id; default: the id")
    harness: str = Field(TORCH, description="The engine that runs it: torch is neuron's own")
    base: str | None = Field(
        None, description="The model that it is a LoRA adapter for; its id is then BASE:NAME"
    )
    quant: str | None = Field(
        None, description="How its weights are quantized, or which of its files; default: as they are stored"
    )
    kv_dtype: KVDtype | None = Field(
        None, description="Of cached keys and values: `auto`, `fp8` or `int8`; default: the node's own"
    )
    speculation: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="What drafts its answers: `auto`, `mtp`, `ngram`, `off`, or a smaller model of the same "
        "vocabulary, by hub id or a directory of the node; default: the node's own",
    )
    chat_template: str | None = Field(
        None, description="A template, or the path of one on the node, from the model's directory on"
    )
    tool_format: ToolFormat | None = Field(None, description="Its notation of calls; default: probed")
    reasoning_format: ReasoningFormat | None = Field(
        None, description="The marker that opens its thoughts, or `none`; default: probed"
    )
    options: dict[str, str | int | float | bool] = Field(
        {}, description="Of a managed engine (vllm, sglang, llama-server): options of its command line"
    )
    vram_mb: NonNegativeInt | None = Field(
        None, description="What it takes, in MiB: an estimate until the first load has measured it"
    )
    tensor_parallel: PositiveInt | None = Field(
        None, description="Split over so many devices of a node; default: as few as have the memory for it"
    )
    min_devices: PositiveInt = Field(1, description="Devices that a node needs for it at least")
    min_device_vram_mb: NonNegativeInt | None = Field(
        None, description="MiB that each of those devices has at least"
    )
    labels: list[Label] = Field([], description="Required of a node, all of them")
    pinned_on: list[str] = Field([], description="Nodes that keep it loaded")
    pinned: bool = Field(False, description="Never evict it once it is loaded")
    residency_priority: int | None = Field(None, description="Default 100, or 1000 with pinned_on")
    ttl_s: PositiveInt | None = Field(None, description="Unload after this time without a request")
    min_residency_s: NonNegativeInt = Field(0, description="Evict it no sooner after a load")
    replicas: PositiveInt = Field(
        1, description="Keep it loaded on so many nodes; of 1, it is loaded when it is asked for"
    )
    limit: Limit | None = None
    cost: Cost | None = None
    capabilities: list[str] = Field(
        [], description="chat, tools, reasoning, vision, embeddings …; default: what nodes report"
    )

    @model_validator(mode="after")
    def _is_named_after_its_base(self) -> Self:
        if self.base and not self.id.startswith(f"{self.base}:"):
            raise ValueError(f"id: an adapter for {self.base!r} is named {self.base}:NAME, not {self.id!r}")
        return self

    @property
    def priority(self) -> int:
        if self.residency_priority is not None:
            return self.residency_priority
        return PINNED_PRIORITY if self.pinned_on else DEFAULT_PRIORITY


class Catalogue(Settings):
    """`models.toml`."""

    model_config = SettingsConfigDict(env_prefix="CORTEX_MODELS_")

    models: list[Profile] = []
    aliases: dict[str, str] = Field(
        {}, description="Other names that clients may ask for, each with its model"
    )

    @property
    def profiles(self) -> list[Profile]:
        """The models; of several with one id the first."""
        return list({profile.id: profile for profile in reversed(self.models)}.values())[::-1]

    @property
    def other_names(self) -> dict[str, str]:
        """The aliases that are no model's id."""
        ids = {profile.id for profile in self.models}
        return {name: target for name, target in self.aliases.items() if name not in ids}
