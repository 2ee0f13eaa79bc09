from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from fleet.admin.base import ConfiguredAdmin
from fleet.models import ApiKey
from fleet.services import keys


@admin.register(ApiKey)
class ApiKeyAdmin(ConfiguredAdmin):
    list_display = ("name", "prefix", "models", "disabled", "expires_at", "created_at")
    list_filter = ("disabled",)
    search_fields = ("name", "prefix")
    readonly_fields = ("prefix", "created_at")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
        else:
            obj.secret = keys.issue(obj)  # on this object only, for the page below

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The one page that shows the key; nothing stores it: no message in the session, no cache."""
        context = {**self.admin_site.each_context(request), "title": "API key made", "key": obj}
        return TemplateResponse(request, "admin/fleet/apikey/created.html", context)
