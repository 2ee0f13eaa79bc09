from __future__ import annotations

from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from fleet.admin.base import ConfiguredAdmin, Operates, do_each, start_each, who
from fleet.models import Alias, ModelProfile, Placement
from fleet.services import lifecycle, policy


@admin.register(ModelProfile)
class ModelProfileAdmin(Operates, ConfiguredAdmin):
    list_display = (
        "model_id",
        "loaded_on",
        "vram_mb",
        "needed_mb",
        "measured_mb",
        "min_devices",
        "priority",
        "pinned",
        "ttl_s",
        "context",
        "from_file",
    )
    list_filter = ("harness", "pinned", "from_file")
    search_fields = ("model_id", "source")
    readonly_fields = ("needed_mb", "measured_mb", "from_file")
    actions = ("load", "unload", "pin", "unpin")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """One query for the nodes of all rows on the page."""
        page = super().get_changelist_instance(request)
        nodes = _nodes_with([row.model_id for row in page.result_list])
        for row in page.result_list:
            row.loaded_on = nodes.get(row.model_id, [])
        return page

    @admin.display(description="loaded on")
    def loaded_on(self, profile: Any) -> str:
        return ", ".join(profile.loaded_on) or "–"

    @admin.action(description="Load selected models where they fit best", permissions=["operate"])
    def load(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(
            self,
            request,
            [
                partial(lifecycle.load, row.model_id, requested_by=who(request), reason="admin")
                for row in rows
            ],
        )

    @admin.action(description="Pin: never evict", permissions=["operate"])
    def pin(self, request: HttpRequest, rows: QuerySet) -> None:
        verbs = [partial(policy.pin, row.model_id, requested_by=who(request), reason="admin") for row in rows]
        do_each(self, request, verbs, "Pinned")

    @admin.action(description="Unpin", permissions=["operate"])
    def unpin(self, request: HttpRequest, rows: QuerySet) -> None:
        verbs = [
            partial(policy.unpin, row.model_id, requested_by=who(request), reason="admin") for row in rows
        ]
        do_each(self, request, verbs, "Unpinned")

    @admin.action(description="Unload selected models everywhere", permissions=["operate"])
    def unload(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(
            self,
            request,
            [
                partial(lifecycle.unload, row.model_id, node, requested_by=who(request), reason="admin")
                for row in rows
                for node in _nodes_with([row.model_id]).get(row.model_id, [])
            ],
        )


def _nodes_with(models: list[str]) -> dict[str, list[str]]:
    """The nodes where each of these models is loaded, by name."""
    found: dict[str, list[str]] = {}
    loaded = Placement.objects.filter(model__in=models, state=Placement.State.LOADED)
    for model, node in loaded.order_by("node__name").values_list("model", "node__name"):
        found.setdefault(model, []).append(node)
    return found


@admin.register(Alias)
class AliasAdmin(ConfiguredAdmin):
    list_display = ("name", "target", "from_file")
    list_filter = ("from_file",)
    search_fields = ("name", "target")
