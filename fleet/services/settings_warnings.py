"""Contradictions between `models.toml`, the catalogue's rows and the fleet, for admin and operator API."""

from __future__ import annotations

from collections import defaultdict

from cortex_site.base.settings_file import ConfigError
from cortex_site.config import contradictions, current, load_catalogue
from cortex_site.config.contradictions import KnownNode
from cortex_site.config.models_toml import Profile
from fleet.models import Device, ModelProfile, Node


def found() -> list[str]:
    """One line for each contradiction of the files as they are now, or for each mistake in them."""
    config = current()
    hosts = _hosts()
    try:
        of_file = contradictions.warnings(config, load_catalogue(config), hosts)
    except ConfigError as error:
        of_file = [f"{line}; it is not used until that is fixed" for line in error.lines]
    return of_file + [
        f"model {profile.id}: {key}: {what}"
        for profile in _made_in_the_admin()
        for key, what in contradictions.of_profile(profile, config, hosts)
    ]


def _made_in_the_admin() -> list[Profile]:
    return [
        Profile(
            id=row.model_id,
            harness=row.harness,
            vram_mb=row.vram_mb,
            source=row.source or None,
            tensor_parallel=row.tensor_parallel,
            min_devices=row.min_devices,
            min_device_vram_mb=row.min_device_vram_mb,
            labels=[name for name in row.labels if isinstance(name, str) and name],
            pinned_on=[name for name in row.pinned_on if isinstance(name, str)],
            pinned=row.pinned,
            residency_priority=row.residency_priority,
            ttl_s=row.ttl_s or None,
            min_residency_s=row.min_residency_s,
            replicas=row.replicas,
        )
        for row in ModelProfile.objects.filter(from_file=False)
    ]


def _hosts() -> list[KnownNode]:
    devices_mb = defaultdict(list)
    for node, memory_mb in Device.objects.order_by("index").values_list("node", "memory_total_mb"):
        devices_mb[node].append(memory_mb)
    return [
        KnownNode(
            name=node.name,
            foreign=node.is_foreign,
            devices_mb=tuple(devices_mb[node.pk]),
            harnesses=frozenset(node.harnesses),
            labels=frozenset(node.labels),
        )
        for node in Node.objects.only("name", "kind", "harnesses", "labels")
    ]
