"""Rows of the database as the frozen values that `fleet.placement` decides by."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.utils import timezone

from cortex_site.config.models_toml import DEFAULT_PRIORITY, TORCH
from fleet.evictor import Resident
from fleet.models import Device, ModelProfile, Node, Placement
from fleet.placement import DeviceFacts, Need, NodeFacts


def need(model: str, *, floor_mb: int = 0) -> Need:
    """What a model needs, at least `floor_mb` of memory.

    A model that is not in the catalogue, or has no `vram_mb`, needs no known amount: its first load shows it.
    """
    profile: ModelProfile | None = ModelProfile.objects.filter(model_id=model).first()
    if profile is None:
        return Need(model=model, memory_mb=floor_mb)
    return need_of(profile, floor_mb=floor_mb)


def need_of(profile: ModelProfile, *, floor_mb: int = 0) -> Need:
    """What the catalogue says that a model needs, at least `floor_mb` of memory."""
    return Need(
        model=profile.model_id,
        memory_mb=max(profile.needed_mb or profile.vram_mb or 0, floor_mb),
        tensor_parallel=profile.tensor_parallel or 0,
        min_devices=profile.min_devices,
        min_device_mb=profile.min_device_vram_mb or 0,
        priority=profile.priority,
        harness=profile.harness,
        labels=frozenset(profile.labels),
        pinned_on=frozenset(profile.pinned_on),
        base=profile.base,
    )


def nodes(*, only: str = "", leave_out: set[str] | None = None, patient: bool = True) -> list[NodeFacts]:
    """Every neuron, or `only` one, without those in `leave_out`; other servers load nothing.

    A load that is not `patient` may displace models in use: they leave after their requests.
    """
    rows = Node.objects.filter(kind=Node.Kind.NEURON)
    if only:
        rows = rows.filter(name=only)
    rows = rows.exclude(name__in=leave_out or ()).prefetch_related("devices", "placements")
    profiles = {profile.model_id: profile for profile in ModelProfile.objects.all()}
    now = timezone.now()
    return [
        NodeFacts(
            name=node.name,
            devices=tuple(_device(device) for device in node.devices.all()),
            residents=tuple(
                _resident(row, node, profiles.get(row.model), now, patient=patient)
                for row in node.placements.all()
                if row.state in Placement.RESIDENT
            ),
            asleep={
                row.model: frozenset(row.devices)
                for row in node.placements.all()
                if row.state == Placement.State.ASLEEP
            },
            healthy=node.healthy,
            cordoned=node.cordoned,
            harnesses=frozenset(node.harnesses),
            labels=frozenset(node.labels),
        )
        for node in rows
    ]


def _device(device: Device) -> DeviceFacts:
    return DeviceFacts(
        index=device.index,
        total_mb=device.usable_mb,
        free_mb=device.memory_free_mb,
        ready=device.state == "ready",
        starting=device.state in {"starting", "restarting"},
        claimed=device.claimed_by_id is not None,
    )


def _resident(
    row: Placement, node: Node, profile: ModelProfile | None, now: datetime, *, patient: bool
) -> Resident:
    if not row.memory_mb and profile:
        row.memory_mb = profile.resident_mb
    return Resident(
        model=row.model,
        memory_mb=row.memory_by_device,
        is_group=len(row.devices) > 1 and (profile is None or profile.harness == TORCH),
        priority=profile.priority if profile else DEFAULT_PRIORITY,
        pinned=bool(profile and (profile.pinned or node.name in profile.pinned_on)),
        busy=(row.is_busy and patient) or row.state != Placement.State.LOADED,
        moving=row.state != Placement.State.LOADED,
        idle_s=(now - row.used_at).total_seconds(),
        resident_s=(now - row.changed_at).total_seconds(),
        min_residency_s=max(profile.min_residency_s if profile else 0, settings.MIN_RESIDENCY_S),
    )
