"""Paging and filters for tables with millions of rows: nothing here looks at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.http import urlencode

REACH = 5_000  # rows that can be paged through before "older" moves on by key
WINDOWS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


class BoundedPaginator(Paginator):
    """Counts no further than `REACH`."""

    @cached_property
    def count(self) -> int:
        return int(self.object_list.values("pk")[:REACH].count())


class BigTableAdmin(admin.ModelAdmin):
    """Newest first along the index of `age_field`; behind the last page a link goes on from its key."""

    age_field = "started_at"
    paginator = BoundedPaginator
    list_per_page = 50
    list_max_show_all = 200
    show_full_result_count = False
    change_list_template = "admin/fleet/older.html"

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and (page := (response.context_data or {}).get("cl")):
            response.context_data["older"] = self._older(request, page)
        return response

    def _older(self, request: HttpRequest, page: Any) -> str:
        """The query string behind the last page; empty where all that matches can be paged through."""
        if page.paginator.count < REACH:
            return ""
        last = page.queryset.values_list(self.age_field, flat=True)[REACH - 1]
        asked = {key: value for key, value in request.GET.items() if key != "p"}
        return "?" + str(urlencode(asked | {f"{self.age_field}__lt": last.isoformat()}))


class WindowFilter(admin.SimpleListFilter):
    """How far back. Instead of `date_hierarchy`, which reads every date."""

    title = "time"
    parameter_name = "since"
    field = "started_at"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(name, f"Past {name}") for name in WINDOWS]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        window = WINDOWS.get(self.value() or "")
        return queryset.filter(**{f"{self.field}__gte": timezone.now() - window}) if window else queryset


def known_values(field: str, values: Callable[[], Iterable[str]]) -> type[admin.SimpleListFilter]:
    """A filter on `field` that offers what another, small table knows, not what this one contains."""

    class KnownValuesFilter(admin.SimpleListFilter):
        title = field
        parameter_name = field

        def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
            return [(value, value) for value in sorted(set(values()))]

        def has_output(self) -> bool:
            return True

        def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
            return queryset.filter(**{field: self.value()}) if self.value() else queryset

    return KnownValuesFilter
