"""Reading the fleet for people: the operator API, `cortex status` and the live page."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from cortex_site.base.version import VERSION
from fleet.models import ACTIVE, Alias, ModelProfile, Node, Operation, Placement

RECENT = 10  # evictions


def status() -> dict[str, Any]:
    """Everything at a glance, in a number of queries that does not depend on the size of the fleet."""
    return {
        "version": VERSION,
        "nodes": nodes(),
        "models": profiles(),
        "aliases": dict(Alias.objects.values_list("name", "target")),
        "operations": Operation.objects.filter(state__in=ACTIVE),
        "evictions": Operation.objects.filter(kind=Operation.Kind.EVICT)[:RECENT],
    }


def nodes() -> QuerySet:
    return Node.objects.prefetch_related("devices", "placements__node")


def profiles() -> QuerySet:
    return ModelProfile.objects.all()


def placements() -> QuerySet:
    return Placement.objects.select_related("node")


def operations(*, state: str | None, before: int | None, limit: int) -> QuerySet:
    """The newest first; `before` is the id at which the last page ended."""
    rows = Operation.objects.all()
    if state:
        rows = rows.filter(state=state)
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return rows[:limit]
