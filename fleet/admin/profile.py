from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from fleet.admin.base import ConfiguredAdmin, Operates, do_each, origin, start_each
from fleet.models import Alias, ModelProfile, Placement
from fleet.services import lifecycle, policy

T = TypeVar("T")


@admin.register(ModelProfile)
class ModelProfileAdmin(Operates, ConfiguredAdmin):
    list_display = (
        "model_id",
        "loaded_on",
        "quant",
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
    readonly_fields = ("chat_traits", "needed_mb", "measured_mb", "from_file")
    actions = ("load", "unload", "pin", "unpin")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Read the nodes of all rows on the page in one query."""
        page = super().get_changelist_instance(request)
        nodes = _nodes_with([row.model_id for row in page.result_list])
        for row in page.result_list:
            row.loaded_on = nodes.get(row.model_id, [])
        return page

    @admin.display(description="what a node found")
    def chat_traits(self, profile: ModelProfile) -> SafeString | str:
        """What a node found out when it loaded the model; a table, in the node's words."""
        placed = Placement.objects.filter(model=profile.model_id).exclude(text={}).order_by("-changed_at")
        told = placed.values_list("text", flat=True).first()
        if not told:
            return "Known once the model was loaded."
        rows = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", told.items())
        return format_html("<table>{}</table>", rows)

    @admin.display(description="loaded on")
    def loaded_on(self, profile: Any) -> str:
        return ", ".join(profile.loaded_on) or "–"

    @admin.action(description="Load selected models where they fit best", permissions=["operate"])
    def load(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(lifecycle.load, request, rows))

    @admin.action(description="Pin: never evict", permissions=["operate"])
    def pin(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.pin, request, rows), "Pinned")

    @admin.action(description="Unpin", permissions=["operate"])
    def unpin(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.unpin, request, rows), "Unpinned")

    @admin.action(description="Unload selected models everywhere", permissions=["operate"])
    def unload(self, request: HttpRequest, rows: QuerySet) -> None:
        starts = [
            partial(lifecycle.unload, row.model_id, node, **origin(request))
            for row in rows
            for node in _nodes_with([row.model_id]).get(row.model_id, [])
        ]
        start_each(self, request, starts)


def _for_each(verb: Callable[..., T], request: HttpRequest, rows: QuerySet) -> list[Callable[[], T]]:
    return [partial(verb, row.model_id, **origin(request)) for row in rows]


def _nodes_with(models: list[str]) -> dict[str, list[str]]:
    """The names of the nodes on which each of these models is loaded."""
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
