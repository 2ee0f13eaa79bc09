"""The models of this node and the verbs on them, whichever harness runs them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from neuron.config import ModelSettings
from neuron.harness import Harness, HarnessHealth, LocalModel, RelayedModel
from neuron.wire import ApiError, DeviceHealth, Leave, ModelInfo, ModelSpec

log = logging.getLogger("neuron.registry")

NOW = Leave()
MAX_NAME_CHARS = 200  # of a model that is asked for, in an error


class Registry:
    """Finds the harness of a model or device, and carries out one call per verb and model at a time.

    Callers that ask for the same share one call and its outcome; it continues when they disconnect.
    """

    def __init__(self, harnesses: Iterable[Harness]) -> None:
        self._harnesses = {harness.name: harness for harness in harnesses}
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}  # by verb and model or device

    @property
    def harnesses(self) -> list[str]:
        return sorted(self._harnesses)

    async def run(self) -> None:
        """Run all harnesses until cancelled; then nothing that was started is left."""
        try:
            async with asyncio.TaskGroup() as group:
                for name, harness in self._harnesses.items():
                    group.create_task(harness.run(), name=f"harness {name}")
        finally:
            for work in self._under_way.values():
                work.cancel()

    # --- verbs ----------------------------------------------------------------------------------------

    async def load_all(self, models: Sequence[ModelSettings]) -> None:
        """Load the configured models, one after the other; failures stay visible in `list`."""
        for model in models:
            spec = ModelSpec(
                model_id=model.id,
                source=model.source,
                harness=model.harness,
                quant=model.quant,
                devices=model.devices,
                tensor_parallel=model.tensor_parallel,
                memory_mb=model.memory_mb,
                options=model.options,
                tool_format=model.tool_format,
                reasoning_format=model.reasoning_format,
                chat_template=model.chat_template,
                kv_dtype=model.kv_dtype,
                speculation=model.speculation,
            )
            with contextlib.suppress(ApiError):  # logged, and kept with the model
                await self.load(spec)

    async def load(self, spec: ModelSpec) -> None:
        """Return when the model is loaded. Raises `ApiError`."""
        harness = self._harness(spec)
        await self._carry_out("load", spec.model_id, lambda: harness.load(spec))

    def _harness(self, spec: ModelSpec) -> Harness:
        """The harness that a spec asks for. Raises `ApiError` 400."""
        harness = self._harnesses.get(spec.harness)
        if harness is None:
            message = f"There is no harness {spec.harness!r}; this neuron has: {', '.join(self.harnesses)}."
            raise ApiError(400, "unknown_harness", message, param="harness")
        return harness

    async def read_ahead(self, spec: ModelSpec) -> None:
        """Read the files of a model that will soon be loaded. Raises `ApiError`."""
        await self._harness(spec).read_ahead(spec)

    async def unload(self, model_id: str, leave: Leave = NOW) -> None:
        """Return when the model's memory is free. Raises `ApiError`, 409 when it stays for its requests."""
        harness = self._owner(model_id, param="model_id")
        verb = "unload now" if leave.force else "unload"
        await self._carry_out(verb, model_id, lambda: harness.unload(model_id, leave))

    async def reset_cache(self, model_id: str) -> None:
        """Forget what the model's cache keeps of requests that ended. Raises `ApiError`."""
        await self._owner(model_id, param="model_id").reset_cache(model_id)

    async def drain_device(self, index: int, leave: Leave = NOW) -> None:
        """Unload every model on a device, whichever harness runs it.

        Raises `ApiError`, 409 when a model stays for its requests.
        """
        self._keeper(index)
        await self._carry_out("drain", f"device {index}", lambda: self._drain(index, leave))

    async def _drain(self, index: int, leave: Leave) -> None:
        residents = [
            (harness, model.id)
            for harness in self._harnesses.values()
            for model in harness.list()
            if index in model.devices
        ]
        await asyncio.gather(*(harness.unload(model_id, leave) for harness, model_id in residents))

    async def restart_device(self, index: int, leave: Leave = NOW) -> None:
        """Replace the device's worker and load its models again.

        Raises `ApiError`, 409 when a model stays for its requests.
        """
        keeper = self._keeper(index)
        await self._carry_out("restart", f"device {index}", lambda: keeper.restart_device(index, leave))

    async def _carry_out(self, verb: str, what: str, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        work = self._under_way.get((verb, what))
        if work is None:
            work = asyncio.create_task(start(), name=f"{verb} {what}")
            self._under_way[verb, what] = work
            work.add_done_callback(lambda done: self._end(verb, what, done))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():  # not this request, but the work
                raise ApiError(503, "shutting_down", "This neuron is stopping.") from None
            raise

    def _end(self, verb: str, what: str, work: asyncio.Task[None]) -> None:
        del self._under_way[verb, what]
        if not work.cancelled() and (error := work.exception()):  # perhaps nobody waits for it any more
            log.warning("%s failed", verb, extra={"model": what, "reason": str(error)})

    # --- state ----------------------------------------------------------------------------------------

    def list(self) -> list[ModelInfo]:
        return [model for harness in self._harnesses.values() for model in harness.list()]

    def model(self, model_id: str) -> ModelInfo:
        """The model of that name, in whatever state. Raises `ApiError` 404."""
        found = self._owner(model_id, param="model_id").list()
        return next(model for model in found if model.id == model_id)

    def health(self) -> HarnessHealth:
        reports = [harness.health() for harness in self._harnesses.values()]
        held = self._held_mb()
        return HarnessHealth(
            devices=[_beside(device, held[device.index]) for report in reports for device in report.devices],
            models=[model for report in reports for model in report.models],
        )

    def _held_mb(self) -> Counter[int]:
        """What models take of each device beside its worker's, MiB."""
        held: Counter[int] = Counter()
        for harness in self._harnesses.values():
            if not harness.health().devices:
                for model in harness.list():
                    held.update(dict(zip(model.devices, model.device_memory_mb, strict=False)))
        return held

    def endpoint(self, model_id: str) -> str:
        """The URL under which the model answers OpenAI's API. Raises `ApiError`."""
        return self._owner(model_id).endpoint(model_id)

    def local_model(self, model_id: str) -> LocalModel:
        """The loaded model of that name, to generate with. Raises `ApiError`."""
        harness = self._owner(model_id)
        model = harness.local_model(model_id)
        if model is None:
            message = f"{model_id!r} is served at {harness.endpoint(model_id)}, not here."
            raise ApiError(404, "model_not_found", message, param="model")
        return model

    @property
    def has_relayed(self) -> bool:
        """Whether there are harnesses beside the one that keeps the devices."""
        return len(self._harnesses) > 1

    def relayed_model(self, model_id: str) -> RelayedModel | None:
        """The model to relay requests to; None where no other server answers for it. Raises `ApiError`."""
        for harness in self._harnesses.values():
            if any(model.id == model_id for model in harness.list()):
                return harness.relayed_model(model_id)
        return None

    def log(self, model_id: str) -> Sequence[str]:
        """The last lines of the model's own server. Raises `ApiError` 404."""
        return self._owner(model_id, param="model_id").log(model_id)

    def _owner(self, model_id: str, param: str = "model") -> Harness:
        """The harness that runs the model. Raises `ApiError` 404."""
        for harness in self._harnesses.values():
            if any(model.id == model_id for model in harness.list()):
                return harness
        known = ", ".join(repr(model.id) for model in self.list()) or "none"
        message = f"The model {model_id[:MAX_NAME_CHARS]!r} is not loaded; loaded here: {known}."
        raise ApiError(404, "model_not_found", message, param=param)

    def _keeper(self, index: int) -> Harness:
        """The harness that keeps the device's worker. Raises `ApiError` 404."""
        for harness in self._harnesses.values():
            if any(device.index == index for device in harness.health().devices):
                return harness
        raise ApiError(404, "unknown_device", f"There is no device {index}.", param="index")


def _beside(device: DeviceHealth, held_mb: int) -> DeviceHealth:
    """The device as its worker sees it, less what the models of other harnesses take."""
    free_mb = max(0, device.memory_free_mb - held_mb)
    used_mb = device.memory_used_mb + held_mb
    return device.model_copy(update={"memory_used_mb": used_mb, "memory_free_mb": free_mb})
