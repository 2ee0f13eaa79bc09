"""One model of the torch harness, from its placement on a device worker to its unload."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cortex_site.base.speculation import SPECULATIONS
from neuron import pipe, sources
from neuron.config import NeuronConfig
from neuron.generation import Generation
from neuron.models.in_situ import AS_STORED
from neuron.models.yes_no_ranker import pair_template
from neuron.supervisor.device_group import DeviceGroup
from neuron.supervisor.device_worker import DeviceWorker
from neuron.text.directory import TextSettings
from neuron.text.model_text import ModelText
from neuron.transfers import TRANSFERS
from neuron.wire import ApiError, Leave, ModelFailure, ModelInfo, ModelSpec, ModelState

RETRY_AFTER_S = 2  # while a model loads or has requests under way


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A loaded model as the inference API sees it; see `neuron.harness.LocalModel`."""

    id: str
    text: ModelText
    context: int
    worker: DeviceWorker
    max_unread_tokens: int
    capabilities: set[str]
    dimensions: int | None = None
    image_token: pipe.ImageToken | None = None
    video_token: pipe.ImageToken | None = None
    max_images: int = 0

    async def process_images(self, files: list[bytes | pipe.VideoFile]) -> pipe.ImagesProcessed:
        return await self.worker.process_images(self.id, files)

    async def embed(
        self, inputs: list[list[int]], *, num_prompt: int = 0, seconds: Sequence[int] = ()
    ) -> bytes:
        return await self.worker.embed(self.id, inputs, num_prompt=num_prompt, seconds=seconds)

    def submit(self, submit: pipe.Submit) -> Generation:
        return self.worker.submit(submit, max_unread=self.max_unread_tokens)


