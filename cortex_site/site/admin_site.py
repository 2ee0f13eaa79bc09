"""Django's admin with the fleet on its first page, and its lists in groups as people look for them."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse

from fleet.services import attention, overview, traffic

GROUPS = {
    "Fleet": ("Node", "Device", "Placement", "ModelProfile", "Alias", "Operation"),
    "Traffic": ("RequestMetric", "UsageRollup", "RequestBatch", "StoredFile"),
    "Access": ("ApiKey", "JoinToken", "User", "Group"),
    "Schedules": ("PeriodicTask", "IntervalSchedule", "CrontabSchedule"),
}
REST = "System"
SHOWN_NODES = 50  # those that are away first


class FleetAdminSite(AdminSite):
    site_header = site_title = "cortex"
    index_title = "Fleet"
    site_url = None  # there is no other site to view

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[dict[str, Any]]:
        """Return the lists that a user may see, in groups; those of one app as Django has them."""
        apps: list[dict[str, Any]] = super().get_app_list(request, app_label)
        if app_label is not None:
            return apps
        left = {model["object_name"]: model for app in apps for model in app["models"]}
        groups = [
            (name, [left.pop(model) for model in models if model in left]) for name, models in GROUPS.items()
        ]
        groups.append((REST, list(left.values())))
        return [_group(name, models) for name, models in groups if models]

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        """Return what every page is given: beside Django's, the `group` that it belongs to."""
        context: dict[str, Any] = super().each_context(request)
        of_page = (
            group["name"]
            for group in context["available_apps"]
            for model in group["models"]
            if model["admin_url"] and request.path.startswith(model["admin_url"])
        )
        return context | {"group": next(of_page, "")}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context = {
            "matters": attention.found(),
            "nodes": overview.first_nodes(SHOWN_NODES),
            "more_nodes": max(0, overview.nodes().count() - SHOWN_NODES),
            "series": traffic.series(traffic.SPANS["hour"]),
            "spans": list(traffic.SPANS),
        }
        return super().index(request, context | (extra_context or {}))


def _group(name: str, models: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "app_label": name.lower(),
        "app_url": "",
        "has_module_perms": True,
        "models": models,
    }
