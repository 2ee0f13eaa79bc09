"""Writes what a node reports into `Node`, `Device` and `Placement`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from fleet.foreign.models import ServedModel
from fleet.models import Device, Node, Operation, Placement
from fleet.operations import ACTIVE, OperationKind
from fleet.plausibility import MAX_WARNINGS, examine
from neuron.wire import DeviceHealth, DeviceInfo, Discovery, Health, ModelInfo, ModelLoad

log = logging.getLogger("cortex.poll")

LARGEST = 2**31 - 1  # of a database integer


@transaction.atomic
def write(node: Node, health: Health, models: list[ModelInfo], discovery: Discovery | None) -> None:
    """Write the answers of a neuron in one transaction."""
    now = timezone.now()
    if not node.healthy:
        log.info("node is healthy", extra={"node": node.name})
    devices = {device.index: device for device in Device.objects.filter(node=node)}
    checked = examine(health, models, _totals(devices, discovery))
    _tell_new(node, checked.warnings)
    health = checked.health
    models = checked.models
    Node.objects.filter(pk=node.pk).update(
        healthy=True,
        status=health.status[:10],
        reason="",
        warnings=list(checked.warnings),
        misses=0,
        last_seen_at=now,
        pid=_count(health.pid),
        rss_mb=_count(health.rss_mb),
        **(_host(discovery) if discovery else {}),
    )
    _devices(node, devices, health, discovery)
    _placements(node, models, {load.id: load for load in health.models}, now)


@transaction.atomic
def write_served(node: Node, served: list[ServedModel]) -> None:
    """Write the models that another server lists, as loaded there."""
    now = timezone.now()
    if not node.healthy:
        log.info("node is healthy", extra={"node": node.name})
    warnings = _unlisted(node, served)
    _tell_new(node, warnings)
    Node.objects.filter(pk=node.pk).update(
        healthy=True, status="ok", reason="", warnings=warnings, misses=0, last_seen_at=now
    )
    Device.objects.filter(node=node).delete()  # it may have been a neuron before
    rows = {row.model: row for row in Placement.objects.filter(node=node)}
    for model in served:
        row = rows.pop(model.id, None) or Placement(node=node, model=model.id)
        listed = {
            "state": Placement.State.LOADED,
            "context": model.context,
            "capabilities": list(model.capabilities),
        }
        if row.pk and all(getattr(row, name) == value for name, value in listed.items()):
            continue  # a cloud lists the same hundreds every few seconds
        if row.state != Placement.State.LOADED:
            row.changed_at = now
        for name, value in listed.items():
            setattr(row, name, value)
        row.save()
    gone = [row.pk for row in rows.values() if row.state != Placement.State.UNLOADED]
    if gone:
        Placement.objects.filter(pk__in=gone).update(state=Placement.State.UNLOADED, changed_at=now)


def _unlisted(node: Node, served: list[ServedModel]) -> list[str]:
    """A warning for each model that the operator names and the server does not list."""
    there = {model.id for model in served}
    gone = [(ours, own) for ours, own in node.model_names.items() if ours not in there]
    return [f"{ours!r}: the server lists no {own!r}" for ours, own in gone][:MAX_WARNINGS]


def _totals(devices: dict[int, Device], discovery: Discovery | None) -> dict[int, int]:
    """The memory of a node's devices by index, MiB, as it reports now or reported last."""
    if discovery:
        return {info.index: info.memory_total_mb for info in discovery.devices}
    return {index: device.memory_total_mb for index, device in devices.items()}


def _tell_new(node: Node, warnings: Sequence[str]) -> None:
    for warning in set(warnings) - set(node.warnings):
        log.warning("node says what cannot be", extra={"node": node.name, "what": warning})


def _host(discovery: Discovery) -> dict[str, Any]:
    return {
        "protocol": discovery.protocol,
        "version": discovery.version[:100],
        "hostname": discovery.hostname[:255],
        "os": f"{discovery.os} {discovery.kernel}"[:255],
        "cuda_version": (discovery.cuda_version or "")[:50],
        "driver_version": (discovery.driver_version or "")[:50],
        "harnesses": discovery.harnesses,
    }


