"""Unloads models that were not used for their `ttl_s`."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone

from fleet.models import ModelProfile, Node, Placement
from fleet.services import lifecycle


def unload_idle() -> int:
    """Ask for the unload of every idle model that is not pinned; return how many there were."""
    now = timezone.now()
    profiles = {row.model_id: row for row in ModelProfile.objects.exclude(ttl_s=None).filter(pinned=False)}
    loaded = Placement.objects.filter(
        model__in=profiles, state=Placement.State.LOADED, running=0, waiting=0, node__healthy=True
    ).filter(node__kind=Node.Kind.NEURON)
    idle = [row for row in loaded.select_related("node") if _is_idle(row, profiles[row.model], now)]
    for row in idle:
        reason = f"unused for {profiles[row.model].ttl_s} s"
        lifecycle.unload(row.model, row.node.name, requested_by="idle", reason=reason, unless_busy=True)
    return len(idle)


def _is_idle(row: Placement, profile: ModelProfile, now: datetime) -> bool:
    if row.node.name in profile.pinned_on:
        return False
    return row.used_at < now - timedelta(seconds=profile.ttl_s)
