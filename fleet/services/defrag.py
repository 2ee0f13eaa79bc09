"""When a device is due for a new worker, so that its memory is in one piece again."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from django.utils import timezone

from cortex_site.config import current
from fleet.models import Device, Node, Operation, Placement
from fleet.operations import ACTIVE, RULES
from fleet.services import lifecycle

# of all that is on a node or a device: one at a time
_DISRUPTIVE = [kind for kind, rules in RULES.items() if "model" not in rules.asked]


def defragment() -> int:
    """Ask for every device that is due and may be restarted now; how many were asked for."""
    devices = Device.objects.filter(
        state="ready", claimed_by=None, node__healthy=True, node__kind=Node.Kind.NEURON
    )
    due = [(device, reason) for device in devices.select_related("node") if (reason := why(device))]
    now = timezone.now()
    asked = [(device, reason) for device, reason in due if not _asked(device) and _may(device, now)]
    for device, reason in asked:
        lifecycle.defrag(device.node.name, device.index, requested_by="defrag", reason=reason)
    return len(asked)


def why(device: Device) -> str:
    """Why it is due; empty when it is not."""
    limit, fraction = current().eviction.defrag_after_cycles, current().lifecycle.defrag_fragmented_fraction
    if limit and device.cycles >= limit:
        return f"{device.cycles} loads and unloads since its worker started"
    if limit and device.fragmented_mb >= fraction * max(device.memory_total_mb, 1):
        return f"{device.fragmented_mb} MiB are free in pieces that are of no use"
    return ""


def _asked(device: Device) -> bool:
    rows = Operation.objects.filter(wanted_node=device.node.name, state__in=ACTIVE)
    return bool(rows.filter(kind__in=_DISRUPTIVE).exists())


def _may(device: Device, now: datetime) -> bool:
    """In the maintenance window, or when nobody has used it for a while."""
    if within(current().lifecycle.maintenance_utc, now.astimezone(UTC).time()):
        return True
    since = now - timedelta(seconds=current().lifecycle.defrag_idle_s)
    rows = [row for row in Placement.objects.filter(node=device.node) if device.index in row.devices]
    return all(not row.is_busy and (row.last_used_at or row.changed_at) <= since for row in rows)


def within(window: str, now: time) -> bool:
    """`window` is `HH:MM-HH:MM` and may span midnight; empty: never; without length: always."""
    if not window:
        return False
    start, end = (time.fromisoformat(part) for part in window.split("-"))
    return start <= now < end if start < end else now >= start or now < end
