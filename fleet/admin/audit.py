from __future__ import annotations

from django.contrib import admin

from fleet.admin.base import ReadOnlyAdmin
from fleet.admin.paging import BigTableAdmin, WindowFilter
from fleet.models import AuditEntry


class Past(WindowFilter):
    field = "at"


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin, BigTableAdmin):
    first_step = "Nobody has changed or started anything yet."
    age_field = "at"
    list_display = ("at", "who", "action", "target", "why", "detail")
    list_filter = (Past,)
    search_fields = ("who__exact", "action__exact", "target__exact")
    search_help_text = "Who, an action (load, drain, pin …), or a target"
    sortable_by = ("at",)
