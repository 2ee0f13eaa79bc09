"""Queries of the whole fleet, for the operator API, `cortex status` and the live page."""

from __future__ import annotations

from typing import Any

from django.db.models import Prefetch, QuerySet

from cortex_site.base.version import VERSION
from fleet.models import Alias, Device, ModelProfile, Node, Operation, Placement
from fleet.operations import ACTIVE, OperationKind

RECENT = 10  # evictions


def status() -> dict[str, Any]:
    """The whole fleet, in a number of queries that does not grow with it."""
    return {
        "version": VERSION,
        "nodes": nodes(),
        "models": profiles(),
        "aliases": dict(Alias.objects.values_list("name", "target")),
        "operations": Operation.objects.filter(state__in=ACTIVE),
        "evictions": Operation.objects.filter(kind=OperationKind.EVICT)[:RECENT],
    }


def first_nodes(count: int) -> QuerySet:
    """Nodes, those that are away first, with what there is to say of their memory and models."""
    devices = Device.objects.only("node", "memory_total_mb", "memory_used_mb", "memory_free_mb")
    resident = Placement.objects.filter(state__in=Placement.RESIDENT)
    shown = resident.only("node", "model", "state", "devices").order_by("model")
    nodes = Node.objects.only("name", "healthy", "status", "cordoned").order_by("healthy", "name")
    lists = (Prefetch("devices", devices.order_by("index")), Prefetch("placements", shown))
    return nodes.prefetch_related(*lists)[:count]


def nodes() -> QuerySet:
    return Node.objects.prefetch_related("devices", "placements__node")


def profiles() -> QuerySet:
    return ModelProfile.objects.all()


def placements() -> QuerySet:
    return Placement.objects.select_related("node")


def operations(*, state: str | None, before: int | None, limit: int) -> QuerySet:
    """One page, newest first; `before` is the last id of the page before it."""
    rows = Operation.objects.all()
    if state:
        rows = rows.filter(state=state)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return rows[:limit]
