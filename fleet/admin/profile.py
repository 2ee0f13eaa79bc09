from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from fleet.admin.base import ConfiguredAdmin, Operates, do_each, origin, seconds, start_each
from fleet.models import Alias, ModelProfile, Placement
from fleet.services import lifecycle, model_facts, policy

T = TypeVar("T")


@admin.register(ModelProfile)
class ModelProfileAdmin(Operates, ConfiguredAdmin):
    first_step = "There are no models yet. Look before adding one: by hub id, or by a directory on a node."
    list_display = (
        "model_id",
        "loaded_on",
        "first_token",
        "speed",
        "needed_mb",
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
        names = [row.model_id for row in page.result_list]
        nodes, speeds = _nodes_with(names), model_facts.speeds(names)
        for row in page.result_list:
            row.loaded_on = nodes.get(row.model_id, [])
            row.speed_now = speeds.get(row.model_id)
        return page

    @admin.display(description="first token")
    def first_token(self, profile: Any) -> str:
        """Its mean over the last day, from hourly sums."""
        return seconds(profile.speed_now.first_token_s if profile.speed_now else None)

    @admin.display(description="tokens/s")
    def speed(self, profile: Any) -> str:
        rate = profile.speed_now.tokens_per_second if profile.speed_now else None
        return "–" if rate is None else f"{rate:.1f}"

    @admin.display(description="what a node found")
    def chat_traits(self, profile: ModelProfile) -> SafeString | str:
        """What a node found out when it loaded the model; a table, in the node's words."""
        placed = Placement.objects.filter(model=profile.model_id).exclude(text={}).order_by("-changed_at")
        told = placed.values_list("text", flat=True).first()
        if not told:
            return "Known once the model was loaded."
        rows = format_html_join("", "<tr><th>{}</th><td>{}</td></tr>", told.items())
        return format_html("<table>{}</table>", rows)

    def view_on_site(self, profile: ModelProfile) -> str:
        """The page that says where the model is, what it takes and how quick it was."""
        return str(reverse("fleet-model", args=[profile.model_id]))

    @admin.display(description="loaded on")
    def loaded_on(self, profile: Any) -> SafeString:
        nodes = ", ".join(profile.loaded_on) or "not loaded"
        return format_html('<a href="{}">{}</a>', self.view_on_site(profile), nodes)

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
    first_step = "An alias is another name of a model: clients that ask for gpt-4o get what you choose."
    list_display = ("name", "target", "from_file")
    list_filter = ("from_file",)
    search_fields = ("name", "target")
