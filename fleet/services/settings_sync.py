"""Syncs `cortex.toml` and `models.toml` into the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from cortex_site.config.cortex_toml import CortexConfig, NeuronEntry
from cortex_site.config.models_toml import Catalogue, Cost, Limit, Profile
from fleet.models import Alias, ModelProfile, Node
from fleet.models.version import Configured


@transaction.atomic
def sync_files(config: CortexConfig, catalogue: Catalogue) -> None:
    """Make the rows that files own equal to the files. Idempotent.

    A row that was made in the admin becomes the file's once a file names it. A row that its file no longer
    names is deleted, a node with its placements.
    """
    _sync(Node, "name", {node.name: _node(node) for node in config.neurons})
    _sync(ModelProfile, "model_id", {profile.id: _profile(profile) for profile in catalogue.profiles})
    _sync(Alias, "name", {name: {"target": target} for name, target in catalogue.other_names.items()})


def _sync(model: type[Configured], key: str, wanted: Mapping[str, dict[str, Any]]) -> None:
    model.objects.filter(from_file=True).exclude(**{f"{key}__in": list(wanted)}).delete()
    existing = {getattr(row, key): row for row in model.objects.filter(**{f"{key}__in": list(wanted)})}
    for name, values in wanted.items():
        row = existing.get(name) or model(**{key: name})
        changes = {k: v for k, v in values.items() if getattr(row, k) != v}
        if row.pk and row.from_file and not changes:
            continue
        for field, value in changes.items():
            setattr(row, field, value)
        row.from_file = True
        row.save()


def _node(node: NeuronEntry) -> dict[str, Any]:
    return {
        "kind": node.kind,
        "endpoint": node.endpoint,
        "token": node.token or "",
        "model_names": node.models,
        "labels": node.labels,
        "max_requests": node.max_requests,
        "first_byte_timeout_s": node.first_byte_timeout_s,
        "idle_timeout_s": node.idle_timeout_s,
    }


def _profile(profile: Profile) -> dict[str, Any]:
    limit = profile.limit or Limit()
    cost = profile.cost or Cost()
    return {
        "source": profile.source or "",
        "harness": profile.harness,
        "base": profile.base or "",
        "quant": profile.quant or "",
        "kv_dtype": profile.kv_dtype or "",
        "speculation": profile.speculation or "",
        "chat_template": profile.chat_template or "",
        "tool_format": profile.tool_format or "",
        "reasoning_format": profile.reasoning_format or "",
        "vram_mb": profile.vram_mb,
        "options": profile.options,
        "tensor_parallel": profile.tensor_parallel,
        "min_devices": profile.min_devices,
        "min_device_vram_mb": profile.min_device_vram_mb,
        "labels": profile.labels,
        "pinned_on": profile.pinned_on,
        "pinned": profile.pinned,
        "residency_priority": profile.residency_priority,
        "ttl_s": profile.ttl_s,
        "min_residency_s": profile.min_residency_s,
        "replicas": profile.replicas,
        "context": limit.context,
        "output": limit.output,
        "cost_input": cost.input,
        "cost_output": cost.output,
        "cost_cache_read": cost.cache_read,
        "capabilities": profile.capabilities,
    }
