from __future__ import annotations

from functools import partial

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from fleet.admin.base import Operates, ReadOnlyAdmin, age, start_each, who
from fleet.models import Placement
from fleet.services import lifecycle


@admin.register(Placement)
class PlacementAdmin(Operates, ReadOnlyAdmin):
    list_display = (
        "model",
        "node",
        "state",
        "devices",
        "memory_mb",
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
    actions = ("load", "unload")

    @admin.display(description="in this state for", ordering="changed_at")
    def changed(self, placement: Placement) -> str:
        return age(placement.changed_at)

    @admin.display(description="last used", ordering="last_used_at")
    def used(self, placement: Placement) -> str:
        return age(placement.last_used_at)

    @admin.action(description="Load selected models on these nodes", permissions=["operate"])
    def load(self, request: HttpRequest, rows: QuerySet) -> None:
        starts = [
            partial(lifecycle.load, row.model, row.node.name, requested_by=who(request), reason="admin")
            for row in rows
        ]
        start_each(self, request, starts)

    @admin.action(description="Unload selected models from these nodes", permissions=["operate"])
    def unload(self, request: HttpRequest, rows: QuerySet) -> None:
        starts = [
            partial(lifecycle.unload, row.model, row.node.name, requested_by=who(request), reason="admin")
            for row in rows
        ]
        start_each(self, request, starts)