def _devices(node: Node, rows: dict[int, Device], health: Health, discovery: Discovery | None) -> None:
    infos = {info.index: info for info in discovery.devices} if discovery else {}
    for now in health.devices:
        row = rows.pop(now.index, None) or Device(node=node, index=now.index)
        if info := infos.get(now.index):
            _identify(row, info)
        _measure(row, now)
        # not `claimed_by`: an operation may have claimed the device meanwhile
        row.save(update_fields=OBSERVED if row.pk else None)
    Device.objects.filter(pk__in=[gone.pk for gone in rows.values()]).delete()


def _identify(row: Device, info: DeviceInfo) -> None:
    row.name = info.name[:200]
    row.kind = info.kind[:10]
    row.compute_capability = (info.compute_capability or "")[:20]
    row.memory_total_mb = _count(info.memory_total_mb)


def _measure(row: Device, now: DeviceHealth) -> None:
    row.state = now.state[:20]
    row.worker = now.worker[:50]
    row.reason = now.reason or ""
    row.pid = _count(now.pid)
    row.rss_mb = _count(now.rss_mb)
    row.memory_used_mb = _count(now.memory_used_mb)
    row.memory_free_mb = _count(now.memory_free_mb)
    row.fragmented_mb = _count(now.fragmented_mb)
    row.utilization_pct = _count(now.utilization_pct)
    row.temperature_c = now.temperature_c
    row.cycles = _count(now.cycles)
    row.restarts = _count(now.restarts)


_fields = Device._meta.concrete_fields  # noqa: SLF001 - public in spite of its name
OBSERVED = [field.name for field in _fields if field.name not in {"id", "node", "claimed_by"}]


def _placements(node: Node, models: list[ModelInfo], loads: dict[str, ModelLoad], now: datetime) -> None:
    rows = {row.model: row for row in Placement.objects.filter(node=node)}
    for info in models:
        row = rows.pop(info.id, None) or Placement(node=node, model=info.id)
        copy_info(row, info, now)
        load = loads.get(info.id)
        row.running = _count(load.running) if load else 0
        row.waiting = _count(load.waiting) if load else 0
        if row.is_busy:
            row.last_used_at = now
        row.save()
    gone = [row.pk for row in rows.values() if row.state != Placement.State.UNLOADED]
    if gone:
        # A load whose node was chosen just now is not on the node yet; its operation keeps the placement.
        arriving = Operation.objects.filter(kind=OperationKind.LOAD, node=node.name, state__in=ACTIVE)
        Placement.objects.filter(pk__in=gone).exclude(model__in=arriving.values("model")).update(
            state=Placement.State.UNLOADED, changed_at=now, progress=None, running=0, waiting=0
        )


def copy_info(row: Placement, info: ModelInfo, now: datetime) -> None:
    """Copy what a node reports of a model into `row`, which is not saved."""
    if row.state != info.state:
        row.state = info.state
        row.changed_at = now
    row.source = info.source[:500]
    if info.memory_mb or info.devices != row.devices:
        row.device_memory_mb = [_count(each) for each in info.device_memory_mb]
    row.devices = info.devices
    row.memory_mb = _count(info.memory_mb) or row.memory_mb
    if info.memory_parts:
        row.memory_parts = {name[:20]: _count(mb) for name, mb in info.memory_parts.items()}
    row.host_mb = _count(info.host_mb)
    row.load_s = _seconds(info.load_s) or row.load_s
    row.wake_s = _seconds(info.wake_s) or row.wake_s
    row.format = info.format[:50]
    row.bits_per_weight = info.bits_per_weight
    row.context = _count(info.context)
    row.capabilities = info.capabilities
    if info.text:  # not in events
        row.text = info.text | ({"warnings": "; ".join(info.warnings)} if info.warnings else {})
    row.progress = info.progress
    row.error_code = info.error.code[:100] if info.error else ""
    row.error_message = info.error.message if info.error else ""


def _seconds(value: float | None) -> float | None:
    """The time, unless it is none."""
    return value if value is not None and 0 <= value < LARGEST else None


def _count(value: int | None) -> int | None:
    """The count, clamped to the range of a database column."""
    if value is None:
        return None
    return max(0, min(value, LARGEST))
