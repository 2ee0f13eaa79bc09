from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from fleet.admin.base import age
from fleet.models import JoinToken
from fleet.permissions import asker
from fleet.services import joining


@admin.register(JoinToken)
class JoinTokenAdmin(admin.ModelAdmin):
    first_step = "Make a token here, and start a neuron with it: it adds itself under Nodes."
    list_display = ("__str__", "prefix", "state", "expires_at", "made_by", "last_used")
    list_filter = ("revoked",)
    search_fields = ("name", "prefix", "made_by")
    fields = ("name", "expires_at")
    actions = ("revoke",)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"expires_at": joining.expiry()}

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return obj is None and bool(super().has_change_permission(request))

    @admin.display(description="last used", ordering="last_used_at")
    def last_used(self, row: JoinToken) -> str:
        return f"{age(row.last_used_at)} ago" if row.last_used_at else "never"

    @admin.action(description="Revoke: admit no more neurons", permissions=["delete"])
    def revoke(self, request: HttpRequest, rows: Any) -> None:
        for row in rows:
            joining.revoke(row.pk, requested_by=asker(request))
        self.message_user(request, "Revoked. Nodes that have joined stay until they are deleted.")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.made_by = asker(request)
        obj.secret = joining.issue(obj)  # not a column: for `response_add` alone

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The one page that shows the token; neither session nor cache keeps it."""
        context = {**self.admin_site.each_context(request), "title": "Join token made", "token": obj}
        return TemplateResponse(request, "admin/fleet/jointoken/created.html", context)
