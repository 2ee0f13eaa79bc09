"""Which device workers get a model: such as its spec allows, with the most memory free.

Groups that share a device must have the same rank 0, which steps them one after the other. Otherwise each of
two ranks could wait in one group for the other, which waits for it in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import combinations
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
    if (count := num_devices(spec)) > len(workers):
        message = f"tensor_parallel is {count}, but this neuron has {len(workers)} devices."
        raise ApiError(400, "unsupported_parameter", message, param="tensor_parallel")
    if spec.devices is None:
        return workers
    known = {worker.device.index: worker for worker in workers}
    if not spec.devices or len(set(spec.devices)) != count or len(spec.devices) != count:
        message = f"devices must name as many as tensor_parallel says, {count} of {sorted(known)}."
        raise ApiError(400, "unsupported_parameter", message, param="devices")
    if unknown := [index for index in spec.devices if index not in known]:
        message = f"There is no device {unknown[0]}; this neuron has {sorted(known)}."
        raise ApiError(400, "unknown_device", message, param="devices")
    return [known[index] for index in spec.devices]


def _require_known(param: str, name: str | None, known: Collection[str]) -> None:
    if name not in {None, *known}:
        message = f"{param}: {name!r} is none of {', '.join(known)}."
        raise ApiError(400, "invalid_request_body", message, param=param)


def num_devices(spec: ModelSpec) -> int:
    """How many devices a model is for."""
    return spec.tensor_parallel or max(1, len(spec.devices or ()))


async def freest(
    workers: Sequence[DeviceWorker], count: int, groups: Sequence[Sequence[DeviceWorker]]
) -> list[DeviceWorker]:
    """The workers with the most memory free that can be a group beside others, by device.

    Raises `ApiError`: 503 when too few can be used, 409 when other groups are in the way.
    """
    alive = [worker for worker in workers if worker.state != "failed"]
    if len(alive) < count:
        reasons = "; ".join(f"{worker.name}: {worker.reason}" for worker in workers if worker not in alive)
        raise ApiError(503, "device_failed", f"Too few devices can be used ({reasons}).")
    ranked = alive if len(alive) == count else await _by_free_memory(alive)
    for chosen in combinations(ranked, count):
        by_device = sorted(chosen, key=lambda worker: worker.device.index)
        if all(_fits(by_device, group) for group in groups):
            return by_device
    message = "The devices are in groups of other models that have another first device; unload those first."
    raise ApiError(409, "device_busy", message, param="devices")


async def _by_free_memory(workers: Sequence[DeviceWorker]) -> list[DeviceWorker]:
    free_mb = await asyncio.gather(*map(_free_mb, workers))
    pairs = sorted(zip(free_mb, workers, strict=True), key=itemgetter(0), reverse=True)
    return [worker for _, worker in pairs]


def _fits(group: Sequence[DeviceWorker], other: Sequence[DeviceWorker]) -> bool:
    return min(len(group), len(other)) == 1 or group[0] is other[0] or not set(group) & set(other)


async def ready(workers: Sequence[DeviceWorker]) -> None:
    """Return once all are ready. Raises `ApiError` 503."""
    try:
        for worker in workers:
            await worker.wait_ready()
    except WorkerLoadError as error:
        raise ApiError(503, error.code, error.message) from error


async def _free_mb(worker: DeviceWorker) -> int:
    """The free memory as it is now, in MiB; -1 when the worker cannot say."""
    if worker.state != "ready":
        return -1
    try:
        return (await worker.memory()).free_mb
    except ApiError:
        return -1
