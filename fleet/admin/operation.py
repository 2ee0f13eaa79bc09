from __future__ import annotations

from functools import partial

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from fleet.admin.base import Operates, ReadOnlyAdmin, age, start_each
from fleet.models import Operation
from fleet.permissions import asker
from fleet.services import lifecycle


@admin.register(Operation)
class OperationAdmin(Operates, ReadOnlyAdmin):
    first_step = "Nothing has been loaded or unloaded yet. Load a model under Models."
    list_display = ("id", "kind", "model", "node", "state", "bar", "message", "requested_by", "age", "took")
    list_filter = ("state", "kind", "node")
    search_fields = ("model", "node", "message", "requested_by")
    date_hierarchy = "created_at"
    list_per_page = 50
    show_full_result_count = False
    actions = ("retry", "cancel")
    exclude = ("explanation", "lease", "progress", "traceparent")
    readonly_fields = ("explained", "bar")

    @admin.display(description="progress")
    def bar(self, operation: Operation) -> str | SafeString:
        if operation.progress is None or not operation.is_active:
            return ""
        return format_html('<progress max="1" value="{}"></progress>', operation.progress)

    @admin.display(description="asked", ordering="created_at")
    def age(self, operation: Operation) -> str:
        return f"{age(operation.created_at)} ago"

    @admin.display(description="took")
    def took(self, operation: Operation) -> str:
        if not operation.started_at or not operation.finished_at:
            return "–"
        return f"{(operation.finished_at - operation.started_at).total_seconds():.1f} s"

    @admin.display(description="why there")
    def explained(self, operation: Operation) -> SafeString:
        rows = [(entry["node"], entry["outlook"], entry["message"]) for entry in operation.explanation]
        return format_html_join("", "<div><strong>{}</strong>: {}, {}</div>", rows)

    @admin.action(description="Retry selected failed operations", permissions=["operate"])
    def retry(self, request: HttpRequest, rows: QuerySet) -> None:
        starts = [partial(lifecycle.retry, row.pk, requested_by=asker(request)) for row in rows]
        start_each(self, request, starts)

    @admin.action(description="Cancel selected pending operations", permissions=["operate"])
    def cancel(self, request: HttpRequest, rows: QuerySet) -> None:
        starts = [partial(lifecycle.cancel, row.pk, requested_by=asker(request)) for row in rows]
        start_each(self, request, starts)
