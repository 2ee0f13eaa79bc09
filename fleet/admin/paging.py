"""Paging and filters for tables with millions of rows, none of which reads them all."""

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

REACH = 5_000  # rows in numbered pages; the link "older" goes on from the last one's key
WINDOWS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}


class MoreThan(int):
    """A number of rows that there are, and more, as pages write it."""

    def __str__(self) -> str:
        return f"more than {int(self):,}"


class BoundedPaginator(Paginator):
    """A paginator that counts one row more than `REACH`, and has pages for these."""

    @cached_property
    def count(self) -> int:
        found = int(self.object_list.values("pk")[: REACH + 1].count())
        return MoreThan(REACH) if found > REACH else found


class BigTableAdmin(admin.ModelAdmin):
    """A page that lists rows along the index of `age_field`, and links from its last page to older ones."""

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
        """The query string of the rows after the last page; empty if there are none."""
        if not isinstance(page.paginator.count, MoreThan):
            return ""
        last = page.queryset.values_list(self.age_field, flat=True)[REACH - 1]
        asked = {key: value for key, value in request.GET.items() if key != "p"}
        return "?" + str(urlencode(asked | {f"{self.age_field}__lt": last.isoformat()}))


class WindowFilter(admin.SimpleListFilter):
    """A filter by age, in place of `date_hierarchy`, which reads every row's date."""

    title = "time"
    parameter_name = "since"
    field = "started_at"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
        return [(name, f"Past {name}") for name in WINDOWS]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        window = WINDOWS.get(self.value() or "")
        if window is None:
            return queryset
        return queryset.filter(**{f"{self.field}__gte": timezone.now() - window})


def known_values(field: str, values: Callable[[], Iterable[str]]) -> type[admin.SimpleListFilter]:
    """A filter on `field` that offers the values of another, small table instead of reading this one's."""

    class KnownValuesFilter(admin.SimpleListFilter):
        title = field
        parameter_name = field

        def lookups(self, request: HttpRequest, model_admin: Any) -> Iterable[tuple[str, str]]:
            return [(value, value) for value in sorted(set(values()))]

        def has_output(self) -> bool:
            return True

        def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
            if not self.value():
                return queryset
            return queryset.filter(**{field: self.value()})

    return KnownValuesFilter
