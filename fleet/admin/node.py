from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, Sum
from django.forms import PasswordInput
from django.http import HttpRequest
from django.utils.safestring import SafeString

from fleet.admin.base import ConfiguredAdmin, ReadOnlyAdmin, age, memory_bar
from fleet.models import Device, Node

OBSERVED = (
    "healthy",
    "status",
    "reason",
    "misses",
    "last_seen_at",
    "version",
    "protocol",
    "hostname",
    "os",
    "cuda_version",
    "driver_version",
    "harnesses",
    "pid",
    "rss_mb",
    "from_file",
)


@admin.register(Node)
class NodeAdmin(ConfiguredAdmin):
    list_display = (
        "name",
        "endpoint",
        "healthy",
        "status",
        "memory",
        "seen",
        "version",
        "reason",
        "from_file",
    )
    list_filter = ("healthy", "status", "from_file")
    search_fields = ("name", "endpoint", "hostname")
    readonly_fields = OBSERVED
    fieldsets = (
        (None, {"fields": ("name", "endpoint", "token")}),
        ("Observed", {"fields": OBSERVED}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return (
            super()
            .get_queryset(request)
            .annotate(used_mb=Sum("devices__memory_used_mb"), total_mb=Sum("devices__memory_total_mb"))
        )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A page that cannot be changed would show the token in clear: it has none."""
        if self.has_change_permission(request, obj):
            return self.fieldsets
        return ((None, {"fields": ("name", "endpoint")}), *self.fieldsets[1:])

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "token":
            kwargs["widget"] = PasswordInput(render_value=True)
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    @admin.display(description="memory", ordering="used_mb")
    def memory(self, node: Any) -> SafeString:
        return memory_bar(node.used_mb or 0, node.total_mb or 0)

    @admin.display(description="seen", ordering="last_seen_at")
    def seen(self, node: Node) -> str:
        return age(node.last_seen_at)


@admin.register(Device)
class DeviceAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__",
        "name",
        "state",
        "memory",
        "utilization_pct",
        "temperature_c",
        "worker",
        "pid",
        "rss_mb",
        "cycles",
        "restarts",
        "claimed_by",
        "reason",
    )
    list_filter = ("state", "kind", "node")
    search_fields = ("node__name", "name")
    list_select_related = ("node", "claimed_by")

    @admin.display(description="memory", ordering="memory_used_mb")
    def memory(self, device: Device) -> SafeString:
        return memory_bar(device.memory_used_mb, device.memory_total_mb)
