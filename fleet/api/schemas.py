"""Shapes of the operator API's answers, and of its paging."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from ninja import Field, Query, Schema

Limit = Annotated[int, Query(ge=1, le=500)]  # rows of one page
Lines = Annotated[int, Query(ge=1, le=10_000)]


class DeviceOut(Schema):
    index: int
    name: str
    kind: str
    state: str
    memory_total_mb: int
    usable_mb: int
    memory_used_mb: int
    memory_free_mb: int
    utilization_pct: int | None
    temperature_c: int | None
    pid: int | None
    rss_mb: int | None
    fragmented_mb: int
    cycles: int
    restarts: int
    reason: str


class PlacementOut(Schema):
    model: str
    node: str = Field(alias="node.name")
    state: str
    devices: list[int]
    memory_mb: int | None
    device_memory_mb: list[int] = Field(description="On each device; empty: evenly shared, or not known")
    format: str
    bits_per_weight: float | None
    context: int | None
    progress: float | None
    running: int
    waiting: int
    error_code: str
    error_message: str
    changed_at: datetime
    last_used_at: datetime | None


class NodeOut(Schema):
    name: str
    kind: str
    joined: bool
    endpoint: str
    healthy: bool
    cordoned: bool
    labels: list[str]
    status: str
    reason: str
    warnings: list[str]
    version: str
    hostname: str
    pid: int | None
    rss_mb: int | None
    last_seen_at: datetime | None
    devices: list[DeviceOut]
    placements: list[PlacementOut]


class ModelOut(Schema):
    id: str = Field(alias="model_id")
    source: str
    harness: str
    base: str = Field(description="The model that it is an adapter for; empty: it is none")
    quant: str
    kv_dtype: str = Field(description="Of cached keys and values; empty: as the node is configured")
    speculation: str = Field(description="What drafts its answers; empty: as the node is configured")
    vram_mb: int | None
    measured_mb: int | None
    needed_mb: int | None
    options: dict[str, str | int | float | bool] = Field(description="Of a managed engine")
    tensor_parallel: int | None = Field(description="Null: split over as few devices as have the memory")
    min_devices: int
    min_device_vram_mb: int | None
    labels: list[str]
    pinned_on: list[str]
    pinned: bool
    priority: int
    ttl_s: int | None
    min_residency_s: int
    replicas: int
    from_file: bool


class OperationStateOut(Schema):
    """The fields of `fleet.operations.OperationView`."""

    id: int
    kind: str
    model: str = Field(description="Empty where it is about a node or a device")
    node: str = Field(description="Empty until one is chosen")
    device: int | None
    state: str
    progress: float | None
    message: str
    error_code: str


class OperationOut(OperationStateOut):
    requested_by: str
    reason: str
    explanation: list[dict[str, Any]]
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class StatusOut(Schema):
    version: str
    nodes: list[NodeOut]
    models: list[ModelOut]
    aliases: dict[str, str]
    operations: list[OperationOut] = Field(description="The active ones")
    evictions: list[OperationOut] = Field(description="The latest evictions")
