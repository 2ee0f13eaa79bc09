from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from fleet.admin.base import ConfiguredAdmin, age
from fleet.models import ApiKey
from fleet.services import keys

LIMITS = (
    ("requests_per_minute", "tokens_per_minute"),
    "concurrent_requests",
    ("budget_tokens", "budget_period"),
)


@admin.register(ApiKey)
class ApiKeyAdmin(ConfiguredAdmin):
    first_step = (
        "There are no keys yet, and the gateway serves only this machine's user. Make one for each client."
    )
    list_display = ("name", "prefix", "state", "usage", "last_used", "models", "expires_at")
    list_filter = ("disabled",)
    search_fields = ("name", "prefix")
    readonly_fields = ("prefix", "usage", "created_at", "last_used")
    actions = ("disable", "enable")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        rights = (None, {"fields": ("name", "models", "priority", ("expires_at", "disabled"))})
        limits = ("Limits", {"fields": LIMITS, "description": "An empty field is no limit."})
        use = ("Use", {"fields": ("prefix", "usage", "last_used", "created_at")})
        if obj is None:
            return (rights, limits)
        return (rights, limits, use)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist = super().get_changelist_instance(request)
        usage = keys.usage(changelist.result_list)
        for row in changelist.result_list:
            row.usage_text = usage.get(row.digest)
        return changelist

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        if key.disabled:
            return "disabled"
        return "expired" if key.expires_at and key.expires_at <= timezone.now() else "active"

    @admin.display(description="in use now")
    def usage(self, key: ApiKey) -> str:
        if not key.limits:
            return "no limits"
        if not hasattr(key, "usage_text"):  # the page of a single key
            key.usage_text = keys.usage([key]).get(key.digest)
        return key.usage_text or "not known: Redis does not answer"

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, key: ApiKey) -> str:
        return f"{age(key.last_used_at)} ago" if key.last_used_at else "never"

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, rows: Any) -> None:
        self._switch(request, rows, disabled=True)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, rows: Any) -> None:
        self._switch(request, rows, disabled=False)

    def _switch(self, request: HttpRequest, rows: Any, *, disabled: bool) -> None:
        for row in rows:
            row.disabled = disabled
            row.save(update_fields=["disabled"])
        what = "disabled" if disabled else "enabled"
        self.message_user(request, f"{len(rows)} {what}; every gateway knows within seconds.")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            obj.secret = keys.issue(obj)  # not a column: for `response_add` alone

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The one page that shows the key; neither session nor cache keeps it."""
        context = {**self.admin_site.each_context(request), "title": "API key made", "key": obj}
        return TemplateResponse(request, "admin/fleet/apikey/created.html", context)
