from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from fleet.admin.base import Operates, ReadOnlyAdmin, age, do_each, origin, start_each
from fleet.models import Placement
from fleet.services import lifecycle, policy

T = TypeVar("T")


@admin.register(Placement)
class PlacementAdmin(Operates, ReadOnlyAdmin):
    list_display = (
        "model",
        "node",
        "state",
        "devices",
        "memory_mb",
        "stored",
        "context",
        "running",
        "waiting",
        "changed",
        "used",
        "error_message",
    )
    list_filter = ("state", "node")
    search_fields = ("model", "node__name")
    list_select_related = ("node",)
    actions = ("load", "unload", "unload_by_force", "pin", "unpin")

    @admin.display(description="weights, bits", ordering="format")
    def stored(self, placement: Placement) -> str:
        return placement.weights

    @admin.display(description="in this state for", ordering="changed_at")
    def changed(self, placement: Placement) -> str:
        return age(placement.changed_at)

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, placement: Placement) -> str:
        return age(placement.last_used_at)

    @admin.action(description="Load selected models on these nodes", permissions=["operate"])
    def load(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(lifecycle.load, request, rows))

    @admin.action(description="Unload after their requests", permissions=["operate"])
    def unload(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(lifecycle.unload, request, rows))

    @admin.action(description="Unload at once: end requests under way", permissions=["operate"])
    def unload_by_force(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(partial(lifecycle.unload, force=True), request, rows))

    @admin.action(description="Pin to these nodes: keep loaded, never evict", permissions=["operate"])
    def pin(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.pin, request, rows), "Pinned")

    @admin.action(description="Unpin from these nodes", permissions=["operate"])
    def unpin(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.unpin, request, rows), "Unpinned")


def _for_each(verb: Callable[..., T], request: HttpRequest, rows: QuerySet) -> list[Callable[[], T]]:
    return [partial(verb, row.model, row.node.name, **origin(request)) for row in rows]
