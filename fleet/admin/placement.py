from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse

from fleet.admin.base import Operates, ReadOnlyAdmin, age, do_each, origin, start_each
from fleet.models import Placement
from fleet.services import lifecycle, policy

T = TypeVar("T")


@admin.register(Placement)
class PlacementAdmin(Operates, ReadOnlyAdmin):
    first_step = "No node has a model yet. Load one under Models; a request for one loads it, too."
    list_display = (
        "model",
        "node",
        "now",
        "memory",
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

    def view_on_site(self, placement: Placement) -> str:
        return str(reverse("fleet-model", args=[placement.model]))

    @admin.display(description="state", ordering="state")
    def now(self, placement: Placement) -> str:
        state = str(placement.state)
        return state if placement.node.healthy else f"node away (was {state})"

    @admin.display(description="MiB by device", ordering="memory_mb")
    def memory(self, placement: Placement) -> str:
        if placement.memory_mb is None:
            return ", ".join(map(str, placement.devices))
        return ", ".join(f"{index}: {mb}" for index, mb in placement.memory_by_device.items())

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
