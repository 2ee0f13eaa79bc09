"""Which device worker gets a model: one that its spec allows, with the most memory free."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from operator import itemgetter

from cortex_site.base.kv_dtype import KV_DTYPES
from neuron.supervisor.device_worker import DeviceWorker
from neuron.supervisor.pending import WorkerLoadError
from neuron.text.directory import reasoning_formats
from neuron.text.notations.known import NOTATIONS
from neuron.wire import ApiError, ModelSpec


def allowed_workers(spec: ModelSpec, workers: Sequence[DeviceWorker]) -> Sequence[DeviceWorker]:
    """The workers that may get the model. Raises `ApiError` 400 for a spec that none can follow."""
    _require_known("tool_format", spec.tool_format, NOTATIONS)
    _require_known("kv_dtype", spec.kv_dtype, KV_DTYPES)
    _require_known("reasoning_format", spec.reasoning_format, reasoning_formats())
    if spec.devices is None:
        return workers
    known = {worker.device.index: worker for worker in workers}
    if len(spec.devices) != 1:
        message = f"devices must name one device; a model runs on one of {sorted(known)}."
        raise ApiError(400, "unsupported_parameter", message, param="devices")
    if unknown := [index for index in spec.devices if index not in known]:
        message = f"There is no device {unknown[0]}; this neuron has {sorted(known)}."
        raise ApiError(400, "unknown_device", message, param="devices")
    return [known[index] for index in spec.devices]


def _require_known(param: str, name: str | None, known: Collection[str]) -> None:
    if name not in {None, *known}:
        message = f"{param}: {name!r} is none of {', '.join(known)}."
        raise ApiError(400, "invalid_request_body", message, param=param)


async def freest(workers: Sequence[DeviceWorker]) -> DeviceWorker:
    """The worker with the most memory free, once it is ready. Raises `ApiError` 503."""
    alive = [worker for worker in workers if worker.state != "failed"]
    if not alive:
        reasons = "; ".join(f"{worker.name}: {worker.reason}" for worker in workers)
        raise ApiError(503, "device_failed", f"No device can be used ({reasons}).")
    free_mb = await asyncio.gather(*map(_free_mb, alive))
    best = max(zip(free_mb, alive, strict=True), key=itemgetter(0))[1]
    try:
        await best.wait_ready()
    except WorkerLoadError as error:
        raise ApiError(503, error.code, error.message) from error
    return best


async def _free_mb(worker: DeviceWorker) -> int:
    """The free memory as it is now, in MiB; -1 when the worker cannot say."""
    if worker.state != "ready":
        return -1
    try:
        return (await worker.memory()).free_mb
    except ApiError:
        return -1
