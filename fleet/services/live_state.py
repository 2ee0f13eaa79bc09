"""The whole fleet as one JSON text, many times as quickly as by way of rows and schemas.

It says what `GET /api/status` says; open live pages ask for it every other second.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from cortex_site.base.version import VERSION
from fleet.models import Alias, Device, ModelProfile, Node, Operation, Placement
from fleet.operations import ACTIVE, OperationKind
from fleet.services.overview import RECENT

Json = dict[str, Any]

_NODE = (
    *("name", "kind", "joined", "endpoint", "healthy", "cordoned", "labels", "status", "reason", "warnings"),
    *("version", "hostname", "pid", "rss_mb", "last_seen_at"),
)
_DEVICE = (
    *("index", "name", "kind", "state", "memory_total_mb", "memory_used_mb", "memory_free_mb"),
    *("utilization_pct", "temperature_c", "pid", "rss_mb", "fragmented_mb", "cycles", "restarts", "reason"),
)
_PLACEMENT = (
    *("model", "state", "devices", "memory_mb", "device_memory_mb", "format", "bits_per_weight", "context"),
    *("progress", "running", "waiting", "error_code", "error_message", "changed_at", "last_used_at"),
)
_OPERATION = (
    *("id", "kind", "model", "node", "device", "state", "progress", "message", "error_code", "requested_by"),
    *("reason", "explanation", "attempts", "created_at", "started_at", "finished_at"),
)
_MODEL = (
    *("source", "harness", "base", "quant", "kv_dtype", "speculation", "vram_mb", "measured_mb", "needed_mb"),
    *("options", "tensor_parallel", "min_devices", "min_device_vram_mb", "labels", "pinned_on", "pinned"),
    *("ttl_s", "min_residency_s", "replicas", "from_file"),
)


def encoded() -> bytes:
    """Return the state now."""
    evicted = Operation.objects.filter(kind=OperationKind.EVICT)
    return msgspec.json.encode({
        "version": VERSION,
        "nodes": _nodes(),
        "models": [_model(row) for row in ModelProfile.objects.all()],
        "aliases": dict(Alias.objects.values_list("name", "target")),
        "operations": list(Operation.objects.filter(state__in=ACTIVE).values(*_OPERATION)),
        "evictions": list(evicted.values(*_OPERATION)[:RECENT]),
    })  # fmt: skip


def _nodes() -> list[Json]:
    devices: defaultdict[int, list[Json]] = defaultdict(list)
    for device in Device.objects.order_by("node__name", "index").values("node_id", *_DEVICE):
        devices[device.pop("node_id")].append(device | {"usable_mb": _usable_mb(device)})
    placements: defaultdict[int, list[Json]] = defaultdict(list)
    for row in Placement.objects.order_by("model", "node__name").values("node_id", *_PLACEMENT):
        placements[row.pop("node_id")].append(row)
    nodes = []
    for node in Node.objects.values("id", *_NODE):
        key = node.pop("id")
        there = [row | {"node": node["name"]} for row in placements[key]]
        nodes.append(node | {"devices": devices[key], "placements": there})
    return nodes


def _usable_mb(device: Json) -> int:
    return Device(
        **{name: device[name] for name in ("memory_total_mb", "memory_used_mb", "memory_free_mb")}
    ).usable_mb


def _model(row: ModelProfile) -> Json:
    return {"id": row.model_id, "priority": row.priority} | {name: getattr(row, name) for name in _MODEL}
