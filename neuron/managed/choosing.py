"""What a load of a managed engine is of: devices of this host, and files in a form that the engine reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from neuron import sources
from neuron.harness import HostMemory
from neuron.managed.engine import Engine
from neuron.wire import ApiError, DeviceInfo, ModelSpec


def chosen_devices(
    spec: ModelSpec, devices: Sequence[DeviceInfo], memory: HostMemory
) -> Sequence[DeviceInfo]:
    """The devices that the spec names, or those with the most free memory. Raises `ApiError` 400."""
    known = {device.index: device for device in devices}
    wanted = spec.tensor_parallel or len(spec.devices or [0])
    named = spec.devices
    if named is None:
        free_mb = memory.free_mb()
        named = sorted(known, key=lambda index: -free_mb.get(index, 0))[:wanted]
    if unknown := [index for index in named if index not in known]:
        message = f"There is no device {unknown[0]}; this neuron has {sorted(known)}."
        raise ApiError(400, "unknown_device", message, param="devices")
    if len(set(named)) != wanted:
        message = f"devices names {len(set(named))}; the model is split over {wanted}."
        raise ApiError(400, "unsupported_parameter", message, param="devices")
    return [known[index] for index in sorted(named)]


async def found_files(spec: ModelSpec, engine: Engine, models_dir: Path | None) -> Path:
    """Where the model's files are, downloaded if only the hub has them. Raises `ApiError`."""
    wants_file = engine.files == "gguf"
    source = spec.source or spec.model_id
    path, *_ = await sources.find(source, models_dir, spec.quant if wants_file else None)
    if wants_file and not path.is_file():
        message = f"{source!r} has no GGUF file, which is all that {engine.name} runs."
        raise ApiError(422, "model_unsupported", message, param="source")
    return path