@dataclass(slots=True)
class PlacedModel:
    """A model in whatever state. `path`, `text` and `group` are known once it is placed."""

    spec: ModelSpec
    state: ModelState = "loading"
    path: Path | None = None
    quant: str | None = None  # how its worker quantizes it
    draft: Path | None = None  # of a smaller model that drafts its answers
    text: ModelText | None = None
    group: DeviceGroup | None = None
    base: PlacedModel | None = None  # that it is an adapter for
    parts: Sequence[pipe.Loaded] = ()  # of each rank, once it is loaded
    warnings: list[str] = field(default_factory=list)
    error: ModelFailure | None = None
    is_resident: bool = False  # was loaded once, so it is loaded again when its worker is replaced
    reloads: int = 0
    is_reloading: bool = False
    host_mb: int | None = None  # of a model that is asleep
    load_s: float | None = None  # that it took from disk, the last time
    wake_s: float | None = None  # that it took when it was asleep, the last time
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # set when loaded, failed, asleep or gone
    leaving: Leave | None = None  # set while it waits for its requests before it is unloaded

    @property
    def id(self) -> str:
        return self.spec.model_id

    def text_settings(self, path: Path) -> TextSettings:
        """What is said of its text, by its specification and for want of that by the directory's name."""
        spec = self.spec
        template = pair_template(path) if spec.chat_template is None else spec.chat_template
        return TextSettings(template, spec.tool_format, spec.reasoning_format)

    @property
    def source(self) -> str:
        return self.spec.source or self.spec.model_id

    @property
    def loaded(self) -> pipe.Loaded | None:
        """What rank 0 became, which serves its requests."""
        return self.parts[0] if self.parts else None

    @property
    def worker(self) -> DeviceWorker | None:
        """The one that serves its requests."""
        return self.group.first if self.group else None

    def is_on(self, worker: DeviceWorker) -> bool:
        return self.group is not None and worker in self.group.workers

    @property
    def is_busy(self) -> bool:
        """Whether it has requests under way."""
        return self.worker is not None and self.worker.is_busy(self.id)

    @property
    def capabilities(self) -> list[str]:
        if self.loaded and self.loaded.dimensions is not None:
            return ["rerank" if self.loaded.ranks else "embeddings"]
        found = list(self.text.capabilities) if self.text else []
        if self.loaded and self.loaded.image_token is not None:
            found.append("vision")
        return found

    def info(self, harness: str) -> ModelInfo:
        loaded = self.loaded
        transfer = TRANSFERS.find(self.source) if self.path is None else None
        parts = self.parts if self.host_mb is None else ()
        return ModelInfo(
            id=self.id,
            source=self.source,
            harness=harness,
            base=self.base.id if self.base else None,
            state=self.state,
            devices=self.group.indices if self.group else [],
            memory_mb=sum(part.memory_mb for part in parts) if parts else None,
            device_memory_mb=[part.memory_mb for part in parts],
            host_mb=self.host_mb,
            load_s=self.load_s,
            wake_s=self.wake_s,
            needed_mb=max(part.needed_mb for part in self.parts) * len(self.parts) if self.parts else None,
            format=loaded.format if loaded else "",
            bits_per_weight=loaded.bits_per_weight if loaded else None,
            context=loaded.context if loaded else None,
            kv_dtype=loaded.kv_dtype if loaded else None,
            progress=self.group.progress(self.id) if self.group else None,
            download=transfer.told() if transfer else None,
            memory_parts=_sums(parts),
            capabilities=self.capabilities,
            text=self.text.description if self.text else {},
            warnings=self.warnings,
            error=self.error,
        )

    async def find_files(self, models_dir: Path | None) -> tuple[Path, bool]:
        """Return where its files are, and whether they are an adapter's. Raises `ApiError`."""
        found = await sources.find(self.source, models_dir, self.spec.quant)
        self.path, self.quant, is_adapter = found
        self.draft = await self._find_draft(models_dir)
        return found.path, is_adapter

    async def _find_draft(self, models_dir: Path | None) -> Path | None:
        """Return where the model is that `speculation` names, if it names one. Raises `ApiError`."""
        name = self.spec.speculation
        if name is None or name in SPECULATIONS:
            return None
        try:
            found = await sources.find(name, models_dir)
        except ApiError as error:
            text = (
                f"speculation: {name!r} is none of {', '.join(SPECULATIONS)}, and no model: {error.message}"
            )
            raise ApiError(error.status, error.code, text, param="speculation") from error
        if found.is_adapter:
            text = f"speculation: {name!r} is an adapter, which drafts nothing; name a whole model."
            raise ApiError(422, "model_unsupported", text, param="speculation")
        return found.path

    async def load(self) -> Sequence[pipe.Loaded]:
        """Load it where it is placed. Raises `WorkerLoadError`, and no part is left."""
        assert self.group
        if self.base:
            return await self.group.load_adapter(self.id, str(self.path), self.base.id)
        return await self.group.load(
            *(self.id, str(self.path), self.quant, self.spec.kv_dtype),
            speculation=None if self.draft else self.spec.speculation,
            draft=str(self.draft) if self.draft else None,
        )

    async def prepare(self) -> None:
        """Return when its devices are ready and have nothing of it. Raises `WorkerLoadError`."""
        assert self.group
        await (self.group.wait_ready() if self.base else self.group.prepare(self.id))

    async def unload(self, *, keep: bool = False, priority: int = 0) -> int | None:
        """Drop it where it is placed; see `DeviceGroup.unload`."""
        if self.base and self.group:
            await self.group.unload_adapter(self.id)
            return None
        return await self.group.unload(self.id, keep=keep, priority=priority) if self.group else None

    @property
    def base_id(self) -> str:
        """The name of the model that this adapter is for. Raises `ApiError` 400 when its own has none."""
        base = self.id.rpartition(":")[0]
        if not base:
            message = f"{self.source!r} is an adapter: name it BASE:NAME, after the model that it is for."
            raise ApiError(400, "unnamed_base", message, param="model_id")
        return base

    def stand_on(self, base: PlacedModel | None) -> None:
        """Place an adapter where its model is. Raises `ApiError` 409 when that is not loaded."""
        if base is None or base.state != "loaded" or base.base is not None:
            message = f"{self.id!r} is an adapter; load {self.base_id!r} first, which it is for."
            raise ApiError(409, "base_not_loaded", message, param="model_id")
        self.base, self.text, self.group = base, base.text, base.group

    def local_model(self, config: NeuronConfig) -> TorchModel:
        """The model for the inference API. Raises `ApiError` when it is not loaded."""
        if self.state == "loading":
            message = f"The model {self.id!r} is loading."
            raise ApiError(503, "model_loading", message, retry_after_s=RETRY_AFTER_S)
        if self.state != "loaded":
            raise not_loaded(self.id)
        assert self.text
        assert self.worker
        assert self.loaded
        return TorchModel(
            self.id,
            self.text,
            self.loaded.context,
            self.worker,
            config.stream.max_unread_tokens,
            set(self.capabilities),
            dimensions=self.loaded.dimensions,
            image_token=self.loaded.image_token,
            video_token=self.loaded.video_token,
            max_images=config.max_images,
        )

    def take(self, parts: Sequence[pipe.Loaded]) -> None:
        """Note what each rank says of the model, which has just been loaded or woken."""
        self.parts = parts
        self.host_mb = None
        seconds = max(part.seconds for part in parts)
        if all(part.was_asleep for part in parts):
            self.wake_s = seconds
        else:
            self.load_s = seconds

    def can_wake(self, spec: ModelSpec, workers: Sequence[DeviceWorker]) -> bool:
        """Whether `spec` is of the model that is asleep, and lets it wake where it is."""
        asked, ours = (each.model_dump(exclude={"devices"}) for each in (spec, self.spec))
        return self.group is not None and set(self.group.workers) <= set(workers) and asked == ours

    def require_same(self, spec: ModelSpec) -> None:
        """Raise `ApiError` 409 when `spec` asks for another source or quant under this model's name."""
        if spec.source and spec.source != self.source:
            message = f"{self.id!r} is loaded from {self.source!r}; unload it first."
            raise ApiError(409, "model_exists", message, param="source")
        loaded = self.spec.quant or AS_STORED
        if spec.quant and spec.quant.lower() != loaded.lower():
            message = f"{self.id!r} is loaded with quant {loaded!r}; unload it first."
            raise ApiError(409, "model_exists", message, param="quant")

    def require_loading(self) -> None:
        """Raise `ApiError` 409 when the model was unloaded while it was loading."""
        if self.state != "loading":
            raise ApiError(409, "model_unloaded", f"{self.id!r} was unloaded while it was loading.")


def _sums(parts: Sequence[pipe.Loaded]) -> dict[str, int]:
    """Return what all ranks say that their memory is for, together."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part.memory_parts)
    return dict(total)


def not_loaded(model_id: str, param: str = "model") -> ApiError:
    return ApiError(404, "model_not_found", f"The model {model_id!r} is not loaded.", param=param)
