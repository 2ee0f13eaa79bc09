from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet, Sum
from django.http import HttpRequest
from django.template.response import TemplateResponse

from fleet.admin.base import ReadOnlyAdmin, seconds
from fleet.admin.metric import BY_KEY, BY_MODEL, BY_NODE
from fleet.admin.paging import BigTableAdmin, WindowFilter
from fleet.models import UsageDay, UsageRollup

SHOWN = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")


class HourFilter(WindowFilter):
    field = "hour"


@admin.register(UsageRollup)
class UsageRollupAdmin(ReadOnlyAdmin, BigTableAdmin):
    """The hours that match, below their sums."""

    first_step = "Usage is summed every five minutes: send a request, and look again."
    age_field = "hour"
    change_list_template = "admin/fleet/usagerollup/change_list.html"
    list_display = ("hour", "model", "node", "key", "dialect", *SHOWN, "cold", "ttft", "latency")
    list_filter = (HourFilter, BY_MODEL, BY_NODE, BY_KEY)
    search_fields = ("model__startswith", "key__startswith")
    sortable_by = ("hour",)

    @admin.display(description="mean first token")
    def ttft(self, row: UsageRollup) -> str:
        return _mean(row.ttft_s, row.timed)

    @admin.display(description="mean latency")
    def latency(self, row: UsageRollup) -> str:
        return _mean(row.latency_s, row.requests)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and (page := (response.context_data or {}).get("cl")):
            sums = self._summed(request, page).aggregate(**{f"sum_{name}": Sum(name) for name in SHOWN})
            labels = {name: name.replace("_", " ") for name in SHOWN}
            response.context_data["sums"] = [(labels[n], sums[f"sum_{n}"] or 0) for n in SHOWN]
        return response

    def _summed(self, request: HttpRequest, page: Any) -> QuerySet:
        """Return rows with the sums of what is listed: days, which are fewer, where no time is asked for."""
        if any(name.startswith((self.age_field, HourFilter.parameter_name)) for name in request.GET):
            return page.queryset.order_by()
        days = UsageDay.objects.order_by()
        for chosen in page.filter_specs:
            days = chosen.queryset(request, days)
        return self.get_search_results(request, days, page.query)[0]


def _mean(total_s: float, count: int) -> str:
    if not count:
        return seconds(None)
    return seconds(total_s / count)
