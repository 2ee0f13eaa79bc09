from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from django import forms
from django.contrib import admin
from django.db.models import F, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from fleet.admin.base import (
    ConfiguredAdmin,
    Operates,
    ReadOnlyAdmin,
    age,
    called,
    do_each,
    memory_bar,
    origin,
    start_each,
)
from fleet.models import Device, Node
from fleet.operations import OperationView
from fleet.services import lifecycle, policy

T = TypeVar("T")

CONFIGURED = (
    "name",
    "kind",
    "endpoint",
    "token",
    "labels",
    "model_names",
    "max_requests",
    "first_byte_timeout_s",
    "idle_timeout_s",
)
OBSERVED = (
    "healthy",
    "cordoned",
    "status",
    "reason",
    "warnings",
    "misses",
    "last_seen_at",
    "version",
    "protocol",
    "hostname",
    called("system", "os"),
    called("CUDA", "cuda_version"),
    called("driver", "driver_version"),
    "engines",
    called("process id", "pid"),
    called("memory of the daemon, MiB", "rss_mb"),
    "log",
    "joined",
    "heartbeat_at",
    "from_file",
)


def _authority(endpoint: str) -> tuple[str, str]:
    parts = urlsplit(endpoint)
    return parts.scheme, parts.netloc


class NodeForm(forms.ModelForm):
    """A form that never shows the token: a field left empty keeps it."""

    forget_token = forms.BooleanField(required=False, help_text="Send no token to this node.")

    class Meta:
        model = Node
        fields = CONFIGURED
        widgets = {"token": forms.PasswordInput(attrs={"autocomplete": "new-password"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "token" in self.fields and self.instance.token:
            self.fields["token"].help_text += " A token is set; leave the field empty to keep it."

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or {}
        given["model_names"] = given.get("model_names") or {}
        given["labels"] = given.get("labels") or []
        if given.get("forget_token"):
            given["token"] = ""
        elif not given.get("token"):
            given["token"] = self._kept_token(given.get("endpoint", ""))
        return given

    def _kept_token(self, endpoint: str) -> str:
        """The token as it was. Whoever may not see it must not have it sent to another host, either."""
        kept: str = self.initial.get("token", "")
        if kept and _authority(endpoint) != _authority(self.initial["endpoint"]):
            self.add_error("token", "The address is another: give its token again, or say to forget it.")
        return kept


@admin.register(Node)
class NodeAdmin(Operates, ConfiguredAdmin):
    first_step = (
        "There are no nodes yet. Add one by its address, name them in cortex.toml, or make a join token "
        "under Access, with which a neuron adds itself."
    )
    form = NodeForm
    actions = ("cordon", "uncordon", "drain", "drain_by_force")
    list_display = (
        "name",
        "kind",
        "endpoint",
        "healthy",
        "now",
        "memory",
        "seen",
        "version",
        "problem",
        "from_file",
    )
    list_filter = ("kind", "healthy", "status", "from_file")
    search_fields = ("name", "endpoint", "hostname")
    readonly_fields = OBSERVED
    fieldsets = (
        (None, {"fields": CONFIGURED[:5]}),
        ("Limits", {"fields": CONFIGURED[5:], "description": "An empty field is the gateway's own."}),
        ("Observed", {"fields": OBSERVED}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return (
            super()
            .get_queryset(request)
            .annotate(
                used_mb=Sum("devices__memory_used_mb"),
                total_mb=Sum(F("devices__memory_used_mb") + F("devices__memory_free_mb")),
            )
        )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Without the token where the page is read-only, which would show it in clear."""
        secrets: tuple[str, ...] = ()
        if self.has_change_permission(request, obj):
            secrets = ("token", "forget_token") if obj and obj.token else ("token",)
        return ((None, {"fields": (*CONFIGURED[:3], *secrets, "labels")}), *self.fieldsets[1:])

    @admin.action(description="Cordon: load nothing new there", permissions=["operate"])
    def cordon(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.cordon, request, rows), "Cordoned")

    @admin.action(description="Uncordon", permissions=["operate"])
    def uncordon(self, request: HttpRequest, rows: QuerySet) -> None:
        do_each(self, request, _for_each(policy.uncordon, request, rows), "Uncordoned")

    @admin.action(description="Drain: cordon, and unload after their requests", permissions=["operate"])
    def drain(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(lifecycle.drain, request, rows))

    @admin.action(description="Drain at once: end requests under way", permissions=["operate"])
    def drain_by_force(self, request: HttpRequest, rows: QuerySet) -> None:
        start_each(self, request, _for_each(partial(lifecycle.drain, force=True), request, rows))

    @admin.display(description="problem")
    def problem(self, node: Node) -> str:
        return "; ".join(text for text in (node.reason, *node.warnings) if text)

    @admin.display(description="status", ordering="status")
    def now(self, node: Node) -> str:
        return ", ".join(filter(None, (node.status, "cordoned" if node.cordoned else "")))

    @admin.display(description="memory", ordering="used_mb")
    def memory(self, node: Any) -> SafeString:
        return memory_bar(node.used_mb or 0, node.total_mb or 0)

    @admin.display(description="engines")
    def engines(self, node: Node) -> str:
        return ", ".join(node.harnesses)

    @admin.display(description="log")
    def log(self, node: Node) -> SafeString | str:
        if node.pk is None or node.is_foreign:
            return "-"
        address = f"{reverse('fleet-logs')}?{urlencode({'node': node.name})}"
        return format_html('<a href="{}">its last lines, and its workers\'</a>', address)

    @admin.display(description="seen", ordering="last_seen_at")
    def seen(self, node: Node) -> str:
        return age(node.last_seen_at)


def _for_each(verb: Callable[..., T], request: HttpRequest, rows: QuerySet) -> list[Callable[[], T]]:
    return [partial(verb, row.name, **origin(request)) for row in rows]


@admin.register(Device)
class DeviceAdmin(Operates, ReadOnlyAdmin):
    first_step = "Devices appear with their nodes: add a neuron under Nodes."
    actions = ("defrag", "restart", "restart_by_force")
    list_display = (
        "__str__",
        "name",
        "state",
        "memory",
        called("busy, %", "utilization_pct"),
        called("°C", "temperature_c"),
        "worker",
        "pid",
        called("process, MiB", "rss_mb"),
        called("fragmented, MiB", "fragmented_mb"),
        "cycles",
        "restarts",
        "claimed_by",
        "reason",
    )
    list_filter = ("state", "kind", "node")
    search_fields = ("node__name", "name")
    list_select_related = ("node", "claimed_by")

    @admin.action(description="Defragment: restart the worker after its requests", permissions=["operate"])
    def defrag(self, request: HttpRequest, rows: QuerySet) -> None:
        self._start(lifecycle.defrag, request, rows)

    @admin.action(description="Restart the worker after its requests", permissions=["operate"])
    def restart(self, request: HttpRequest, rows: QuerySet) -> None:
        self._start(lifecycle.restart, request, rows)

    @admin.action(description="Restart the worker at once: end requests under way", permissions=["operate"])
    def restart_by_force(self, request: HttpRequest, rows: QuerySet) -> None:
        self._start(partial(lifecycle.restart, force=True), request, rows)

    def _start(self, verb: Callable[..., OperationView], request: HttpRequest, rows: QuerySet) -> None:
        starts = [partial(verb, row.node.name, row.index, **origin(request)) for row in rows]
        start_each(self, request, starts)

    @admin.display(description="memory", ordering="memory_used_mb")
    def memory(self, device: Device) -> SafeString:
        return memory_bar(device.memory_used_mb, device.usable_mb)
