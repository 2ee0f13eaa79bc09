"""Asks for defragmentations: new workers for devices whose memory is in pieces."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from django.utils import timezone

from cortex_site.config import current
from cortex_site.config.cortex_toml import CortexConfig, LifecycleSettings
from fleet.models import Device, Node, Operation, Placement
from fleet.operations import ACTIVE, RULES
from fleet.services import lifecycle

_DISRUPTIVE = [kind for kind, rules in RULES.items() if "model" not in rules.asked]  # of a node or a device


def defragment() -> int:
    """Ask for the defragmentation of every device that is due and may be restarted; how many there were."""
    config = current()
    now = timezone.now()
    devices = Device.objects.filter(
        state="ready", claimed_by=None, node__healthy=True, node__kind=Node.Kind.NEURON
    )
    due = [
        (device, reason)
        for device in devices.select_related("node")
        if (reason := why(device, config))
        and not _is_disrupted(device.node)
        and _is_free(device, config.lifecycle, now)
    ]
    for device, reason in due:
        lifecycle.defrag(device.node.name, device.index, requested_by="defrag", reason=reason)
    return len(due)


def why(device: Device, config: CortexConfig) -> str:
    """The reason for which it is due; empty if it is not."""
    limit = config.eviction.defrag_after_cycles
    fraction = config.lifecycle.defrag_fragmented_fraction
    if limit and device.cycles >= limit:
        return f"{device.cycles} loads and unloads since its worker started"
    if limit and device.fragmented_mb >= fraction * max(device.memory_total_mb, 1):
        return f"{device.fragmented_mb} MiB are free in pieces that are of no use"
    return ""


def _is_disrupted(node: Node) -> bool:
    """Whether the node is being drained, or one of its devices restarted."""
    rows = Operation.objects.filter(wanted_node=node.name, kind__in=_DISRUPTIVE, state__in=ACTIVE)
    return bool(rows.exists())


def _is_free(device: Device, limits: LifecycleSettings, now: datetime) -> bool:
    """Whether it is the maintenance window, or nobody has used the device's models for a while."""
    if within(limits.maintenance_utc, now.astimezone(UTC).time()):
        return True
    since = now - timedelta(seconds=limits.defrag_idle_s)
    rows = [row for row in Placement.objects.filter(node=device.node) if device.index in row.devices]
    return all(not row.is_busy and (row.last_used_at or row.changed_at) <= since for row in rows)


def within(window: str, now: time) -> bool:
    """Whether `now` is in `window`, `HH:MM-HH:MM`, which may span midnight.

    An empty window is never, one without length always.
    """
    if not window:
        return False
    start, end = (time.fromisoformat(part) for part in window.split("-"))
    return start <= now < end if start < end else now >= start or now < end
