"""Unloads models that nobody has used for their `ttl_s`."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from fleet.models import ModelProfile, Node, Placement
from fleet.services import lifecycle


def unload_idle() -> int:
    """Ask for the unloading of every idle model; how many there were. Pinned models stay."""
    now = timezone.now()
    profiles = {row.model_id: row for row in ModelProfile.objects.exclude(ttl_s=None).filter(pinned=False)}
    loaded = Placement.objects.filter(
        model__in=profiles, state=Placement.State.LOADED, running=0, waiting=0, node__healthy=True
    ).filter(node__kind=Node.Kind.NEURON)
    idle = [
        row
        for row in loaded.select_related("node")
        if row.node.name not in profiles[row.model].pinned_on
        and max(row.changed_at, row.last_used_at or row.changed_at)
        < now - timedelta(seconds=profiles[row.model].ttl_s)
    ]
    for row in idle:
        reason = f"unused for {profiles[row.model].ttl_s} s"
        lifecycle.unload(row.model, row.node.name, requested_by="idle", reason=reason, unless_busy=True)
    return len(idle)
