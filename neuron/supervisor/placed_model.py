"""One model of the torch harness, from its placement on a device worker to its unload."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from neuron import pipe
from neuron.config import NeuronConfig
from neuron.generation import Generation
from neuron.models.in_situ import AS_STORED
from neuron.supervisor.device_worker import DeviceWorker
from neuron.text.model_text import ModelText
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
    max_images: int = 0

    async def process_images(self, files: list[bytes]) -> pipe.ImagesProcessed:
        return await self.worker.process_images(self.id, files)

    async def embed(self, inputs: list[list[int]]) -> bytes:
        return await self.worker.embed(self.id, inputs)

    def submit(self, submit: pipe.Submit) -> Generation:
        return self.worker.submit(submit, max_unread=self.max_unread_tokens)


@dataclass(slots=True)
class PlacedModel:
    """A model in whatever state. `path`, `text` and `worker` are known once it is placed."""

    spec: ModelSpec
    state: ModelState = "loading"
    path: Path | None = None
    quant: str | None = None  # how its worker quantizes it
    text: ModelText | None = None
    worker: DeviceWorker | None = None
    loaded: pipe.Loaded | None = None
    warnings: list[str] = field(default_factory=list)
    error: ModelFailure | None = None
    is_resident: bool = False  # was loaded once, so it is loaded again when its worker is replaced
    reloads: int = 0
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # set when loaded, failed or gone
    leaving: Leave | None = None  # set while it waits for its requests before it is unloaded

    @property
    def id(self) -> str:
        return self.spec.model_id

    @property
    def source(self) -> str:
        return self.spec.source or self.spec.model_id

    @property
    def is_busy(self) -> bool:
        """Whether it has requests under way."""
        return self.worker is not None and self.worker.is_busy(self.id)

    @property
    def capabilities(self) -> list[str]:
        if self.loaded and self.loaded.dimensions is not None:
            return ["embeddings"]
        found = list(self.text.capabilities) if self.text else []
        if self.loaded and self.loaded.image_token is not None:
            found.append("vision")
        return found

    def info(self, harness: str) -> ModelInfo:
        loaded = self.loaded
        return ModelInfo(
            id=self.id,
            source=self.source,
            harness=harness,
            state=self.state,
            devices=[self.worker.device.index] if self.worker else [],
            memory_mb=loaded.memory_mb if loaded else None,
            needed_mb=loaded.needed_mb if loaded else None,
            format=loaded.format if loaded else "",
            bits_per_weight=loaded.bits_per_weight if loaded else None,
            context=loaded.context if loaded else None,
            kv_dtype=loaded.kv_dtype if loaded else None,
            progress=self.worker.progress.get(self.id) if self.worker else None,
            capabilities=self.capabilities,
            text=self.text.description if self.text else {},
            warnings=self.warnings,
            error=self.error,
        )

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
            max_images=config.max_images,
        )

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


def not_loaded(model_id: str, param: str = "model") -> ApiError:
    return ApiError(404, "model_not_found", f"The model {model_id!r} is not loaded.", param=param)
