"""What a neuron says of itself, brought into what can be. Pure.

A node may be of another version, or broken. What it says beyond the possible is not believed: the corrected
values are those by which it gets least, and each correction is a warning for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from neuron.wire import DeviceHealth, DeviceState, Health, ModelFailure, ModelInfo, ModelLoad, ModelState

MAX_WARNINGS = 20  # of one node
TOLERANCE = 1.01  # counters of one moment are read one after the other
MOST_BITS = 64.0  # of a weight

MODEL_STATES = frozenset(get_args(ModelState))
DEVICE_STATES = frozenset(get_args(DeviceState))
NODE_STATES = frozenset({"ok", "degraded", "failed"})


@dataclass(frozen=True, slots=True)
class Examined:
    """What remains of a node's words, and what was wrong with them."""

    health: Health
    models: list[ModelInfo]
    warnings: tuple[str, ...]


def examine(health: Health, models: Sequence[ModelInfo], totals: Mapping[int, int]) -> Examined:
    """`totals` are the devices' memories, MiB, by index, as discovered."""
    warnings: list[str] = []
    devices = [_device(device, totals.get(device.index, 0), warnings) for device in health.devices]
    known = [_model(info, totals, warnings) for info in models]
    for index, total in totals.items():
        resident = sum(_share(info, index) for info in known if index in info.devices)
        if resident > max(0, total) * TOLERANCE:
            warnings.append(f"device {index}: models of {round(resident)} MiB in {total} MiB")
    loads = [_load(load, warnings) for load in health.models]
    if health.status not in NODE_STATES:
        warnings.append(f"status {_quoted(health.status)} is unknown")
    believed = health.model_copy(update={"devices": devices, "models": loads})
    return Examined(believed, known, tuple(warnings[:MAX_WARNINGS]))


def _device(device: DeviceHealth, total: int, warnings: list[str]) -> DeviceHealth:
    name, used, free = f"device {device.index}", device.memory_used_mb, device.memory_free_mb
    if device.state not in DEVICE_STATES:
        warnings.append(f"{name}: state {_quoted(device.state)} is unknown")
    if total <= 0:
        warnings.append(f"{name}: {total} MiB of memory in all")
    elif used < 0 or free < 0:
        warnings.append(f"{name}: {used} MiB used and {free} MiB free")
    elif used + free > total * TOLERANCE:
        warnings.append(f"{name}: {used} MiB used and {free} MiB free of {total} MiB")
    total = max(0, total)
    used = min(max(0, used), total)
    return device.model_copy(
        update={"memory_used_mb": used, "memory_free_mb": min(max(0, free), total - used)}
    )


def _model(info: ModelInfo, totals: Mapping[int, int], warnings: list[str]) -> ModelInfo:
    changes: dict[str, object] = {}
    name = _quoted(info.id)
    if info.state not in MODEL_STATES:
        warnings.append(f"{name}: state {_quoted(info.state)} is unknown")
        reason = f"the node says {_quoted(info.state)}, which this cortex does not know"
        changes |= {"state": "failed", "error": ModelFailure(code="unknown_state", message=reason)}
    if strange := [index for index in info.devices if index not in totals]:
        warnings.append(f"{name}: on device {strange[0]}, which the node does not have")
        changes["devices"] = [index for index in info.devices if index in totals]
    room = sum(max(0, totals[index]) for index in info.devices if index in totals)
    if info.memory_mb is not None and not 0 <= info.memory_mb <= max(room, 0) * TOLERANCE:
        warnings.append(f"{name}: takes {info.memory_mb} MiB of {room} MiB")
        changes["memory_mb"] = min(max(0, info.memory_mb), room)
    if info.device_memory_mb and (share := _strange_share(info, totals)):
        warnings.append(f"{name}: {share}")
        changes["device_memory_mb"] = []
    if info.bits_per_weight is not None and not 0 < info.bits_per_weight <= MOST_BITS:
        warnings.append(f"{name}: {info.bits_per_weight} bits per weight")
        changes["bits_per_weight"] = None
    return info.model_copy(update=changes) if changes else info


def _load(load: ModelLoad, warnings: list[str]) -> ModelLoad:
    if load.running >= 0 and load.waiting >= 0:
        return load
    warnings.append(f"{_quoted(load.id)}: {load.running} requests running and {load.waiting} waiting")
    return load.model_copy(update={"running": max(0, load.running), "waiting": max(0, load.waiting)})


def _strange_share(info: ModelInfo, totals: Mapping[int, int]) -> str:
    """What is wrong with the memory that it takes of each device; empty if nothing is."""
    if len(info.device_memory_mb) != len(info.devices):
        return f"takes memory of {len(info.device_memory_mb)} devices, and is on {len(info.devices)}"
    for index, mb in zip(info.devices, info.device_memory_mb, strict=True):
        if not 0 <= mb <= max(0, totals.get(index, 0)) * TOLERANCE:
            return f"takes {mb} MiB of device {index}"
    return ""


def _share(info: ModelInfo, index: int) -> float:
    """MiB on one of its devices."""
    if info.device_memory_mb:
        return info.device_memory_mb[info.devices.index(index)]
    return (info.memory_mb or 0) / len(info.devices)


def _quoted(text: str) -> str:
    return repr(text[:50])
