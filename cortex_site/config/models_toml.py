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
    context: PositiveInt | None = None
    output: PositiveInt | None = None


class Cost(Section):
    """US dollars per million tokens."""

    input: float | None = Field(None, ge=0)
    output: float | None = Field(None, ge=0)
    cache_read: float | None = Field(None, ge=0)


class Profile(Section):
    """A model as the operator describes it: source, needs, placement."""

    id: str = Field(min_length=1)
    source: str | None = Field(None, description="Directory or hub id; default: the id")
    harness: str = TORCH
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
    vram_mb: NonNegativeInt | None = None
    tensor_parallel: PositiveInt | None = Field(
        None, description="Split over so many devices of a node; default: as few as have the memory for it"
    )
    min_devices: PositiveInt = 1
    min_device_vram_mb: NonNegativeInt | None = None
    labels: list[Label] = Field([], description="Required of a node, all of them")
    pinned_on: list[str] = []
    pinned: bool = False
    residency_priority: int | None = Field(None, description="Default 100, or 1000 with pinned_on")
    ttl_s: PositiveInt | None = Field(None, description="Unload after this time without a request")
    min_residency_s: NonNegativeInt = 0
    replicas: PositiveInt = 1
    limit: Limit | None = None
    cost: Cost | None = None
    capabilities: list[str] = []

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
    aliases: dict[str, str] = {}

    @property
    def profiles(self) -> list[Profile]:
        """The models; of several with one id the first."""
        return list({profile.id: profile for profile in reversed(self.models)}.values())[::-1]

    @property
    def other_names(self) -> dict[str, str]:
        """The aliases that are no model's id."""
        ids = {profile.id for profile in self.models}
        return {name: target for name, target in self.aliases.items() if name not in ids}
