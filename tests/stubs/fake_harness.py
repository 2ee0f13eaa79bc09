"""A harness that keeps an inference server for each model, without any server."""

from __future__ import annotations

import asyncio

from neuron.harness import HarnessContext, HarnessHealth
from neuron.wire import ApiError, Leave, ModelInfo, ModelLoad, ModelSpec


class FakeHarness:
    """Its models are on device 0, whose worker another harness keeps, and are served elsewhere."""

    name = "fake"

    def __init__(self, context: HarnessContext) -> None:
        self._changed = context.changed
        self._models: dict[str, ModelInfo] = {}
        self.left: dict[str, Leave] = {}  # how each model was told to go
        self.reset: list[str] = []
        self.is_running = False

    async def run(self) -> None:
        self.is_running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.is_running = False

    def health(self) -> HarnessHealth:
        return HarnessHealth(devices=[], models=[ModelLoad(id=model, running=3) for model in self._models])

    def list(self) -> list[ModelInfo]:
        return list(self._models.values())

    async def load(self, spec: ModelSpec) -> None:
        source = spec.source or spec.model_id
        if source == "missing":
            raise ApiError(404, "model_not_found", "There is no model 'missing'.", param="source")
        self._models[spec.model_id] = ModelInfo(
            id=spec.model_id, source=source, harness=self.name, state="loaded", devices=[0]
        )
        self._changed(True)

    async def unload(self, model_id: str, leave: Leave) -> None:
        self.left[model_id] = leave
        del self._models[model_id]
        self._changed(True)

    async def read_ahead(self, spec: ModelSpec) -> None: ...

    async def reset_cache(self, model_id: str) -> None:
        self.reset.append(model_id)

    async def restart_device(self, index: int, leave: Leave) -> None:
        raise AssertionError("it keeps no device's worker")

    def endpoint(self, model_id: str) -> str:
        return f"http://127.0.0.1:9/{model_id}"

    def local_model(self, model_id: str) -> None:
        return None

    def relayed_model(self, model_id: str) -> None:
        return None

    def log(self, model_id: str) -> tuple[str, ...]:
        return (f"{model_id} is served",)
